"""What is drawn: ticks, steps, names at points; and captions that say no more than that."""

import contextlib
import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
from evaluation_folders import samples_of, write_evaluation, write_round, write_rounds
from matplotlib.transforms import Bbox
from run_folders import AFTER, BEFORE, rows_of, training_line, write_lines, write_rows

from megaprune.report import charts, curves, diagnostics, trade_off, write_report
from megaprune.report.charts import AccuracyLine
from megaprune.report.figures import PERCENT, TOKENS, new_figure, step_axis
from megaprune.report.labels import strikes
from megaprune.report.page import cut_off_at, longer_or_shorter
from megaprune.report.run_records import AnswerTable, read_run
from megaprune.report.summary import Estimate, describe
from megaprune.report.trade_off import TradeOffPoint


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are made, as they are when they become files."""
    figures = []

    @contextlib.contextmanager
    def kept(*arguments, **named):
        with new_figure(*arguments, **named) as (figure, axes):
            figures.append(figure)
            yield figure, axes

    for module in (charts, curves, diagnostics, trade_off):
        monkeypatch.setattr(module, "new_figure", kept)
    return figures


def alts(page):
    return dict(
        re.findall(r'<figure id="([\w-]+)"><img src="[^"]+" alt="([^"]+)"', page.read_text())
    )


def number_in(label):
    return float(re.sub("[ %,]", "", label.replace("\u2212", "-")))


# Ticks.


@pytest.mark.parametrize(
    ("formatter", "values", "labels"),
    [
        (TOKENS, [58.8, 59.0, 59.2, 59.4], ["58.8", "59.0", "59.2", "59.4"]),  # not 59 59 59 59
        (TOKENS, [58.5, 59.0, 59.5, 60.0], ["58.5", "59.0", "59.5", "60.0"]),  # not 58 59 60 60
        (TOKENS, [0, 2.5, 5, 7.5], ["0.0", "2.5", "5.0", "7.5"]),  # not 0 2 5 8
        (TOKENS, [0, 2000, 4000], ["0", "2,000", "4,000"]),
        (TOKENS, [512], ["512"]),
        (PERCENT, [0.9994, 0.9996, 0.9998], ["99.94 %", "99.96 %", "99.98 %"]),  # not 99.9 100 100
        (PERCENT, [0.2, 0.4], ["20 %", "40 %"]),
        (TOKENS, [-0.5, 0.0, 0.5], ["\u22120.5", "0.0", "0.5"]),
    ],
)
def test_ticks_are_told_apart(formatter, values, labels):
    assert formatter.format_ticks(values) == labels


@pytest.mark.parametrize("middle", [59.4, 0.97, 3271.3])
@pytest.mark.parametrize("width", [1e-3, 1.7, 40])
@pytest.mark.parametrize("formatter", [TOKENS, PERCENT])
def test_no_two_ticks_of_an_axis_have_one_label(middle, width, formatter):
    with new_figure((4, 3)) as (figure, axes):
        axes.plot([0, 1], [middle - width / 2, middle + width / 2])
        axes.yaxis.set_major_formatter(formatter)
        figure.draw_without_rendering()
        labels = [label.get_text() for label in axes.get_yticklabels()]
    assert len({*labels}) == len(labels) > 2
    assert np.ptp(np.diff([number_in(label) for label in labels])) < 1e-6 * middle


@pytest.mark.parametrize("steps", [[1], [7], [0, 1], [1, 2, 3], [*range(1, 200)]])
def test_steps_are_whole_numbers(steps):
    """An axis around a single step would have ticks as 0.96, 0.98, 1.00."""
    with new_figure((4, 3)) as (figure, axes):
        axes.plot(steps, steps, marker="o")
        step_axis(axes, steps)
        figure.draw_without_rendering()
        low, high = axes.get_xlim()
        shown = [t for t in axes.get_xticks() if low <= t <= high]
    assert all(float(tick).is_integer() for tick in shown)
    assert {*steps} & {*map(int, shown)}
    assert low < min(steps)
    assert max(steps) < high


def test_a_run_of_one_step(run, drawn):
    """Everything that the legends name is there, and can be seen."""
    for folder in ("validation", "samples"):
        for path in (run / folder).glob("*.parquet"):
            path.unlink()
    write_rows(run / "samples/step_000001.parquet", rows_of(1, BEFORE))
    write_lines(run / "metrics.jsonl", [training_line(1)])
    page = write_report(run)
    for figure in drawn:
        for axes in figure.axes:
            if axes.get_xlabel() == "optimizer step":
                assert axes.get_xlim() == (0, 2)
                (low, high), limits = axes.get_ylim(), axes.dataLim
                assert low <= limits.y0
                assert limits.y1 < high or axes.patches  # a point at the edge is hard to see
    (length,) = [f for f in drawn if f.axes[0].get_ylabel() == "tokens per answer"]
    (band,) = [c for c in length.axes[0].collections if c.get_label().startswith("median")]
    assert np.ptp(band.get_segments()[0][:, 1]) == 450  # from 400 to 850
    text = page.read_text()
    assert "Before and after" not in text
    assert "before and after" not in text
    assert ">before:" not in text
    assert "<bdi>step 1</bdi>" in text


def test_a_band_without_a_width_is_not_named(run, drawn):
    """Half of the answers and more are cut off at the limit."""
    same = {"response_length/p50": 72, "response_length/p95": 72}
    write_lines(run / "metrics.jsonl", [training_line(step, **same) for step in range(1, 5)])
    write_report(run)
    (length,) = [f for f in drawn if f.axes[0].get_ylabel() == "tokens per answer"]
    names = [text.get_text() for text in length.legends[0].get_texts()]
    assert "training, mean" in names
    assert "median to 95th percentile" not in names


# Names at points.


def labels_of(figure):
    figure.draw_without_rendering()
    return [(text, text.get_window_extent()) for text in figure.axes[0].texts]


@pytest.mark.parametrize(
    "points",
    [
        [(500, 0.625, 150, 0.3), (300, 0.75, 80, 0.25), (260, 0.75, 75, 0.25)],
        [(3281, 0.702, 250, 0.05), (2578, 0.698, 200, 0.05), (2125, 0.699, 150, 0.05)],
        [(60 - i, 0.97 + 0.001 * (i % 3), 0.3, 0.004) for i in range(7)],
        [(100, 0.5, 0, 0)],
    ],
)
def test_no_line_strikes_a_name_and_none_hides_another(drawn, points):
    marks = [
        TradeOffPoint(
            f"step {10 * i}",
            Estimate(x, x - dx, x + dx),
            Estimate(y, y - dy, y + dy),
        )
        for i, (x, y, dx, dy) in enumerate(points)
    ]
    trade_off.draw_path("path", marks, "a validation")
    (figure,) = drawn
    labels = labels_of(figure)
    assert [text.get_text() for text, _ in labels] == [mark.name for mark in marks]
    to_display = figure.axes[0].transData.transform
    lines = [to_display(line) for line in trade_off._crosses(marks)]
    at = to_display([(x, y) for x, y, _, _ in points])
    lines += [np.array(pair) for pair in itertools.pairwise(at)]
    for (text, box), spot in zip(labels, at, strict=True):
        assert not any(strikes(line, box) for line in lines), text.get_text()
        assert not any(other.overlaps(box) for one, other in labels if one is not text)
        near = np.clip(spot, (box.x0, box.y0), (box.x1, box.y1))
        assert np.hypot(*(near - spot)) < 60 * figure.dpi / 72


@pytest.mark.parametrize(("rounds", "name"), [(2, "round 1: 800"), (9, "1")])
def test_no_border_strikes_a_round_s_name(tmp_path, drawn, rounds, name):
    limits = [800 - 10 * i for i in range(rounds)]
    listed = [
        write_round(tmp_path, i, limit, {0: rows_of(0, BEFORE), 4: rows_of(4, AFTER)}, chosen=4)
        for i, limit in enumerate(limits, start=1)
    ]
    write_rounds(tmp_path, limits, {"accuracy": 0.6, "length": 500.0}, listed, final=rounds)
    write_report(tmp_path)
    over_steps = [f for f in drawn if f.axes[0].get_xlabel() == "optimizer step"]
    assert len(over_steps) == 2
    for figure in over_steps:
        labels = labels_of(figure)
        assert (len(labels), labels[0][0].get_text()) == (rounds, name)
        for (_, box), border in zip(labels, range(4, 4 * rounds + 1, 4), strict=True):
            assert box.x1 <= figure.axes[0].transData.transform((border, 0))[0]


def test_a_line_strikes_a_box():
    box = Bbox.from_bounds(0, 0, 10, 10)
    for line, struck in (
        ([(-5, 5), (15, 5)], True),
        ([(-5, -5), (15, 15)], True),
        ([(4, 4), (6, 6)], True),
        ([(5, -5), (5, 4)], True),
        ([(-5, 11), (15, 11)], False),
        ([(-5, 5), (-1, 5)], False),
        ([(-4, 8), (2, 14)], False),
    ):
        assert strikes(np.array(line, dtype=float), box) == struck, line


def test_histograms_have_their_legend_above_them(drawn):
    """Within a panel it would hide bars, and the mean's line would strike it."""
    rng = np.random.default_rng(1)
    answers = AnswerTable(
        [("s", str(i)) for i in range(300)], rng.uniform(0, 900, 300), np.ones(300), np.zeros(300)
    )
    charts.draw_lengths("h", "Lengths", [(n, answers, Estimate(450, 440, 460)) for n in "ab"])
    (figure,) = drawn
    figure.draw_without_rendering()
    assert all(axes.get_legend() is None for axes in figure.axes)
    (legend,) = figure.legends
    assert all(not legend.get_window_extent().overlaps(axes.bbox) for axes in figure.axes)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["a: mean 450", "b: mean 450"]


