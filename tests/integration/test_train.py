"""Whole runs: the same in every division, and whenever they are killed."""

import importlib.util
import json
import signal

import numpy as np
import pyarrow.parquet as pq
import pytest

from launch import Job, few_problems
from megaprune.schema import metric_of

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
    pytest.mark.timeout(900),
]

SMALL = [
    "recipe=tiny_overthinker", "steps=4", "data.train_batch_size=8", "rollout.n=4", "validation.every=2",
    "validation.n=1", "validation.max_response_length=24", "checkpoint.every=2", "checkpoint.wait=true",
    "optimizer.lr=3e-4", "rollout.max_response_length=120", f"data.validation={few_problems()}",
]  # fmt: skip
TIMES = ("seconds/", "share/", "tokens_per_second", "sync/", "validation/seconds")


def start(ranks, out, *fields, kill=None, seconds=300):
    """Run to the end; exit status, JSON lines, all output."""
    asked = {"fields": [*SMALL, f"out={out}", *fields]}
    if kill:
        asked["kill"] = kill
    job = Job("train_worker.py", json.dumps(asked), ranks=ranks, seconds=seconds)
    return job.wait(), job.json_lines(), job.output


def metrics(out):
    """What was measured in each line, without what is a matter of time."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith(TIMES)} for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that is never killed: its folder and its weights' hash."""
    out = tmp_path_factory.mktemp("whole") / "run"
    status, (end,), text = start(1, out)
    assert status == 0, text[-4000:]
    return out, end["hash"]


def test_a_whole_run(whole):
    out, _ = whole
    lines = metrics(out)
    assert [line["step"] for line in lines] == [0, 1, 2, 2, 3, 4, 4]
    losses = [line["grad_norm"] for line in lines if "reward" in line]
    assert all(norm > 0 for norm in losses)
    assert all(line["mismatch"] < 1e-5 for line in lines if "reward" in line)
    assert {name for line in lines for name in line if metric_of(name) is None} == {"step"}
    assert (out / "model" / "model.safetensors").is_file()
    assert (out / "report" / "index.html").is_file()
    assert len(list((out / "samples").glob("*.parquet"))) == 4


KILLS = [
    # phase, of which step, seconds after it began
    ("generate", 3, 0.3),
    ("grade", 3, 0.0),
    ("update", 3, 0.2),
    ("sync", 3, 0.0),
    ("log", 3, 0.0),
    ("validate", 4, 0.2),
    ("save", 4, 0.0),
]


def test_killed_in_every_phase(whole, tmp_path):
    """SIGKILL again and again; in the end the numbers of the run that never was."""
    out = tmp_path / "run"
    for number, (phase, step, after) in enumerate(KILLS):
        # Counted from where the run goes on.
        kill = {"phase": phase, "step": step - (2 if number else 0), "after": after, "rank": 0}
        status, lines, text = start(1, out, kill=kill)
        assert status != 0, phase
        assert not lines, phase
        assert signal.SIGKILL.name in text, phase
        assert ("goes on after step 2" in text) == (number > 0), phase
        checkpoints = {path.name for path in (out / "checkpoints").iterdir()}
        assert "iter_0000002" in checkpoints
        assert "iter_0000004" not in checkpoints
        saving = any(name.startswith(".iter_0000004.megaprune-") for name in checkpoints)
        assert saving == (phase == "save")
    status, (end,), text = start(1, out)
    assert status == 0, text[-4000:]
    reference, digest = whole
    assert end["hash"] == digest
    assert metrics(out) == metrics(reference)


def test_offload_changes_no_bit(whole, tmp_path):
    """A run whose weights and optimizer state leave, killed and gone on with, against one without."""
    out = tmp_path / "run"
    kill = {"phase": "update", "step": 3, "after": 0.2, "rank": 0}
    status, _, text = start(1, out, "actor.offload=all", kill=kill)
    assert status != 0
    status, (end,), text = start(1, out, "actor.offload=all")
    assert status == 0, text[-4000:]
    assert "goes on after step 2" in text
    reference, digest = whole
    assert end["hash"] == digest
    assert metrics(out) == metrics(reference)


def near(one, other, tolerance):
    assert [line.keys() for line in one] == [line.keys() for line in other]
    for a, b in zip(one, other, strict=True):
        for key, value in a.items():
            assert value == pytest.approx(b[key], rel=tolerance, abs=tolerance), (a["step"], key)


