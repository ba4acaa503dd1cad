"""Stored responses of anyone's making: learned from, or refused by file and row."""

from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mutations import ODD, draws

from megaprune.data import Problem
from megaprune.errors import InputError
from megaprune.schema import samples_schema
from megaprune.trainer.offline import read_rollouts

PROBLEMS = [Problem("sums/1", "sums", (), "What?", (1, 2), "2")]
ROW = {
    "step": 1, "problem": "sums/1", "data_source": "sums", "prompt": "What?", "number": 0,
    "response": "2", "gold": "2", "length": 2, "finish": "stop", "match": True, "why": "right",
    "detail": "", "policy_version": 0, "tokens": [5, 6], "log_probs": [-0.5, -0.25],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """(a table) -> the folder of a run that has it."""

    def made(table):
        (tmp_path / "samples").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "samples" / "step_000001.parquet")
        return tmp_path

    return made


def table(*rows):
    return pa.Table.from_pylist(list(rows), samples_schema())


def test_what_is_right(folder):
    _, rollouts = read_rollouts(folder(table(ROW, ROW | {"number": 1})), PROBLEMS, 2)
    assert [rollout.number for rollout in rollouts["sums/1"]] == [0, 1]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"number": None}, "column number: null"),
        ({"response": None}, "column response: null"),
        ({"finish": None}, "column finish: null"),
        ({"match": None}, "column match: null"),
        ({"why": None}, "column why: null"),
        ({"why": "because"}, "column why: 'because'"),
        ({"why": "\x1b[2J" * 100}, "column why: "),
        ({"tokens": None}, "column tokens: null"),
        ({"tokens": [], "log_probs": []}, "0 tokens and 0 log-probs"),
        ({"tokens": [5]}, "1 tokens and 2 log-probs"),
        ({"log_probs": [-0.5]}, "2 tokens and 1 log-probs"),
        ({"log_probs": [-0.5, None]}, "null among its tokens or log-probs"),
        ({"tokens": [5, None]}, "null among its tokens or log-probs"),
        ({"log_probs": None}, "have no log-probs"),
    ],
)
def test_a_row(folder, changed, words):
    with pytest.raises(InputError) as error:
        read_rollouts(folder(table(ROW | {"number": 9}, ROW | changed)), PROBLEMS, 1)
    assert words in str(error.value)
    assert "row 1" in str(error.value) or "log-probs; draw" in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("column", "array"),
    [
        ("number", pa.array(["0"])), ("number", pa.array([0.5])), ("problem", pa.array([1])),
        ("tokens", pa.array([["a", "b"]])), ("tokens", pa.array([[[5], [6]]])),
        ("log_probs", pa.array([["a", "b"]])), ("match", pa.array([1])), ("why", pa.array([[1]])),
        ("response", pa.array([b"\xff"])), ("exit_at", pa.array(["x"])), ("finish", pa.array([None])),
    ],
)  # fmt: skip
def test_a_column_of_another_type(folder, column, array):
    good = table(ROW)
    bad = good.set_column(good.schema.get_field_index(column), column, array)
    with pytest.raises(InputError, match=f"column {column}: of type .*; expected"):
        read_rollouts(folder(bad), PROBLEMS, 1)


@pytest.mark.parametrize("column", ["problem", "tokens", "prompt", "why"])
def test_a_column_that_is_missing(folder, column):
    with pytest.raises(InputError, match=f"lacks the columns .*{column}"):
        read_rollouts(folder(table(ROW).drop_columns([column])), PROBLEMS, 1)


def test_any_row_is_learned_from_or_refused(folder):
    outcomes = Counter()
    for rng in draws(200):
        row = dict(ROW)
        for name in rng.sample(sorted(row), rng.choice([1, 2, 4])):
            row[name] = rng.choice([*ODD, [1, 2], [0.5, -1.0], [None, 1]])
        try:
            made = table(row)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            continue  # no table of the program's has such a value
        try:
            read_rollouts(folder(made), PROBLEMS, 1)
        except InputError as error:
            outcomes["refused" if str(error) else "no words"] += 1
        else:
            outcomes["read"] += 1
    assert outcomes.keys() == {"read", "refused"}