# Captions.


def test_captions_of_budgets_and_early_exits():
    early = {200: Estimate(0.5, 0.4, 0.6), 400: Estimate(0.6, 0.5, 0.7)}
    both = charts.draw_budgets("b", [AccuracyLine("m", {200: 0.3, 400: 0.6}, marks=early)])
    assert both.title == "Accuracy within a budget and at early exits"
    only = charts.draw_budgets("b", [AccuracyLine("m", {}, marks=early)])
    assert only.title == "Accuracy at early exits"
    assert "budget" not in only.caption
    assert "none" not in only.caption
    none = charts.draw_budgets("b", [AccuracyLine("m", {200: 0.3, 400: 0.6})])
    assert none.title == "Accuracy within a budget"
    assert "early" not in none.caption


def test_captions_of_samples():
    lines = [AccuracyLine("m", {1: 0.5, 2: 0.6})]
    assert "maj@k" not in charts.draw_samples("s", lines).caption
    assert (
        "maj@k:" in charts.draw_samples("s", [replace(lines[0], dashed={1: 0.5, 2: 0.5})]).caption
    )


def test_captions_of_paths_and_models():
    at = TradeOffPoint("m", Estimate(300, 290, 310), Estimate(0.7, 0.6, 0.8))
    assert "Hollow" not in trade_off.draw_paths("p", {"a": [at]}).caption
    assert "Hollow" in trade_off.draw_paths("p", {"a": [at, at]}).caption
    assert "dashed" not in trade_off.draw_models("m", [at], None).caption
    near = replace(at, at_budget=[(299, 0.69)])
    caption = trade_off.draw_models("m", [near], None).caption
    assert "dashed" in caption
    assert "go on" not in caption
    far = replace(at, at_budget=[(20, 0.0), (299, 0.69)])
    assert "they go on to the left and below" in trade_off.draw_models("m", [far], None).caption
    # Answers shorter than every budget: the curve is the mark itself.
    same = replace(at, at_budget=[(300, 0.7), (300, 0.7)])
    assert "dashed" not in trade_off.draw_models("m", [same], None).caption


