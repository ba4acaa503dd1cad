"""The table of weights: from stored responses to what is learned from, by an independent sum."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from recorded import ROLLOUTS

from megaprune import schema
from megaprune.algorithms.sample_weights import ProblemResponses, SampleWeights
from megaprune.errors import InputError
from megaprune.harmonizing.table import choose, write_weights

K = 4
OURS = SampleWeights()
PAPER = SampleWeights.from_spec("o1_pruner_paper")


def rows_of(folder):
    return pq.read_table(folder / schema.WEIGHTS_FILE).to_pylist()


def write(folder, problems, method="o1_pruner", weights=OURS, n=K, rollouts=ROLLOUTS):
    return write_weights(folder, rollouts, problems, n, method, weights, 0)


def changed(tmp_path, **columns):
    """The recorded responses with other values in some columns."""
    (stored,) = (ROLLOUTS / "samples").glob("*.parquet")
    table = pq.read_table(stored)
    for name, value in columns.items():
        field = table.schema.field(name)
        values = pa.array([value] * table.num_rows, field.type)
        table = table.set_column(table.schema.get_field_index(name), field, values)
    (tmp_path / "own" / "samples").mkdir(parents=True)
    pq.write_table(table, tmp_path / "own" / "samples" / stored.name)
    return tmp_path / "own"


@pytest.mark.parametrize("end_token", [True, False])
def test_weights_are_those_of_the_formula(recorded, tmp_path, end_token):
    problems, rollouts = recorded
    weights = SampleWeights(
        lam=3, baseline="all", normalize="none", shortness="all", all_wrong="keep",
        end_token=end_token,
    )  # fmt: skip
    write(tmp_path, problems, weights=weights)
    rows = rows_of(tmp_path)
    assert [(r["problem"], r["number"]) for r in rows] == [
        (problem.name, number) for problem in problems for number in range(K)
    ]
    for place, problem in enumerate(problems):
        of = rollouts[problem.name]
        length = np.array([r.length - (not end_token and r.finished) for r in of], np.float64)
        right = np.array([r.verdict.match for r in of], np.float64)
        expected = length.mean() / length - 1 + 3 * (right - right.mean())
        here = rows[place * K : place * K + K]
        np.testing.assert_allclose([r["raw"] for r in here], expected, atol=1e-12)
        np.testing.assert_allclose([r["weight"] for r in here], expected.clip(-2, 4), atol=1e-12)
        assert [r["length"] for r in here] == length.tolist()
        assert [r["correct"] for r in here] == right.astype(bool).tolist()


def test_two_responses_of_each_problem_as_published(recorded, tmp_path):
    problems, _ = recorded
    statistics = write(tmp_path, problems, weights=PAPER)
    rows = rows_of(tmp_path)
    chosen = [row for row in rows if row["selected"]]
    assert len(chosen) == 2 * len(problems) == statistics["chosen"]
    assert [row["group"] for row in chosen] == list(range(len(chosen)))
    clipped = np.clip([row["raw"] for row in chosen], -2, 4)
    expected = (clipped - clipped.mean()) / clipped.std()
    np.testing.assert_allclose([row["weight"] for row in chosen], expected, atol=1e-12)
    assert {row["weight"] for row in rows if not row["selected"]} == {0.0}
    right = np.array([row["correct"] for row in chosen])
    assert statistics["right_unlikelier"] == pytest.approx(np.mean(expected[right] < 0))
    assert statistics["weight_deviation"] == pytest.approx(1)
    assert json.loads((tmp_path / schema.STATISTICS_FILE).read_text()) == statistics


def test_problems_that_nobody_solved_are_left_out(recorded, tmp_path):
    problems, rollouts = recorded
    write(tmp_path, problems)
    solved = {p.name for p in problems if any(r.verdict.match for r in rollouts[p.name])}
    assert {row["problem"] for row in rows_of(tmp_path) if row["selected"]} == solved


def test_the_shortest_right_responses_for_sft(recorded, tmp_path):
    problems, rollouts = recorded
    write(tmp_path, problems, "sft", SampleWeights(responses=2))
    rows = [row for row in rows_of(tmp_path) if row["selected"]]
    for problem in problems:
        right = sorted(r.length for r in rollouts[problem.name] if r.verdict.match)
        here = [row for row in rows if row["problem"] == problem.name]
        assert sorted(row["length"] for row in here) == right[:2]
        assert {row["weight"] for row in here} <= {1.0}


@pytest.mark.parametrize("method", ["dpo", "simpo"])
def test_pairs_are_a_group_each(recorded, tmp_path, method):
    problems, rollouts = recorded
    write(tmp_path, problems, method)
    rows = [row for row in rows_of(tmp_path) if row["selected"]]
    pairs = {}
    for row in rows:
        pairs.setdefault(row["group"], []).append(row)
    wanted = {
        problem.name: (min(right), max(right))
        for problem in problems
        if len(right := {r.length for r in rollouts[problem.name] if r.verdict.match}) > 1
    }
    assert wanted
    assert sorted(pairs) == list(range(len(wanted)))
    for pair in pairs.values():
        assert len(pair) == 2
        assert len({row["problem"] for row in pair}) == 1
        by_weight = {row["weight"]: row["length"] for row in pair}
        assert (by_weight[1.0], by_weight[-1.0]) == wanted[pair[0]["problem"]]


@pytest.mark.parametrize("weights", [PAPER, OURS])
def test_weights_that_are_all_equal_are_no_nan(weights):
    same = [ProblemResponses(np.ones(4, bool), np.full(4, 50)) for _ in range(3)]
    _, values = choose("o1_pruner", same, weights, 0)
    np.testing.assert_array_equal(np.concatenate(values), 0)


def test_fewer_responses_than_are_wanted_are_refused(recorded, tmp_path):
    problems, _ = recorded
    with pytest.raises(InputError, match=r"fewer than presample.n=5 responses, such as .* with 4"):
        write(tmp_path, problems, n=5)
    assert not (tmp_path / schema.WEIGHTS_FILE).exists()


@pytest.mark.parametrize(
    ("why", "words"),
    [
        ("thought not closed", "choose grading.thought for the model's family"),
        ("cut off", "raise presample.max_response_length"),
        ("no answer", "do the prompts ask for"),
    ],
)
def test_responses_that_all_fail_for_one_reason_are_refused(recorded, tmp_path, why, words):
    problems, _ = recorded
    with pytest.raises(InputError, match=words):
        write(tmp_path, problems, rollouts=changed(tmp_path, why=why, match=False))


def test_nothing_chosen_is_refused(recorded, tmp_path):
    problems, _ = recorded
    with pytest.raises(InputError, match="none of the responses .* is chosen by method=sft"):
        write(tmp_path, problems, "sft", rollouts=changed(tmp_path, why="wrong", match=False))


def test_the_same_table_again(recorded, tmp_path):
    problems, _ = recorded
    for name in ("a", "b"):
        write(tmp_path / name, problems, weights=PAPER)
    first, second = ((tmp_path / n / schema.WEIGHTS_FILE).read_bytes() for n in ("a", "b"))
    assert first == second
    shutil.rmtree(tmp_path / "a")


@pytest.mark.parametrize("method", ["o1_pruner", "sft", "dpo"])
def test_problems_of_a_difficulty_alone_are_learned_from(recorded, tmp_path, method):
    problems, rollouts = recorded
    easy = SampleWeights(difficulty="easy")
    write(tmp_path / "all", problems, method)
    write(tmp_path / "easy", problems, method, easy)
    accuracy = [np.mean([r.verdict.match for r in rollouts[p.name]]) for p in problems]
    order = sorted(range(len(problems)), key=accuracy.__getitem__)
    chosen = {problems[place].name for place in order[round(0.6 * len(order)) :]}
    both = zip(rows_of(tmp_path / "all"), rows_of(tmp_path / "easy"), strict=True)
    for everywhere, row in both:
        assert row["selected"] == (everywhere["selected"] and row["problem"] in chosen)


def test_a_difficulty_without_a_right_answer(recorded, tmp_path):
    problems, _ = recorded
    wrong = changed(tmp_path, match=False)
    with pytest.raises(InputError, match="is chosen by.*harmonize.difficulty=hard, harmonize.all_"):
        write(tmp_path / "out", problems, weights=SampleWeights(difficulty="hard"), rollouts=wrong)
