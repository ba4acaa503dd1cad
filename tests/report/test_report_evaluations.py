"""The page of evaluations: changes by hand, what is drawn, and what goes with what."""

import json
import re

import pyarrow.parquet as pq
import pytest
from evaluation_folders import (
    change_summary,
    sample,
    samples_of,
    write_evaluation,
    write_long_evaluations,
)
from run_folders import AFTER, BEFORE, text_of

from megaprune.cli import main as cli
from megaprune.errors import InputError
from megaprune.report import write_report
from megaprune.report.evaluation_records import read_comparison, read_evaluation

EARLY = {key: (min(length, 123), right) for key, (length, right) in BEFORE.items()}


@pytest.fixture
def base(tmp_path):
    rows = samples_of("sums", BEFORE) + samples_of("sums", EARLY, exit_at=200)
    return write_evaluation(tmp_path / "base", rows)


@pytest.fixture
def pruned(tmp_path, base):
    return write_evaluation(tmp_path / "pruned", samples_of("sums", AFTER))


def rows_of_table(page):
    table = re.search(r"<tbody>(.*?)</tbody>", page.read_text(), re.DOTALL)[1]
    rows = []
    for line in re.findall(r"<tr[^>]*>(.*?)</tr>", table):
        cells = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line)
        rows.append(
            [re.sub(r"<[^>]+>", " ", cell).replace("\u00a0", " ").strip() for cell in cells]
        )
    return rows


def test_the_gap_is_shown_where_a_frontier_was_given(tmp_path, base):
    assert "REG" not in text_of(write_report(base, out=tmp_path / "without"))
    rows = samples_of("sums", BEFORE)
    folder = write_evaluation(tmp_path / "gap", rows, frontier={1000: 1.0})
    measured = read_evaluation(folder).sets["sums"]
    # From 0 to 1 over 1,000 tokens, less the tokens at which each of 8 right samples counts.
    expected = 500.5 - sum(1001 - length for length, right in BEFORE.values() if right) / 8
    assert measured.efficiency_gap == pytest.approx(expected)
    text = text_of(write_report(folder, out=tmp_path / "with"))
    assert f"REG {expected:,.1f}" in text
    assert "the area between the best accuracy that is known" in text


def test_the_change_by_hand(base, pruned, tmp_path):
    """500 to 300 tokens saves 0.4; 62.5 to 75 % right is a fifth more: AES 0.4 + 3 x 0.2 = 1."""
    page = write_report(base, pruned, baseline=base, out=tmp_path / "out")
    text = text_of(page)
    assert "pruned: answers are 40.0 % shorter, accuracy +12.5 points." in text
    assert "compared with base" in text
    group, first, second = rows_of_table(page)
    assert group == ["sums"]
    assert first[0] == "base"
    assert first[1] == "4 8 samples"
    assert first[2].startswith("62.5 %")
    assert first[3].startswith("500 ")
    assert first[7:] == ["", "", ""]
    assert second[0] == "pruned"
    assert second[2].startswith("75.0 %")
    assert second[3].startswith("300 ")
    assert second[7].startswith("+12.5 points")
    assert second[8:] == ["−40.0 %", "+1.00 +1.00"]


def test_a_loss_counts_five_times_and_absolute_credits_it(base, pruned, tmp_path):
    """300 to 500 tokens: -2/3. 75 to 62.5 %: a sixth less. -2/3 - 5/6 = -1.5; -2/3 + 3/6 = -1/6."""
    page = write_report(base, pruned, baseline=pruned, out=tmp_path / "out")
    assert rows_of_table(page)[-1][7:] == [
        rows_of_table(page)[-1][7],
        "+66.7 %",
        "−1.50 −0.17",
    ]
    text = text_of(page)
    assert "base: answers are 66.7 % longer, accuracy −12.5 points." in text
    assert "less 5 times if it is a loss" in text
    assert "which credits losses" in text