def test_training_and_validation_are_counted_alike_too(run, drawn):
    """Training takes what it cuts off at 400 tokens for wrong; validation lets it end."""
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("length: 1000", "length: 400"))
    caption = alts(write_report(run))["accuracy"]
    assert "There, answers are cut off at 400 tokens, and count as wrong." in caption
    # Before, of a to d: 0 of 2, 1 of 2, 0 of 2, 2 of 2 within 400 tokens; after all but a1, d.
    assert "that went from 37.5\u00a0% at step 0 to 62.5\u00a0% at step 4" in caption
    (accuracy,) = [f for f in drawn if f.axes[0].get_ylabel() == "share right, mean reward"]
    (line,) = [
        one
        for one in accuracy.axes[0].lines
        if one.get_label() == "validation, within the training limit"
    ]
    assert [*line.get_ydata()] == [0.375, 0.625]


def test_nothing_is_said_of_a_training_limit_that_changes_nothing(run):
    assert "Hollow" not in alts(write_report(run))["accuracy"]


def test_accuracy_within_a_limit():
    answers = AnswerTable(
        [("s", "a"), ("s", "a"), ("s", "b")], np.array([100, 101, 50.0]), np.ones(3), np.zeros(3)
    )
    assert describe(0, answers).within is None
    assert describe(0, answers, 100).within == 0.75
    assert describe(0, answers, 101).within == 1
    assert describe(0, answers, 49).within == 0


