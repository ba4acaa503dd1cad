"""Trackers lose nothing that metrics.jsonl has, whatever ends the process."""

import builtins
import json
import os
import subprocess
import sys

import pytest
from wandb_files import entries, segments

from megaprune.config.run import WandbConfig
from megaprune.errors import InputError
from megaprune.trainer.trackers import Tracked, Trackers, check_trackers

JOB = """
import json, os, signal, sys, time
from pathlib import Path

from megaprune.config.run import WandbConfig
from megaprune.files import append_line
from megaprune.trainer.trackers import Tracked, Trackers

folder, last, how = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
file = folder / "metrics.jsonl"
history = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
tracked = Tracked(folder, "train", {"lr": 0.5}, WandbConfig(mode="offline", group="all"), False)
trackers = Trackers(tracked, history)
done = max([line["step"] for line in history], default=-1)
for step in range(done + 1, last + 1):
    lines = [{"step": step, "reward": step / 8, "seconds/step": 1.5}]
    lines += [{"step": step, "validation/accuracy": step / 4}] * (step % 2 == 0)
    for line in lines:
        append_line(file, json.dumps(line))
        trackers.log(line)
if how == "close":
    trackers.close()
elif how == "_exit":
    os._exit(143)
else:
    os.kill(os.getpid(), getattr(signal, how))
    time.sleep(60)
"""


def played(folder, last, how):
    """Log up to a step, and end in some way."""
    # A service of W&B that an earlier test has begun would hold the run's id: each has its own.
    variables = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    done = subprocess.run(
        [sys.executable, "-c", JOB, str(folder), str(last), how], capture_output=True, text=True,
        timeout=120, check=False, env=variables,
    )  # fmt: skip
    expected = {"close": 0, "_exit": 143}
    assert done.returncode == expected.get(how, 1) or how.startswith("SIG"), done.stderr
    return done


def truth(folder):
    """What metrics.jsonl has, by step."""
    steps = {}
    for text in (folder / "metrics.jsonl").read_text().splitlines():
        line = json.loads(text)
        steps.setdefault(line.pop("step"), {}).update(line)
    return steps


def told(segment):
    """What a segment has, by step, without what W&B adds."""
    return {
        step: {name: value for name, value in row.items() if not name.startswith("_")}
        for step, row in segment.steps.items()
    }


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "SIGINT", "_exit"])
def test_wandb_after_an_interruption(tmp_path, how):
    """The last segment has all; the others have nothing else, and the same id."""
    for last in (3, 6):
        played(tmp_path, last, how)
    played(tmp_path, 9, "close")
    found = segments(tmp_path)
    assert len(found) == 3
    expected = truth(tmp_path)
    assert sorted(expected) == list(range(10))
    assert told(found[-1]) == expected
    assert found[-1].whole
    for segment in found:  # what was cut off has a part of that, or nothing at all
        assert all(row.items() <= expected[step].items() for step, row in told(segment).items())
    begun = [segment for segment in found if segment.run is not None]
    assert {s.run.run_id for s in begun} == {(tmp_path / "wandb_id").read_text()}
    assert {(s.run.run_group, s.run.job_type) for s in begun} == {("all", "train")}
    assert all(s.config["lr"] == 0.5 for s in begun)
    assert list(found[-1].run.tags) == ["resumed"]
    assert found[-1].config["resumed_after_step"] == 6


def test_wandb_that_was_killed_lacks_steps(tmp_path):
    """What the test above is about: without being told again they would be lost."""
    played(tmp_path, 6, "SIGKILL")
    (segment,) = segments(tmp_path)
    assert not segment.whole
    assert told(segment) != truth(tmp_path)


def test_a_log_that_is_cut_anywhere(tmp_path):
    """The reader: it takes whole entries, and no more."""
    played(tmp_path, 3, "close")
    (path,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    content = path.read_bytes()
    whole = entries(content)
    for size in range(7, len(content), 97):
        assert entries(content[:size]) == whole[: len(entries(content[:size]))]


def scalars(folder):
    """What TensorBoard shows: name -> step -> value, and how often each step comes."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), purge_orphaned_data=True)
    events.Reload()
    return {
        name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]
    }


def test_tensorboard(tmp_path):
    """A process that was killed had written a part, and one step that is done anew."""
    pytest.importorskip("tensorboard")
    tracked = Tracked(tmp_path, "train", {}, WandbConfig(), True)
    lines = [{"step": step, "reward": step / 8, "by": "name"} for step in range(5)]
    first = Trackers(tracked, [])
    for line in lines[:4]:
        first.log(line)
    first.close()
    second = Trackers(tracked, lines[:3])
    for line in lines[3:]:
        second.log(line)
    second.close()
    assert scalars(tmp_path / "tensorboard") == {"reward": [(s, s / 8) for s in range(5)]}


@pytest.mark.parametrize(
    ("fields", "module", "words"),
    [
        ((WandbConfig(mode="offline"), False), "wandb", "pip install wandb, or do without it: wandb.mode=disabled"),
        ((WandbConfig(), True), "torch.utils.tensorboard", "pip install tensorboard, or do without it: tensorboard=false"),
    ],
)  # fmt: skip
def test_a_package_that_is_not_installed(monkeypatch, fields, module, words):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=words):
        check_trackers(*fields)
    check_trackers(WandbConfig(), False)


def test_nothing_is_imported_that_is_not_wanted(tmp_path, monkeypatch):
    begin = builtins.__import__

    def refuse(name, *rest):
        assert name.partition(".")[0] not in ("wandb", "tensorboard")
        return begin(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    trackers = Trackers(Tracked(tmp_path, "train", {}, WandbConfig(), False), [])
    trackers.log({"step": 1})
    trackers.close()
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_fails_ends_nothing(tmp_path, capsys, monkeypatch):
    """It is warned of once; the others go on."""

    class Failing:
        def __init__(self, *_):
            pass

        def log(self, line):
            raise BrokenPipeError("its process is gone")

        def close(self):
            raise AssertionError("it was left")

    monkeypatch.setattr("megaprune.trainer.trackers.WandbTracker", Failing)
    trackers = Trackers(Tracked(tmp_path, "train", {}, WandbConfig(mode="offline"), False), [])
    for step in range(3):
        trackers.log({"step": step, "reward": 1.0})
    trackers.close()
    (line,) = capsys.readouterr().err.splitlines()
    assert "Failing failed (BrokenPipeError('its process is gone'))" in line
    assert "metrics.jsonl has all" in line
