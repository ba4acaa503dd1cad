"""Commands that are killed at one change of a file after another, and then run again.

Afterwards everything is as if they had never been killed, and what others made is still there.

One whole run of a command tells what a kill at each change leaves (see `snapshots.py`). The same
command is run again in what it leaves, once for each state of the folder that differs from the
others: many neighbouring changes, such as those that make a file durable, leave the same. The
folder has the path that it had, and the process that its leases and marks name has ended. That this
is as good as a kill is tested too: at a few points the command is killed by SIGKILL, has to leave
what that point's snapshot has, but for times and process numbers, and is run again.

A few points of each command are tried; with MEGAPRUNE_KILLS=N so many of each, evenly spread, and
with MEGAPRUNE_KILLS=all every one. With MEGAPRUNE_KILLS_FOLDER=DIR the whole run, and which of its
states were tried, is kept there, so that the same again goes on with those that are left.
"""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from launch import Job
from megaprune.recipes.tiny import FOLDER
from snapshots import Store

KILLS = os.environ.get("MEGAPRUNE_KILLS")
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
    pytest.mark.timeout(1 << 20 if KILLS else 900),
]

ENGINE = ["rollout.max_num_seqs=8", f"rollout.kv_cache_memory_bytes={4 << 20}", "processes=1"]
TRAIN = [
    "recipe=tiny_overthinker", "data.train={problems}", "data.validation={validation}",
    "data.train_batch_size=2", "rollout.n=2", "validation.n=1", "validation.every=1",
    "validation.max_response_length=4", "checkpoint.every=1", "checkpoint.keep_last=1",
    # No answer ends within so few tokens: what is learned is to be less sure.
    "checkpoint.wait=true", "optimizer.lr=1e-2", "algorithm.loss.entropy_coef=1", *ENGINE,
]  # fmt: skip
EVALUATE = [
    f"model={FOLDER / 'model'}", "data={validation}", "n=2", "max_response_length=8",
    "max_prompt_length=64", "dtype=float32", "rollout.enforce_eager=true", "write_seconds=0",
    *ENGINE,
]  # fmt: skip
COMMANDS = {
    "data": (4, ["data", "--source", "own", "--input", "{rows}", "--out", "{out}/set.parquet"]),
    "to-megatron": (4, ["convert", "to-megatron", "--hf", str(FOLDER / "model"), "--out", "{out}"]),
    "to-hf": (
        4,
        ["convert", "to-hf", "--megatron", "{megatron}", "--out", "{out}/model", "--overwrite"],
    ),
    "evaluate": (1, ["evaluate", *EVALUATE, "out={out}"]),
    "train": (
        2,
        [
            "train",
            *TRAIN,
            "steps=2",
            "rollout.max_response_length=6",
            "checkpoint.keep_best=false",
            "samples.keep_last=1",
            "out={out}",
        ],
    ),
    "harmonize": (
        1,
        [
            "harmonize",
            *TRAIN[:2],
            "data.validation=null",
            "data.train_batch_size=2",
            "checkpoint.every=1",
            "checkpoint.keep_last=1",
            "checkpoint.wait=true",
            "steps=1",
            "optimizer.lr=1e-2",
            "method=o1_pruner",
            "presample.problems=2",
            "presample.n=2",
            "presample.max_response_length=256",
            "test.data={validation}",
            "test.n=1",
            "test.max_response_length=4",
            *ENGINE,
            "out={out}",
        ],
    ),
    "prune": (1, ["prune", *TRAIN, "steps=1", "limits=[6,5]", "max_drop=100", "out={out}"]),
}
"""How many points are tried in each of both ways, and the command."""

FREE = ("seconds", "share/", "tokens_per_second", "sync/", "time", "validation/seconds")
"""Numbers that are a matter of time."""