# Words.


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (-0.4, "40.0\u00a0% shorter"),
        (0.1, "10.0\u00a0% longer"),
        (0.0, "as long as before"),
        (0.0004, "as long as before"),  # not 0.0 % longer
        (-0.0004, "as long as before"),
        (float("nan"), "as long as before"),
        (float("inf"), "longer"),
    ],
)
def test_longer_or_shorter(change, words):
    assert longer_or_shorter(change) == words


def test_pages_of_what_has_not_changed(run, tmp_path):
    for step in (0, 4):
        write_rows(run / f"validation/step_{step:06}.parquet", rows_of(step, AFTER))
    text = write_report(run).read_text()
    assert "Answers are as long as before: 300 → 300 tokens." in text
    assert "0.0\u00a0% longer" not in text
    assert ">+0.0" not in text
    one = write_evaluation(tmp_path / "one", samples_of("sums", AFTER))
    two = write_evaluation(tmp_path / "two", samples_of("sums", AFTER))
    page = write_report(one, two, baseline=one, out=tmp_path / "out").read_text()
    assert "two: answers are as long as those of one, accuracy 0.0\u00a0points." in page


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ([], "Answers cut off"),
        ([None], "Answers cut off"),
        ([16000, None, 16000], "Answers cut off at 16,000 tokens"),
        ([800, 400], "Answers cut off at 800 and 400 tokens"),
    ],
)
def test_it_is_said_at_which_limit(limits, words):
    assert cut_off_at(limits) == words


def test_the_limit_is_that_of_the_answers_that_are_counted(run):
    """Of validation, not of training; from the answers where the configuration does not say it."""
    page = write_report(run).read_text()
    assert "Answers cut off at 1,000 tokens</dt>" in page  # answer c0 was
    with open(run / "config.yaml", "a") as file:
        file.write("validation:\n  max_response_length: 4000\n")
    page = write_report(run).read_text()
    assert "Answers cut off at 4,000 tokens</dt>" in page
    assert "<b>Training answers cut off at 1,000 tokens.</b>" in page
    (run / "config.yaml").write_text("rollout:\n  max_response_length: 500\n")
    write_rows(run / "validation/step_000000.parquet", rows_of(0, BEFORE))
    page = write_report(run).read_text()
    assert "Answers cut off</dt>" in page  # none was: nothing tells at how many tokens
    assert read_run(run).validation_limit is None