def test_numbers_are_those_of_the_summary(base):
    said = json.loads((base / "summary.json").read_text())["sets"]["sums"]
    measured = read_evaluation(base).sets["sums"]
    assert measured.accuracy.value == said["accuracy"] == 0.625
    assert [measured.accuracy.low, measured.accuracy.high] == said["accuracy_interval"]
    assert [measured.tokens.low, measured.tokens.high] == said["length_interval"]
    # Cut at 400 tokens, 5 of 8 answers are right and short enough: a0 and a1 no longer, b0, d0, d1
    # still: of a, b, c, d a share of 0, 0.5, 0, 1.
    assert measured.at_budget[400] == (0.375, (400 + (300 + 400) / 2 + (400 + 200) / 2 + 200) / 4)
    assert measured.exit_at[200].value == 0.625


def test_an_older_evaluation_is_read_by_today_s_names(base, pruned, tmp_path):
    """`forced` and `budget` are `exit_at`: answers closed early are told apart all the same."""
    today = write_report(base, pruned, baseline=base, out=tmp_path / "today").read_text()
    change_summary(
        base, lambda s: s["sets"]["sums"].update(forced=s["sets"]["sums"].pop("exit_at"))
    )
    for path in base.glob("samples/*/*.parquet"):
        table = pq.read_table(path)
        names = ["budget" if name == "exit_at" else name for name in table.column_names]
        pq.write_table(table.rename_columns(names), path)
    assert read_evaluation(base).sets["sums"].exit_at[200].value == 0.625
    before = write_report(base, pruned, baseline=base, out=tmp_path / "before").read_text()
    assert before == today


def test_answers_that_were_closed_early_are_drawn_and_nowhere_else(base, pruned, tmp_path):
    page = write_report(base, pruned, baseline=base, out=tmp_path / "out").read_text()
    assert "early exits, where thoughts were closed after so many tokens" in page
    assert "base: 500 and 1,000" in page  # lengths without those of 123 tokens
    assert ", 123 tokens." not in page  # responses that are shown


def test_figures(base, pruned, tmp_path):
    page = write_report(base, pruned, baseline=base, out=tmp_path / "out").read_text()
    alts = dict(re.findall(r'<figure id="([\w-]+)"><img src="[^"]+" alt="([^"]+)"', page))
    names = {"trade_off", "histogram", "budgets", "samples"}
    assert alts.keys() == {f"1-sums_{name}" for name in names}
    assert {path.stem for path in (tmp_path / "out").glob("*.png")} == alts.keys()
    assert "base: 500 tokens and 62.5\u00a0% right" in alts["1-sums_trade_off"]
    assert "The baseline has a ring." in alts["1-sums_trade_off"]
    assert (
        "base 37.5\u00a0% within 400 tokens and 62.5\u00a0% within 1,000" in alts["1-sums_budgets"]
    )
    # Of a, b, c, d one of two is right in 3; what both say is right in a and d, one says in b.
    assert "base pass@2 75.0\u00a0% and maj@2 62.5\u00a0%" in alts["1-sums_samples"]


def test_accuracy_by_length(tmp_path):
    """With four answers to each problem or more."""
    answers = {
        ("a", 0): (10, True),
        ("a", 1): (40, False),
        ("a", 2): (20, True),
        ("a", 3): (30, True),
    }
    page = write_report(
        write_evaluation(tmp_path / "own", samples_of("sums", answers)), out=tmp_path / "out"
    )
    (text,) = re.findall(r'<figure id="1-sums_intervals"><img [^>]*alt="([^"]+)"', page.read_text())
    assert "own 100.0\u00a0%, 100.0\u00a0%, 100.0\u00a0%, 0.0\u00a0%." in text


