"""Every reward trains with real engines; one that remembers goes on with what it remembered.

A few of them are tried; with MEGAPRUNE_REWARDS=all every one.
"""

import importlib.util
import json
import math
import os

import pyarrow.parquet as pq
import pytest

from launch import launch
from megaprune.algorithms.registry import components
from megaprune.recipes.tiny import FOLDER

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
    pytest.mark.timeout(3600),
]

FIELDS = [
    "recipe=tiny_overthinker", "steps=5", "data.train_batch_size=4", "rollout.n=4",
    "rollout.max_response_length=64", "rollout.max_num_seqs=16", "data.validation=null",
    "validation.every=0", "checkpoint.every=9", "checkpoint.wait=true",
    "optimizer.lr=1e-5",  # the runs share one model, which is to stay nearly what it was
]  # fmt: skip
OWN = {
    "soft_overlong": {"cache": 40},
    "step_bonus": {"by_difficulty": True, "retune_every": 2},
    "gate": {"min_pass_rate": 0.25},
    "outlier": {"threshold": 0.1},
    "repetition": {"n": 1},
}
"""Fields with which a few short responses are worth different amounts."""
REMEMBER = ("shortest_ever", "step_bonus", "log_bonus")
REFERRED = ("harmonize", "profile")
ALL = os.environ.get("MEGAPRUNE_REWARDS") == "all"
TRIED = sorted(components("reward")) if ALL else ("correct", "profile", "rechecks", *REMEMBER)
"""Beside those that remember: one that compares with a reference, and one that reads texts."""
TIMES = ("seconds/", "share/", "tokens_per_second", "sync/")


def first(name):
    """Those that others compare with or go on from come first."""
    return {"correct": 0, **dict.fromkeys(REMEMBER, 1)}.get(name, 2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Lines of steps by the run's name; all are made by one process, on the same engines."""
    root = tmp_path_factory.mktemp("rewards")
    problems = root / "problems.parquet"
    # Two steps see all of them, and what is remembered of a problem counts from the third on.
    pq.write_table(pq.read_table(FOLDER / "data" / "train.parquet").slice(0, 8), problems)
    asked = []
    for name in sorted(TRIED, key=first):
        fields = [*FIELDS, f"data.train={problems}", f"algorithm.reward.name={name}"]
        fields += [f"algorithm.reward.{key}={value}" for key, value in OWN.get(name, {}).items()]
        if name in REFERRED:
            fields.append(f"data.references={root / 'correct'}")
        asked.append({"name": name, "fields": fields, "steps": 2})
        if name in REMEMBER:
            fields.extend(("checkpoint.every=2", "checkpoint.keep_last=2"))
            asked[-1]["steps"] = 4
            asked.append({"name": f"{name}, resumed", "from": name, "fields": fields, "steps": 4})
    lines = {}
    for line in launch(1, "reward_worker.py", root, json.dumps(asked), seconds=3000):
        lines.setdefault(line["run"], []).append(line)
    return lines


@pytest.mark.parametrize("name", TRIED)
def test_two_steps_of_every_reward(runs, name):
    metrics = [line["metrics"] for line in runs[name][:2]]
    assert [line["step"] for line in runs[name][:2]] == [1, 2]
    assert all(math.isfinite(value) for line in metrics for value in line.values())
    assert max(line["grad_norm"] for line in metrics) > 0
    assert all(line["mismatch"] < 1e-5 for line in metrics)


@pytest.mark.parametrize("name", REMEMBER)
def test_a_memory_goes_on_as_if_nothing_had_been(runs, name):
    whole, resumed = runs[name][2:], runs[f"{name}, resumed"]
    assert [line["step"] for line in resumed] == [3, 4]
    for one, other in zip(whole, resumed, strict=True):
        assert other["memory"] == one["memory"]
        assert timeless(other["metrics"]) == timeless(one["metrics"])
    assert whole[0]["memory"] != runs[name][0]["memory"]  # there was something to remember


def timeless(metrics):
    """What was measured, without what is a matter of time."""
    return {key: value for key, value in metrics.items() if not key.startswith(TIMES)}
