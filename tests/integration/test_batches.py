"""Batches with a filter, drawn by real engines: the same on any number of them, and after a kill."""

import importlib.util
import json

import pyarrow.parquet as pq
import pytest

from launch import launch
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


REWARD = """
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Interrupted:
    asked: str

    def __call__(self, group):
        if not Path(self.asked).exists():
            Path(self.asked).touch()
            raise KeyboardInterrupt
        return group.correct.astype(np.float64)
"""
"""It is as if the user pressed Ctrl-C once, in the midst of a step."""


def drawn(out, step):
    """What a step drew, in its order, and what was learned of it."""
    path = out / schema.SAMPLES_FOLDER / schema.step_file(step)
    return [
        (row["problem"], row["number"], row["tokens"], row["advantage"], row["policy_version"])
        for row in pq.read_table(path).to_pylist()
    ]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The folders of runs by name: whole and in two parts, with and without what is carried over.

    One process makes them all, one after another.
    """
    root = tmp_path_factory.mktemp("batches")
    carried = "rollout.carry_over=true"
    (root / "reward.py").write_text(REWARD)
    interrupted = [
        *FIELDS, f"out={root}/interrupted", "steps=1", f"algorithm.reward.asked={root}/asked",
        f"algorithm.reward.name={root}/reward.py:Interrupted",
    ]  # fmt: skip
    lines = launch(
        1,
        "library_worker.py",
        json.dumps(
            [
                interrupted,
                interrupted,
                [*FIELDS, f"out={root}/alone"],
                [*FIELDS, f"out={root}/parts", "steps=2"],
                [*FIELDS, f"out={root}/parts"],
                [*FIELDS, f"out={root}/carried", carried],
                [*FIELDS, f"out={root}/carried_parts", carried, "steps=2"],
                [*FIELDS, f"out={root}/carried_parts", carried],
            ]
        ),
    )
    assert lines == [{"interrupted": interrupted}]
    return root


def test_a_process_goes_on_after_a_run_that_was_interrupted(folders):
    assert len(drawn(folders / "interrupted", 1)) >= 16


def test_groups_without_signal_are_passed_over(folders):
    for step in (1, 2, 3):
        groups: dict = {}
        for problem, _, _, advantage, _ in drawn(folders / "alone", step):
            groups.setdefault(problem, []).append(advantage)
        learned = [problem for problem, values in groups.items() if None not in values]
        assert len(learned) == 8
        assert all(any(groups[problem]) for problem in learned)
    lines = (folders / "alone" / schema.METRICS_FILE).read_text().splitlines()
    assert any(json.loads(line)["no_signal"] for line in lines)


def test_the_same_batches_on_two_engines(folders):
    out = folders / "two"
    launch(2, "library_worker.py", json.dumps([[*FIELDS, f"out={out}", "steps=1"]]))
    ours, theirs = drawn(out, 1), drawn(folders / "alone", 1)
    assert [row[:4] for row in ours] == [row[:4] for row in theirs]


@pytest.mark.parametrize(("whole", "parts"), [("alone", "parts"), ("carried", "carried_parts")])
def test_a_run_in_two_parts_draws_the_same(folders, whole, parts):
    for step in (1, 2, 3):
        assert drawn(folders / parts, step) == drawn(folders / whole, step)


def test_what_is_carried_over_was_drawn_by_the_policy_before(folders):
    versions = {(step, row[4]) for step in (1, 2, 3) for row in drawn(folders / "carried", step)}
    assert any(version < step - 1 for step, version in versions)
    plain = {(step, row[4]) for step in (1, 2, 3) for row in drawn(folders / "alone", step)}
    assert plain == {(1, 0), (2, 1), (3, 2)}