def test_answers_side_by_side_are_of_one_problem_and_number(base, tmp_path):
    # Number 0 of a is missing: its first answer is number 1, which is another sample than base's.
    rows = [row for row in samples_of("sums", AFTER) if (row["problem"], row["number"]) != ("a", 0)]
    pruned = write_evaluation(tmp_path / "pruned", rows)
    page = write_report(base, pruned, baseline=base, out=tmp_path / "out").read_text()
    shown = re.findall(r"Sample (\d) about (\w), (\d+) tokens", page)
    # Shortened by b: 50, c: 850, d: -100 (and became wrong).
    assert shown == [
        ("0", "b", "300"), ("0", "b", "250"), ("0", "c", "1000"), ("0", "c", "150"),
        ("0", "d", "100"), ("0", "d", "200"),
    ]  # fmt: skip


def test_the_baseline_that_evaluations_name_is_taken(base, tmp_path):
    pruned = write_evaluation(tmp_path / "pruned", samples_of("sums", AFTER), baseline=base)
    found = read_comparison([pruned], None)
    assert [one.name for one in found.evaluations] == ["base", "pruned"]
    assert found.baseline is found.evaluations[0]
    assert found.notes == ()
    other = write_evaluation(tmp_path / "other", samples_of("sums", AFTER), baseline=pruned)
    found = read_comparison([pruned, other], None)
    assert found.baseline is None
    assert "different baselines" in found.notes[0]
    assert not any(m.against for one in found.evaluations for m in one.sets.values())
    assert read_comparison([pruned, other], base).evaluations[0].name == "base"


def test_a_baseline_that_is_gone(base, tmp_path):
    pruned = write_evaluation(tmp_path / "pruned", samples_of("sums", AFTER), baseline=base)
    base.rename(tmp_path / "elsewhere")
    page = write_report(pruned)
    assert page == pruned / "report/index.html"
    text = text_of(page)
    assert f"{base}, which the evaluations were compared with, is not to be found" in text
    assert "the changes are as they were recorded" in text
    assert "+1.00 +1.00" in rows_of_table(page)[-1]
    assert "75.0 % of them are right" in text


def test_one_alone(base):
    page = write_report(base)
    assert page == base / "report/index.html"
    text = text_of(page)
    assert "sums: answers have 500 tokens and 62.5 % of them are right." in text
    assert "AES" not in text
    assert "Median length: b" in text


def test_several_sets_and_their_mean(tmp_path):
    """The mean of the sets' scores: that of set one is 1 (above), nothing changed in set two."""
    paths = [
        write_evaluation(tmp_path / name, samples_of("one", one) + samples_of("two", BEFORE))
        for name, one in (("base", BEFORE), ("pruned", AFTER))
    ]
    page = write_report(*paths, baseline=paths[0], out=tmp_path / "out")
    rows = rows_of_table(page)
    assert [row[0] for row in rows if len(row) == 1] == [
        "one",
        "two",
        "Mean of the 2 sets that all have",
    ]
    assert rows[-1][1:5] == ["8 16 samples", "68.8 %", "400", "0.0 %"]
    assert rows[-1][7:] == ["+6.2 points", "−20.0 %", "+0.50 +0.50"]
    # OckScore: the mean of 75 - 10 ln(1.03) and 62.5 - 10 ln(1.05).
    assert rows[-1][6].split()[0] == "68.4"
    assert "pruned: answers are 20.0 % shorter, accuracy +6.2 points." in text_of(page)


def test_a_set_that_only_one_has(base, tmp_path):
    rows = samples_of("sums", AFTER) + samples_of("more", BEFORE)
    pruned = write_evaluation(tmp_path / "pruned", rows)
    page = write_report(base, pruned, baseline=base, out=tmp_path / "out")
    rows = rows_of_table(page)
    assert [row[0] for row in rows] == ["sums", "base", "pruned", "more", "pruned"]
    assert rows[-1][7:] == ["", "", ""]


def test_what_makes_a_comparison_unfair_is_told(base, tmp_path):
    rows = samples_of("sums", {key: AFTER[key] for key in AFTER if key[0] != "d"})
    rows += samples_of("sums", {("e", 0): (100, True)})
    pruned = write_evaluation(
        tmp_path / "pruned", rows, max_response_length=500, temperature=0.6, seed=3
    )
    text = text_of(write_report(base, pruned, baseline=base, out=tmp_path / "out"))
    assert "The evaluations differ in max_response_length: 1000 for base, 500 for pruned." in text
    assert "differ in temperature" not in text
    assert "differ in seed" not in text
    assert "pruned is compared on 3 of its 4 problems of sums" in text


