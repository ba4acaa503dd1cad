"""The page and the tables of a study, of folders with known numbers."""

import csv
import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from study_folders import START, write_harmonizing, write_listing, write_run, write_start

from megaprune.errors import InputError
from megaprune.evaluation.metrics import accuracy_at_budget
from megaprune.report import write_report
from megaprune.report.study_page import _gap
from megaprune.report.study_records import read_study

# Right: 1, 1, 0.5, mean 5/6; tokens 50, 100, 150, mean 100: half of the start's 200.
SHORT = {"a": ([40, 60], [1, 1]), "b": ([100, 100], [1, 1]), "c": ([100, 200], [1, 0])}
# Right: 1, 0, 0, mean 1/3; tokens mean 150.
WORSE = {"a": ([100, 100], [1, 1]), "b": ([150, 150], [0, 0]), "c": ([200, 200], [0, 0])}


@pytest.fixture
def study(tmp_path):
    folder = tmp_path / "study"
    write_listing(folder, [(v, s) for s in (0, 1) for v in ("short", "worse")])
    write_start(folder, START)
    for seed in (0, 1):
        write_run(folder, f"short_seed_{seed}", SHORT)
    write_run(folder, "worse_seed_0", WORSE)
    return folder


def variants(folder):
    record = read_study(folder)
    return record, {model.name: model for model in record.models}


def test_numbers_of_a_variant(study):
    record, by_name = variants(study)
    short = by_name["short"]
    assert record.missing == ("worse_seed_1",)
    assert [len(model.runs) for model in record.variants] == [2, 1]
    assert (short.accuracy.value, short.tokens.value) == pytest.approx((5 / 6, 100))
    assert short.change.value == pytest.approx(5 / 6 - 1 / 2)
    assert short.saved == pytest.approx(0.5)
    gain = (5 / 6) / 0.5 - 1
    assert short.means["aes_signed"] == pytest.approx(0.5 + 3 * gain)
    loss = 1 - (1 / 3) / 0.5
    assert by_name["worse"].means["aes_signed"] == pytest.approx(0.25 - 5 * loss)
    assert by_name["worse"].means["aes_absolute"] == pytest.approx(0.25 + 3 * loss)
    expected = 100 * 5 / 6 - 10 * np.log(100 / 10_000 + 1)
    assert short.means["ock_score"] == pytest.approx(expected)
    # Within 100 tokens: a 2 of 2, b 2 of 2, c 1 of 2. Within 400 all that are right.
    assert {at: share for at, (share, _) in short.at_budget.items()} == pytest.approx(
        {100: 5 / 6, 200: 5 / 6, 400: 5 / 6}
    )
    worse = by_name["worse"].at_budget
    assert worse[100] == pytest.approx((1 / 3, 100))


def test_the_gap_is_from_the_best_mean_of_any_model(study):
    record, by_name = variants(study)
    longest = max(n for m in record.models for r in m.runs for ns in r.measured.lengths for n in ns)

    def within(runs):
        """The mean over runs of the accuracy within 1, 2, ... tokens."""
        curves = [
            accuracy_at_budget(run.measured.right, run.measured.lengths, range(1, longest + 1))
            for run in runs
        ]
        return [np.mean([curve[at][0] for curve in curves]) for at in range(1, longest + 1)]

    own = {name: within(model.runs) for name, model in by_name.items()}
    best = [max(values) for values in zip(*own.values(), strict=True)]
    for name, model in by_name.items():
        expected = sum(best) - sum(own[name])
        assert model.means["efficiency_gap"] == pytest.approx(expected)
    assert by_name["worse"].means["efficiency_gap"] > 0


def test_the_front_is_of_those_that_no_other_beats(study):
    _, by_name = variants(study)
    assert [name for name, model in by_name.items() if model.on_front] == ["short"]
    write_run(study, "worse_seed_1", {name: ([10, 10], [0, 0]) for name in "abc"})
    # Now 80 tokens on average, fewer than any other.
    assert [n for n, model in variants(study)[1].items() if model.on_front] == ["short", "worse"]


def test_difficulty_is_that_of_the_start_model(study):
    record, by_name = variants(study)
    assert record.groups == {"easy": 1, "medium": 1, "hard": 1}
    assert not record.by_set
    assert by_name["short"].by_group == {
        "easy": (1.0, 50.0), "medium": (1.0, 100.0), "hard": (0.5, 100.0)
    }  # fmt: skip
    assert by_name["worse"].by_group["hard"] == (0.0, None)
    # Of "b" the right answer counts as hard, since the other one is wrong, and the wrong as easy.
    assert by_name["start"].by_group == {
        "easy": (pytest.approx(2 / 3), 100.0), "hard": (pytest.approx(1 / 3), 150.0)
    }  # fmt: skip


