"""Commands that are killed at one change of a file after another, and then run again.

Afterwards everything is as if they had never been killed, and what others made is still there. A
few points of each command are tried; with MEGAPRUNE_KILLS=N so many of each, evenly spread, and with
MEGAPRUNE_KILLS=all every one.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import signal

import pytest

from launch import Job
from megaprune.recipes.tiny import FOLDER

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
    pytest.mark.timeout(1 << 20 if os.environ.get("MEGAPRUNE_KILLS") else 900),
]

TRAIN = [
    "recipe=tiny_overthinker", "data.train_batch_size=4", "rollout.n=2",
    "rollout.max_response_length=60", "validation.n=1", "validation.every=1",
    "validation.max_response_length=24", "data.validation={validation}", "checkpoint.every=1",
    "checkpoint.keep_last=1", "checkpoint.wait=true", "optimizer.lr=3e-4", "processes=1",
]  # fmt: skip
EVALUATE = [
    f"model={FOLDER / 'model'}", "data={validation}", "n=2", "max_response_length=60",
    "max_prompt_length=64", "dtype=float32", "rollout.enforce_eager=true", "write_seconds=0",
    "processes=1",
]  # fmt: skip
COMMANDS = {
    "data": (8, ["data", "--source", "own", "--input", "{rows}", "--out", "{out}/set.parquet"]),
    "to-megatron": (8, ["convert", "to-megatron", "--hf", str(FOLDER / "model"), "--out", "{out}"]),
    "to-hf": (
        8,
        ["convert", "to-hf", "--megatron", "{megatron}", "--out", "{out}/model", "--overwrite"],
    ),
    "evaluate": (2, ["evaluate", *EVALUATE, "out={out}"]),
    "train": (3, ["train", *TRAIN, "steps=2", "out={out}"]),
    "prune": (
        1,
        [
            "prune",
            *(f for f in TRAIN if "rollout.max_response" not in f),
            "steps=1",
            "limits=[60,40]",
            "max_drop=100",
            "out={out}",
        ],
    ),
}
"""How many points are tried, and the command."""

FREE = ("seconds", "share/", "tokens_per_second", "sync/", "time", "validation/seconds")
"""Numbers that are a matter of time."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    import pyarrow.parquet as pq

    root = tmp_path_factory.mktemp("inputs")
    validation = root / "validation.parquet"
    pq.write_table(pq.read_table(FOLDER / "data" / "test.parquet").slice(0, 6), validation)
    rows = root / "rows.jsonl"
    lines = [json.dumps({"problem": f"{n} + 1?", "answer": str(n + 1)}) for n in range(20)]
    rows.write_text("\n".join(lines) + "\n")
    status, text, _ = run(0, COMMANDS["to-megatron"][1], out=root / "megatron")
    assert status == 0, text
    return {"validation": validation, "rows": rows, "megatron": root / "megatron"}


def run(number, command, **places):
    """Exit status, output, and the changes that were counted."""
    words = [word.format(**places) for word in command]
    job = Job("kill_at.py", number, *words, seconds=300)
    status = job.wait()
    last = job.output.strip().rpartition("\n")[2]
    return status, job.output, int(last) if last.isdecimal() else 0


def begin(name, root, inputs):
    """A folder as it is before the command: with what others made, and what it will replace."""
    out = root / "out"
    for beside in ("out.partial", "out.replaced", ".out.lock", "out.tmp"):
        (root / beside).mkdir(parents=True)
        (root / beside / "thesis.txt").write_text("years of work")
    if name in ("data", "to-hf"):
        out.mkdir()
        (out / "set.parquet.partial").write_text("mine")
        (out / ".set.parquet.1.partial").write_text("mine")
    if name == "to-hf":
        status, text, _ = run(0, COMMANDS[name][1], out=out, **inputs)
        assert status == 0, text
        (out / "model.partial").write_text("mine")
    return out


def outcome(root):
    """What lies in a folder, without what is a matter of time."""
    content = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            content[name] = os.readlink(path)
        elif path.is_file() and path.name == "metrics.jsonl":
            content[name] = [without_times(json.loads(line)) for line in path.open()]
        elif path.is_file() and path.name in ("summary.json", "rounds.json"):
            text = path.read_text().replace(str(root), "ROOT")
            content[name] = without_times(json.loads(text))
        elif path.is_file() and path.suffix in (".safetensors", ".distcp", ".txt"):
            content[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            content[name] = path.is_file()
    return content


def without_times(value):
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if not k.startswith(FREE)}
    return [without_times(v) for v in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_changes_of_files(name, inputs, tmp_path):
    tried, command = COMMANDS[name]
    whole = begin(name, tmp_path / "whole", inputs)
    status, text, changes = run(0, command, out=whole, **inputs)
    assert status == 0, text[-4000:]
    assert changes > 5
    expected = outcome(tmp_path / "whole")
    wanted = os.environ.get("MEGAPRUNE_KILLS", str(tried))
    tried = changes if wanted == "all" else min(int(wanted), changes)
    points = [round((at + 0.5) * changes / tried + 0.5) for at in range(tried)]
    for number in points:
        root = tmp_path / str(number)
        out = begin(name, root, inputs)
        status, text, _ = run(number, command, out=out, **inputs)
        if status == 0:  # threads do not take turns alike: this time there were fewer
            assert number > changes * 0.9, text
        else:
            assert status == -signal.SIGKILL, text[-4000:]
            # The last changes may be those of a command that had done its work.
            status, text, _ = run(0, command, out=out, **inputs)
            done = name in ("data", "to-megatron") and "give --overwrite" in text
            assert status == 0 or done, (number, text[-4000:])
        assert outcome(root) == expected, number
        shutil.rmtree(root)
    print(f"{name}: {len(points)} points of {changes}, 0 failures")