def test_folders_of_one_name_are_told_apart(tmp_path):
    paths = [
        write_evaluation(tmp_path / part / "eval", samples_of("sums", BEFORE)) for part in "ab"
    ]
    assert [one.name for one in read_comparison(paths, None).evaluations] == ["a/eval", "b/eval"]


def test_what_nobody_could_do_is_drawn_as_well(tmp_path):
    """No answer right, one sample each, no score against such a baseline."""
    nothing = [
        sample("sums", name, 0, 500, False, finish="length", extracted=None) for name in "abc"
    ]
    paths = [write_evaluation(tmp_path / name, nothing, budgets=()) for name in ("one", "two")]
    page = write_report(*paths, baseline=paths[0], out=tmp_path / "out")
    assert rows_of_table(page)[-1][8:] == ["0.0 %", "–"]
    assert rows_of_table(page)[-1][4] == "100.0 %"
    assert not re.search(r"\bnan\b", text_of(page))
    assert 'id="1-sums_samples"' not in page.read_text()


def test_graders_that_failed_have_a_column(base, tmp_path):
    rows = samples_of("sums", AFTER)
    rows[0] |= {"match": False, "why": "timeout"}
    page = write_report(write_evaluation(tmp_path / "pruned", rows))
    assert "grading failed" in text_of(page)
    assert "grading failed" not in text_of(write_report(base))


def damage(name, what):
    def change(folder):
        path = folder / name
        if what is None:
            path.unlink()
        elif isinstance(what, str):
            path.write_text(what)
        else:
            change_summary(folder, what)

    return change


@pytest.mark.parametrize(
    ("damaged", "says"),
    [
        (damage("summary.json", None), r"summary\.json: no such file; `megaprune evaluate` writes"),
        (damage("summary.json", '{"model'), r"summary\.json: cannot be read as an evaluation's"),
        (damage("summary.json", "[1]"), r"summary\.json: cannot be read as an evaluation's"),
        (damage("summary.json", lambda said: said.pop("model")), "KeyError.'model'"),
        (damage("summary.json", lambda said: said.update(sets={})), "has no set"),
        (damage("summary.json", lambda s: s["sets"]["sums"].pop("accuracy_interval")), "interval"),
        (damage("summary.json", lambda s: s["sets"]["sums"].update(length="x")), "ValueError"),
        (damage("summary.json", lambda s: s["sets"]["sums"].update(exit_at=[])), "AttributeError"),
        (damage("samples/sums/part_1_000001.parquet", None), "has 4 answers, but .* is of 8"),
        (damage("samples/sums/part_1_000001.parquet", "torn"), r"part_1_000001\.parquet: cannot be"),
    ],
)  # fmt: skip
def test_half_written_folders_are_refused_by_name(pruned, capsys, damaged, says):
    damaged(pruned)
    with pytest.raises(InputError, match=says):
        write_report(pruned)
    assert cli.main(["report", str(pruned)]) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert not (pruned / "report").exists()


def test_the_same_evaluations_give_the_same_bytes(base, pruned, tmp_path):
    ones, others = (
        write_report(base, pruned, baseline=base, out=tmp_path / name).parent
        for name in ("one", "other")
    )
    assert [*ones.iterdir()]
    for path in ones.iterdir():
        assert path.read_bytes() == (others / path.name).read_bytes()


def test_many_models(tmp_path):
    paths = write_long_evaluations(tmp_path)
    page = write_report(*paths, out=tmp_path / "out")
    text = text_of(page)
    assert text.count("answers are") == 3
    assert len(re.findall("<figure", page.read_text())) == 10
    for name in ("round_1", "round_2", "hasty"):
        assert f"base and {name}" in text