def test_several_sets_are_groups(tmp_path):
    folder = tmp_path / "study"
    write_listing(folder, [("short", 0)])
    write_run(folder, "short_seed_0", SHORT)
    path = folder / "runs" / "short_seed_0" / "validation" / "step_000002.parquet"
    table = pq.read_table(path)
    sets = ["one" if name == "a" else "two" for name in table["problem"].to_pylist()]
    place = table.schema.get_field_index("data_source")
    pq.write_table(table.set_column(place, "data_source", [sets]), path)
    record = read_study(folder)
    assert record.by_set
    assert record.groups == {"one": 1, "two": 2}
    assert record.variants[0].by_group == {"one": (1.0, 50.0), "two": (0.75, 100.0)}


def test_page_tables_and_summary(study):
    html = write_report(study).read_text()
    assert (
        "Best by AES is short: answers are 50.0\u00a0% shorter, accuracy +33.3\u00a0points" in html
    )
    assert "1 run not done and left out: worse_seed_1" in html
    assert "pigeonhole bootstrap" in html
    assert not re.search(r"\bnan\b|None|Estimate\(", re.sub(r"data:image[^\"]*", "", html))
    folder = study / "report"
    with (folder / "runs.csv").open(newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert [*rows] == ["start", "short_seed_0", "short_seed_1", "worse_seed_0"]
    assert float(rows["short_seed_1"]["accuracy"]) == pytest.approx(5 / 6)
    assert float(rows["short_seed_0"]["training_seconds"]) == 60
    assert float(rows["short_seed_0"]["training_tokens"]) == 1200
    assert float(rows["short_seed_0"]["reward/wiped"]) == pytest.approx(0.1)
    assert json.loads(rows["short_seed_0"]["fields"]) == {"algorithm.reward.name": "short"}
    table = pq.read_table(folder / "runs.parquet").to_pylist()
    assert [row["name"] for row in table] == [*rows]
    assert table[1]["accuracy"] == pytest.approx(5 / 6)
    assert table[0]["training_seconds"] is None
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["front"] == ["short"]
    assert summary["missing"] == ["worse_seed_1"]
    assert summary["models"]["short"]["seeds"] == [0, 1]
    assert summary["models"]["short"]["length_ratio"] == pytest.approx(0.5)


def test_a_study_that_has_only_begun(tmp_path):
    folder = tmp_path / "study"
    write_listing(folder, [("short", 0)])
    with pytest.raises(InputError, match="no run of this study is done"):
        read_study(folder)
    write_run(folder, "short_seed_0", SHORT)
    html = write_report(folder).read_text()
    assert "The start model is not measured yet" in html
    (folder / "study.json").write_text('{"runs": 3}')
    with pytest.raises(InputError, match="cannot be read as the runs of a study"):
        read_study(folder)


def test_a_harmonizing_is_measured_by_its_test(study):
    """As a run with the same answers is; its training is that of all rounds."""
    write_listing(study, [("short", 0), ("harmonized", 0)])
    write_harmonizing(study, "harmonized_seed_0", SHORT)
    record, by_name = variants(study)
    run, harmonized = (by_name[name].runs[0].numbers for name in ("short", "harmonized"))
    assert harmonized["accuracy"] == pytest.approx(5 / 6)
    assert {name for name in run if run[name] != harmonized[name]} == {
        "name", "variant", "steps", "training_seconds", "training_tokens", "validation_seconds",
    }  # fmt: skip
    for name in ("steps", "training_seconds", "training_tokens", "validation_seconds"):
        assert harmonized[name] == 2 * run[name], name
    assert record.limit == 400
    (study / "runs" / "harmonized_seed_0" / "after" / "summary.json").unlink()
    assert read_study(study).missing == ("harmonized_seed_0",)


def test_an_evaluation_can_be_a_variant(study):
    write_listing(study, [("short", 0), ("prompt", 0)])
    write_start(study / "runs", SHORT)
    (study / "runs" / "start").rename(study / "runs" / "prompt_seed_0")
    (study / "runs" / "prompt_seed_0" / "config.yaml").write_text("max_response_length: 400\n")
    record, by_name = variants(study)
    run, evaluation = (by_name[name].runs[0].numbers for name in ("short", "prompt"))
    assert (evaluation["accuracy"], evaluation["steps"]) == (run["accuracy"], 0)
    assert "prompt" in write_report(study).read_text()
    assert record.limit == 400


@pytest.mark.parametrize(("gap", "text"), [(-1.5e-16, "0"), (58.333, "58.3"), (-2.04, "\u22122")])
def test_a_gap_is_shown_without_its_rounding_error(gap, text):
    assert _gap(gap) == text