def test_goes_on_in_another_division(whole, tmp_path):
    """Killed at TP2, finished at PP2: the numbers of the run on one process, to rounding."""
    out = tmp_path / "run"
    kill = {"phase": "generate", "step": 3, "after": 0.3, "rank": 1}
    status, _, text = start(2, out, "actor.tp=2", "rollout.tp=2", kill=kill)
    assert status != 0
    status, ends, text = start(2, out, "actor.pp=2")
    assert status == 0, text[-4000:]
    assert "goes on after step 2" in text
    assert {end["step"] for end in ends} == {4}
    near(metrics(out), metrics(whole[0]), 2e-3)


def test_goes_on_with_the_distributed_optimizer(whole, tmp_path):
    """Its state is divided among replicas when it is saved, and is not in the end."""
    out = tmp_path / "run"
    status, _, text = start(2, out, "optimizer.distributed=true", "steps=2")
    assert status == 0, text[-4000:]
    status, _, text = start(2, out, "optimizer.distributed=true", "actor.pp=2")
    assert status == 0, text[-4000:]
    near(metrics(out), metrics(whole[0]), 2e-3)


@pytest.mark.parametrize(
    "fields",
    [["actor.tp=2", "rollout.tp=2"], ["actor.pp=2"], [], ["optimizer.distributed=true"]],
    ids=["TP2", "PP2", "DP2", "DP2 with the distributed optimizer"],
)
def test_the_same_first_step_in_every_division(whole, tmp_path, fields):
    out = tmp_path / "run"
    status, _, text = start(2, out, "steps=1", "validation.every=0", *fields)
    assert status == 0, text[-4000:]
    (first,) = metrics(out)
    expected = next(line for line in metrics(whole[0]) if line["step"] == 1)
    near([first], [expected], 1e-5)


def test_every_option_of_the_algorithm(tmp_path):
    """Two updates, reference model, entropy, importance weights; only the last and best stay."""
    out = tmp_path / "run"
    fields = [
        "algorithm.num_minibatches=2", "algorithm.loss.kl_coef=0.01",
        "algorithm.loss.entropy_coef=0.001",
        "algorithm.loss.importance_cap=2.0", "steps=3", "validation.every=1", "checkpoint.every=1",
        "checkpoint.keep_last=1",
    ]  # fmt: skip
    status, _, text = start(1, out, *fields)
    assert status == 0, text[-4000:]
    steps = [line for line in metrics(out) if "reward" in line]
    # The first update is on the reference itself; the weights are away from it ever after.
    assert 0 < steps[0]["kl"] < steps[1]["kl"] < steps[2]["kl"]
    assert all(line["mismatch"] < 1e-5 for line in steps)  # of the policy that drew the tokens
    measured = [line for line in metrics(out) if "validation/accuracy" in line and line["step"]]
    best = max(
        measured, key=lambda m: (m["validation/accuracy"], -m["validation/response_length/mean"])
    )
    kept = {path.name for path in (out / "checkpoints").glob("iter_*")}
    assert kept == {f"iter_{best['step']:07}", "iter_0000003"}
    last = out / "checkpoints" / "iter_0000003" / "megaprune_checkpoint.json"
    assert json.loads(last.read_text())["best"]["step"] == best["step"]


def test_groups_without_signal_are_replaced(tmp_path):
    """By other problems; what they said stays on record, and nothing is learned from it."""
    out = tmp_path / "run"
    fields = [
        "algorithm.filter.name=no_signal",
        "algorithm.filter.max_resample_rounds=3",
        "rollout.n=2",
        "steps=2",
        "validation.every=0",
    ]
    status, _, text = start(1, out, *fields)
    assert status == 0, text[-4000:]
    for line in metrics(out):
        table = pq.read_table(out / "samples" / f"step_{line['step']:06}.parquet").to_pylist()
        # What was drawn beyond the last group that was needed stands behind the others.
        counted = table[: len(table) - 2 * int(line["surplus"])]
        groups = {}
        for row in counted:
            groups.setdefault((row["problem"], row["advantage"] is None), []).append(row)
        learned = {key: rows for key, rows in groups.items() if not key[1]}
        unused = {key: rows for key, rows in groups.items() if key[1]}
        assert len(learned) == 8
        assert unused  # of two responses to a problem, both are often right or both wrong
        assert all(len(rows) == 2 for rows in groups.values())
        equal = [key for key, rows in groups.items() if rows[0]["reward"] == rows[1]["reward"]]
        assert set(unused) <= set(equal)
        assert line["no_signal"] == pytest.approx(len(equal) / len(groups))
        # Four draws of what was missing fill eight groups with a signal, or all but a few.
        assert len(set(learned) & set(equal)) <= 1
        assert line["tokens"] == sum(row["length"] for row in table)
        assert line["accuracy"] == np.mean([row["match"] for row in counted])
        right = np.mean([row["match"] for rows in learned.values() for row in rows])
        assert line["learned/accuracy"] == right
