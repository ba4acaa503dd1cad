"""Numbers against sums done by hand, and intervals against an independent bootstrap."""

import random
import statistics

import pytest
from run_folders import (
    AFTER,
    BEFORE,
    CONFIG,
    CUT_BEFORE,
    row,
    rows_of,
    training_line,
    write_lines,
    write_rows,
)

from megaprune.report.run_records import read_run
from megaprune.report.summary import summarize


def test_the_change_by_hand(run):
    summary = summarize(read_run(run))
    change = summary.change
    assert summary.held_out
    assert (change.before.at, change.after.at) == (0, 4)
    assert (change.before.problems, change.before.answers) == (4, 8)
    assert change.before.tokens.value == 500
    assert change.after.tokens.value == 300
    assert change.tokens.value == pytest.approx(-0.4)
    assert change.before.accuracy.value == 0.625
    assert change.after.accuracy.value == 0.75
    assert change.accuracy.value == pytest.approx(0.125)
    assert change.before.cut_off.value == 0.25
    assert change.cut_off.value == pytest.approx(-0.25)
    assert summary.by_source == {}
    assert summary.notes == ()


def test_problems_weigh_alike_whatever_their_answers(run):
    write_rows(
        run / "validation/step_000000.parquet",
        rows_of(0, {("a", 0): (100, True), ("a", 1): (300, True), ("b", 0): (800, False)}),
    )
    before = summarize(read_run(run)).change.before
    assert before.tokens.value == 500
    assert before.accuracy.value == 0.5


def percentile(values, share):
    return statistics.quantiles(values, n=1000, method="inclusive")[round(share * 1000) - 1]


def bootstrap(pairs, statistic, draws=20_000):
    """The textbook's, in plain Python: draw problems, both ends of each together."""
    rng = random.Random(1)
    values = [statistic(rng.choices(pairs, k=len(pairs))) for _ in range(draws)]
    return percentile(values, 0.025), percentile(values, 0.975)


def test_intervals_agree_with_another_bootstrap(run):
    rng = random.Random(5)
    problems = [f"p{index:02}" for index in range(30)]
    before = {(name, 0): (rng.randint(200, 900), rng.random() < 0.6) for name in problems}
    after = {
        key: (length // 2 + rng.randint(0, 80), right or rng.random() < 0.3)
        for key, (length, right) in before.items()
    }
    write_rows(run / "validation/step_000000.parquet", rows_of(0, before))
    write_rows(run / "validation/step_000004.parquet", rows_of(4, after))
    change = summarize(read_run(run)).change
    pairs = [(before[key], after[key]) for key in before]

    def relative(drawn):
        return sum(new[0] for _, new in drawn) / sum(old[0] for old, _ in drawn) - 1

    def points(drawn):
        return statistics.fmean(new[1] - old[1] for old, new in drawn)

    low, high = bootstrap(pairs, relative)
    assert change.tokens.low == pytest.approx(low, abs=0.004)
    assert change.tokens.high == pytest.approx(high, abs=0.004)
    low, high = bootstrap(pairs, points)
    # Differences of 30 problems are multiples of 1/30.
    assert change.accuracy.low == pytest.approx(low, abs=0.034)
    assert change.accuracy.high == pytest.approx(high, abs=0.034)
    low, high = bootstrap(pairs, lambda drawn: statistics.fmean(old[0] for old, _ in drawn))
    assert change.before.tokens.low == pytest.approx(low, rel=0.02)
    assert change.before.tokens.high == pytest.approx(high, rel=0.02)


def test_pairs_leave_out_what_differs_between_problems(run):
    """Every answer is half as long, whatever its problem's length: that is certain."""
    before = {(f"p{index}", 0): (1000 * (index + 1), True) for index in range(20)}
    after = {key: (length // 2, right) for key, (length, right) in before.items()}
    write_rows(run / "validation/step_000000.parquet", rows_of(0, before))
    write_rows(run / "validation/step_000004.parquet", rows_of(4, after))
    change = summarize(read_run(run)).change
    assert (change.tokens.low, change.tokens.high) == pytest.approx((-0.5, -0.5))
    assert change.before.tokens.high - change.before.tokens.low > 3000


def test_the_same_run_gives_the_same_numbers(run):
    assert summarize(read_run(run)).change == summarize(read_run(run)).change


def test_only_shared_problems_are_compared(run):
    write_rows(
        run / "validation/step_000004.parquet",
        rows_of(4, {("a", 0): (400, True), ("e", 0): (9, True)}),
    )
    summary = summarize(read_run(run))
    assert summary.change.before.tokens.value == 800
    assert summary.change.after.tokens.value == 400
    assert summary.change.before.problems == summary.change.after.problems == 1
    assert "4 problems are in only one" in summary.notes[0]
    assert summary.outcomes[-1].problems == 2


def test_validations_of_different_problems_are_compared_as_such(run):
    write_rows(run / "validation/step_000004.parquet", rows_of(4, {("e", 0): (250, True)}))
    summary = summarize(read_run(run))
    assert summary.change.tokens.value == pytest.approx(-0.5)
    assert "no problem in common" in summary.notes[0]


def test_problems_of_one_name_in_two_sources_are_two(run):
    for step, factor in ((0, 2), (4, 1)):
        rows = [
            row(step, "p", 0, 100 * factor, True),
            row(step, "p", 0, 300, True, data_source="other"),
        ]
        write_rows(run / f"validation/step_{step:06}.parquet", rows)
    summary = summarize(read_run(run))
    assert summary.change.before.problems == 2
    changes = {source: change.tokens.value for source, change in summary.by_source.items()}
    assert changes == {"other": 0.0, "sums": -0.5}


def test_one_validation_is_a_before_only(run):
    (run / "validation/step_000004.parquet").unlink()
    summary = summarize(read_run(run))
    assert summary.change is None
    assert [outcome.tokens.value for outcome in summary.outcomes] == [500]


def test_without_validation_training_is_counted(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    write_lines(tmp_path / "metrics.jsonl", [training_line(1), training_line(2)])
    write_rows(tmp_path / "samples/step_000001.parquet", rows_of(1, BEFORE, CUT_BEFORE))
    write_rows(tmp_path / "samples/step_000002.parquet", rows_of(2, AFTER))
    summary = summarize(read_run(tmp_path))
    assert not summary.held_out
    assert summary.change.tokens.value == pytest.approx(-0.4)
    (tmp_path / "samples/step_000001.parquet").unlink()
    (tmp_path / "samples/step_000002.parquet").unlink()
    assert summarize(read_run(tmp_path)).outcomes == ()