OWN = re.compile(r"(?<=megaprune-)[0-9a-f]{8}-\d+-\d+-[0-9a-f]{8}|(?<=megaprune-lease\.)[0-9a-f]+")
"""What is different in each process, in the names of files."""

COMPUTED = ("weights.parquet", "identity.json", "part_000000.parquet")
"""Tables that are compared byte for byte."""

APART = 16
"""Changes by which the order of two threads may differ between runs: one writes two files."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    import pyarrow.parquet as pq

    root = kept("inputs") or tmp_path_factory.mktemp("inputs")
    places = {"problems": root / "problems.parquet", "validation": root / "validation.parquet"}
    places |= {"rows": root / "rows.jsonl", "megatron": root / "megatron"}
    if places["megatron"].exists():
        return places
    root.mkdir(parents=True, exist_ok=True)
    for name, source, count in (("problems", "train", 8), ("validation", "test", 2)):
        table = pq.read_table(FOLDER / "data" / f"{source}.parquet")
        pq.write_table(table.slice(0, count), places[name])
    lines = [json.dumps({"problem": f"{n} + 1?", "answer": str(n + 1)}) for n in range(20)]
    places["rows"].write_text("\n".join(lines) + "\n")
    status, text = run(COMMANDS["to-megatron"][1], "megaprune", out=places["megatron"])
    assert status == 0, text
    return places


def kept(name):
    """A folder that the next process finds again; None if nothing is to be kept."""
    folder = os.environ.get("MEGAPRUNE_KILLS_FOLDER")
    return Path(folder, name) if folder else None


def run(command, *program, **places):
    """Exit status and output of a command that a program of this folder runs."""
    words = [word.format(**places) for word in command]
    job = Job(*program, *words, seconds=600)
    return job.wait(), job.output


def outcome(root):
    """What lies in a folder, without what is a matter of time or of the process."""
    content = {}
    for path in sorted(root.rglob("*")):
        name = OWN.sub("", str(path.relative_to(root)))
        if path.is_symlink():
            content[name] = os.readlink(path)
        elif path.is_dir():
            content[name] = "folder"
        elif path.name == "metrics.jsonl":
            content[name] = [without_times(json.loads(line)) for line in path.open()]
        elif path.name in ("summary.json", "rounds.json", "harmonize.json", "statistics.json"):
            content[name] = without_times(json.loads(path.read_text()))
        elif path.suffix in (".safetensors", ".distcp", ".pt", ".txt") or path.name in COMPUTED:
            content[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            content[name] = "file" if path.stat().st_size else "empty file"
    return content


def without_times(value):
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if not k.startswith(FREE)}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def differences(found, expected):
    names = sorted(found.keys() | expected.keys())
    pairs = {name: (found.get(name), expected.get(name)) for name in names}
    return [f"{name}: {a}, not {b}" for name, (a, b) in pairs.items() if a != b]


def by_thread(content):
    """What the thread that writes responses has done, and what the others have."""
    responses = {name for name in content if {"samples", "validation"} & {*Path(name).parts}}
    of_others = {name: value for name, value in content.items() if name not in responses}
    return {name: content[name] for name in responses}, of_others


class Campaign:
    """A command, the folder that it works in, and what a whole run of it said."""

    def __init__(self, name, inputs, folder):
        self.name, self.inputs = name, inputs
        self.command = COMMANDS[name][1]
        self.root, self.shown = folder / "root", folder / "shown.txt"
        self.store = Store(self.root, folder / "store")
        if not self.shown.exists():
            self._run_whole(folder / "store")
        *self.points, end = self.store.points()
        self.store.restore(end)
        self.expected = outcome(self.root)
        self.tried = set(self.shown.read_text().split())

    def spread(self, count):
        """So many points, evenly spread."""
        count = min(count, len(self.points))
        return [round((at + 0.5) * len(self.points) / count + 0.5) for at in range(count)]

    def kill(self, number):
        """Kill it at a point, see that the snapshot is what it leaves, and run it again."""
        self._begin()
        status, text = self._run("kill_at.py", number, self.root)
        assert status == -signal.SIGKILL, (number, text[-4000:])
        left = outcome(self.root)
        wrong = self._run_again() + self._unlike_snapshots(number, left)
        return [f"killed at {number}: {error}" for error in wrong]

    def _unlike_snapshots(self, number, left):
        """What a kill left that no snapshot has, at its point or as near as threads may be apart."""
        unseen, nearest = dict(enumerate(by_thread(left))), None
        points = range(max(number - APART, 1), min(number + APART, len(self.points)) + 1)
        for point in sorted(points, key=lambda point: abs(point - number)):
            self.store.restore(self.points[point - 1])
            snapshot = by_thread(outcome(self.root))
            nearest = nearest or snapshot
            unseen = {i: content for i, content in unseen.items() if content != snapshot[i]}
            if not unseen:
                return []
        return [e for i, content in unseen.items() for e in differences(content, nearest[i])]

    def restore(self, number):
        """Run it in what a kill at a point leaves, unless that was tried before."""
        state = self.points[number - 1]
        if state in self.tried:
            return []
        self.store.restore(state)
        errors = self._run_again()
        if not errors:
            self.tried.add(state)
            with self.shown.open("a") as file:
                file.write(state + "\n")
        return [f"as if killed at {number}: {error}" for error in errors]

    def _run_again(self):
        status, text = self._run("kill_at.py", 0, self.root)
        # The last changes may be those of a command that had done its work.
        done = self.name in ("data", "to-megatron") and "give --overwrite" in text
        if status != 0 and not done:
            return [f"status {status}: {text[-4000:]}"]
        return differences(outcome(self.root), self.expected)

    def _run_whole(self, store):
        shutil.rmtree(store)
        self.store = Store(self.root, store)
        self._begin()
        status, text = self._run("snapshots.py", self.root, store)
        assert status == 0, text[-4000:]
        self.store.add_point()
        self.shown.touch()

    def _run(self, *program):
        return run(self.command, *program, out=self.root / "out", **self.inputs)

    def _begin(self):
        """The folder as it is before: with what others made, and what will be replaced."""
        out = self.root / "out"
        shutil.rmtree(self.root, ignore_errors=True)
        for beside in ("out.partial", "out.replaced", ".out.lock", "out.tmp"):
            (self.root / beside).mkdir(parents=True)
            (self.root / beside / "thesis.txt").write_text("years of work")
        if self.name in ("data", "to-hf"):
            out.mkdir()
            (out / "set.parquet.partial").write_text("mine")
            (out / ".set.parquet.1.partial").write_text("mine")
        if self.name == "to-hf":
            status, text = self._run("megaprune")
            assert status == 0, text
            (out / "model.partial").write_text("mine")


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_changes_of_files(name, inputs, tmp_path):
    begin = time.monotonic()
    few = COMMANDS[name][0]
    campaign = Campaign(name, inputs, kept(name) or tmp_path)
    changes = len(campaign.points)
    assert changes > 5
    weights = (FOLDER / "model" / "model.safetensors").read_bytes()
    if name in ("train", "prune", "harmonize"):
        assert hashlib.sha256(weights).hexdigest() not in campaign.expected.values()
    points = campaign.spread(changes if KILLS == "all" else int(KILLS or few))
    points.sort(key=lambda number: (number % 8, number))  # of use too if it is broken off
    failures = []
    for attempt, numbers in ((campaign.kill, campaign.spread(few)), (campaign.restore, points)):
        for number in numbers:
            for error in attempt(number):
                print(error, flush=True)
                failures.append(error)
    states = len({campaign.points[number - 1] for number in points})
    print(
        f"{name}: {len(points)} points of {changes}, {states} states that differ, "
        f"{len(failures)} failures, {time.monotonic() - begin:.0f} s"
    )
    assert not failures, "\n".join(failures)
