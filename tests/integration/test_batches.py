"""Batches with a filter, drawn by real engines: the same on any number of them, and after a kill."""

import importlib.util
import json

import pyarrow.parquet as pq
import pytest
from jobs import ran_well

from megaprune import schema

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
    pytest.mark.timeout(900),
]

FIELDS = [
    "recipe=tiny_overthinker", "steps=3", "data.train_batch_size=8", "rollout.n=2",
    "rollout.max_response_length=120", "validation.every=0", "checkpoint.every=1",
    "checkpoint.wait=true", "optimizer.lr=3e-4", "algorithm.filter.name=no_signal",
    "algorithm.filter.max_resample_rounds=3",
]  # fmt: skip


def drawn(out, step):
    """What a step drew, in its order, and what was learned of it."""
    path = out / schema.SAMPLES_FOLDER / schema.step_file(step)
    return [
        (row["problem"], row["number"], row["tokens"], row["advantage"], row["policy_version"])
        for row in pq.read_table(path).to_pylist()
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of a run with one engine."""
    out = tmp_path_factory.mktemp("alone") / "run"
    ran_well("train", *FIELDS, f"out={out}", "processes=1")
    return out


def test_groups_without_signal_are_passed_over(alone):
    for step in (1, 2, 3):
        groups: dict = {}
        for problem, _, _, advantage, _ in drawn(alone, step):
            groups.setdefault(problem, []).append(advantage)
        learned = [problem for problem, values in groups.items() if None not in values]
        assert len(learned) == 8
        assert all(any(groups[problem]) for problem in learned)
    lines = (alone / schema.METRICS_FILE).read_text().splitlines()
    assert any(json.loads(line)["no_signal"] for line in lines)


@pytest.mark.parametrize("engines", [2, 4])
def test_the_same_batches_on_any_number_of_engines(alone, tmp_path, engines):
    out = tmp_path / "run"
    ran_well("train", *FIELDS, f"out={out}", "steps=1", f"processes={engines}")
    ours, theirs = drawn(out, 1), drawn(alone, 1)
    assert [row[:3] for row in ours] == [row[:3] for row in theirs]
    assert [row[3] for row in ours] == [row[3] for row in theirs]


@pytest.mark.parametrize("carry_over", ["false", "true"])
def test_a_run_in_two_parts_draws_the_same(alone, tmp_path, carry_over):
    out = tmp_path / "run"
    fields = [*FIELDS, f"rollout.carry_over={carry_over}"]
    whole = alone
    if carry_over == "true":
        whole = tmp_path / "whole"
        ran_well("train", *fields, f"out={whole}", "processes=1")
        assert any(row[4] < step - 1 for step in (2, 3) for row in drawn(whole, step))
    ran_well("train", *fields, f"out={out}", "steps=2", "processes=1")
    ran_well("train", *fields, f"out={out}", "processes=1")
    for step in (1, 2, 3):
        assert drawn(out, step) == drawn(whole, step)
