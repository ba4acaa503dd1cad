"""Runs that go wrong: one clear error or a warning, and nothing is lost.

What can be refused before an engine is started is tried first, one command after the other. Runs
that must be real are told as stories, each a sequence of commands on one folder; they are played
in the background, two at a time, and tests look at what became of them.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jobs import megaprune
from safetensors.torch import load_file, save_file

from launch import Job, environment
from megaprune.config.read import to_yaml
from megaprune.config.run import read_config
from megaprune.lease import Lease
from megaprune.recipes.tiny import FOLDER
from megaprune.schema import LEASE_FILE

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
    pytest.mark.timeout(900),
]

RECIPE = "recipe=tiny_overthinker"
SMALL = [
    RECIPE, "steps=2", "data.train_batch_size=4", "rollout.n=4", "rollout.max_response_length=24", "validation.every=0",
    "max_failed_steps=null",  # all are cut off
    "checkpoint.every=1", "processes=1",
]  # fmt: skip
SECONDS = 300
ENDS_SECONDS = 15


def ran(*fields, ranks=0, **variables):
    """Train, to the end: status, and what was said."""
    return ended("train", *SMALL, *fields, ranks=ranks, **variables)


def ended(*arguments, seconds=SECONDS, **how):
    """`megaprune`, to the end: status, and what was said."""
    job = Job("megaprune", *arguments, seconds=seconds, **how)
    return SimpleNamespace(status=job.wait(), text=job.output)


def said(text):
    """The lines that are ours to say."""
    return [line for line in text.splitlines() if line.startswith("megaprune:")]


def refused(done, *words):
    """It ended with one error that has these words in it, and no traceback."""
    assert done.status == 1, done.text
    assert "Traceback" not in done.text, done.text
    (error,) = [line for line in said(done.text) if not line.startswith("megaprune: warning: ")]
    assert error.startswith("megaprune: error: ")
    assert [word for word in words if word not in error] == [], error


def ended_well(done):
    assert done.status == 0, done.text[-4000:]
    assert "Traceback" not in done.text


def tree(folder):
    """Every file below, by name: digest and time; folders have none."""
    return {
        str(path.relative_to(folder)): (
            (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
            if path.is_file() and not path.is_symlink()
            else None
        )
        for path in sorted(folder.rglob("*"))
        if "__pycache__" not in path.parts  # Python's own, beside a grader that was imported
    }


def below(snapshot, *folders):
    """A part of a tree."""
    return {name: what for name, what in snapshot.items() if name.startswith(folders)}


def metrics(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def checkpoints(out):
    return sorted(path.name for path in (out / "checkpoints").glob("iter_*"))


@contextlib.contextmanager
def disk(place, *options):
    """A file system of its own; gives what sets its size and the like. Skips if that cannot be."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted: {done.stderr.strip()}")
    try:
        yield lambda *others: subprocess.run(
            ["mount", "-o", ",".join(("remount", *others)), str(place)], check=True
        )
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


# Refused before an engine is started.


def command_line(folder, *arguments):
    """`megaprune` in this folder, which should refuse at once: status, and what was said."""
    return ended(*arguments, folder=folder, seconds=60)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder of data, models, recipes and graders, most of them broken."""
    folder = tmp_path_factory.mktemp("files") / "given"
    folder.mkdir()
    whole = FOLDER / "data" / "train.parquet"
    table = pq.read_table(whole)
    content = whole.read_bytes()
    (folder / "garbage.parquet").write_bytes(hashlib.sha256(b"").digest() * 100)
    (folder / "truncated.parquet").write_bytes(content[: len(content) // 2])
    (folder / "nothing.parquet").write_bytes(b"")
    pq.write_table(table.slice(0, 0), folder / "empty.parquet")
    pq.write_table(table.drop_columns(["reward_model"]), folder / "column.parquet")
    rows = table.slice(0, 5).to_pylist()
    rows[3]["reward_model"]["ground_truth"] = None
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), folder / "null.parquet")
    place = table.schema.get_field_index("prompt")
    text = pa.array([f"question {i}" for i in range(5)])
    pq.write_table(table.slice(0, 5).set_column(place, "prompt", text), folder / "type.parquet")

    shutil.copytree(FOLDER / "model", folder / "speechless")
    (folder / "speechless" / "chat_template.jinja").unlink()
    for name, changes in {
        "dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}},
        "window": {"use_sliding_window": True, "sliding_window": 8},
        "gelu": {"hidden_act": "gelu"},
        "scaled": {"logit_scale": 0.5},
        "mamba": {"architectures": ["MambaForCausalLM"]},
    }.items():
        shutil.copytree(FOLDER / "model", folder / name)
        config = json.loads((folder / name / "config.json").read_text())
        (folder / name / "config.json").write_text(json.dumps({**config, **changes}))
    shutil.copytree(FOLDER / "model", folder / "short")
    weights = folder / "short" / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 100)

    for name, text in {
        "syntax.yaml": "steps: [1\n- : :",
        "tab.yaml": "steps:\n\t- 3",
        "twice.yaml": "steps: 1\nsteps: 2\n",
        "list.yaml": "- steps\n",
        "unknown.yaml": "rollout:\n  temprature: 3\n",
        "renamed.yaml": "data:\n  prompts: 3\n",
        "type.yaml": "steps: many\n",
        "null.yaml": "steps: null\n",
        "syntax.py": "def grade(gold, response, finished)\n    return True\n",
        "imports.py": "import nothing_like_this\n",
        "fine.py": "def grade(gold, response, finished):\n    return True\n",
    }.items():
        (folder / name).write_text(text)
    (folder / "latin.yaml").write_bytes(b"model: \xe9\xff\n")
    return folder


REFUSED = {
    # Data: file, row and column.
    "garbage": (["data.train=garbage.parquet"], ["garbage.parquet cannot be read as parquet"]),
    "truncated": (["data.train=truncated.parquet"], ["truncated.parquet", "copy it again"]),
    "no bytes": (["data.train=nothing.parquet"], ["nothing.parquet cannot be read", "0 bytes"]),
    "no rows": (["data.train=empty.parquet"], ["empty.parquet has no rows"]),
    "no column": (
        ["data.train=column.parquet"],
        ["column.parquet lacks the column 'reward_model'"],
    ),
    "null": (
        ["data.train=null.parquet"],
        ["null.parquet, row 3, column reward_model.ground_truth: null", "remove the row"],
    ),
    "type": (
        ["data.train=type.parquet"],
        ["type.parquet, row 0, column prompt", "'question 0' (str)", "expected a list"],
    ),
    "no data": (["data.train=nowhere.parquet"], ["there is no nowhere.parquet"]),
    "validation": (["data.validation=garbage.parquet"], ["garbage.parquet cannot be read"]),
    "long prompts": (
        ["data.max_prompt_length=3"],
        ["all 4096 prompts", "longer than max_prompt_length=3", "raise max_prompt_length"],
    ),
    # The model.
    "no template": (
        ["model=speechless"],
        ["speechless has no chat template", "chat_template.jinja"],
    ),
    "no model": (["model=nowhere"], ["nowhere is not a folder", "expected a Hugging Face model"]),
    "not a model": (
        ["model=."],
        [". is neither a Hugging Face model nor", "expected a Hugging Face model"],
    ),
    "a file": (["model=fine.py"], ["fine.py is not a folder", "expected a Hugging Face model"]),
    "half a model": (["model=short"], ["short/model.safetensors", "truncated"]),
    "context": (
        ["rollout.max_response_length=1000"],
        [
            "rollout.max_response_length=1000 and data.max_prompt_length=64",
            "context of 1024",
            "lower one",
        ],
    ),
    "context of validation": (
        ["validation.max_response_length=5000"],
        ["validation.max_response_length=5000", "1024"],
    ),
    # Fields.
    "field": (
        ["rollout.max_reponse_length=3"],
        ["no field 'rollout.max_reponse_length'; did you mean rollout.max_response_length"],
    ),
    "another name": (
        ["rollout.limit=3"],
        ["there is no field 'rollout.limit'; its name is rollout.max_response_length"],
    ),
    "another name in YAML": (
        ["recipe=renamed.yaml"],
        ["there is no field 'data.prompts'; its name is data.train_batch_size"],
    ),
    "section": (["data=3"], ["no field 'data'", "did you mean data."]),
    "no value": (["steps"], ["'steps' is not of the form key=value"]),
    "no name": (["=3"], ["'=3' is not of the form key=value"]),
    "whole number": (["steps=many"], ["steps='many'; expected a whole number"]),
    "a part": (["steps=1.5"], ["steps=1.5; expected a whole number"]),
    "number": (["optimizer.lr=fast"], ["optimizer.lr='fast'; expected a number"]),
    "yes or no": (
        ["rollout.enforce_eager=maybe"],
        ["rollout.enforce_eager='maybe'; expected true or false"],
    ),
    "null text": (["model="], ["model=null; expected text"]),
    "null number": (["steps="], ["steps=null; expected a whole number"]),
    "no steps": (["steps=0"], ["steps=0; expected more than 0"]),
    "seed": (["seed=-1"], ["seed=-1; expected 0 or more"]),
    "processes": (["processes=0"], ["processes=0; expected more than 0"]),
    "infinite": (["optimizer.lr=inf"], ["optimizer.lr=inf; expected a finite number"]),
    "not a number": (["rollout.temperature=nan"], ["rollout.temperature=nan; expected a finite"]),
    "greedy": (["rollout.temperature=0"], ["rollout.temperature=0.0; expected 0.01 or more"]),
    "share": (
        ["rollout.gpu_memory_utilization=7"],
        ["rollout.gpu_memory_utilization=7.0; expected 1 at most"],
    ),
    "top_p": (["validation.top_p=0"], ["validation.top_p=0.0; expected more than 0"]),
    "beta": (["optimizer.beta2=1"], ["optimizer.beta2=1.0; expected less than 1"]),
    "never": (["validation.every=-1"], ["validation.every=-1; expected 0 or more"]),
    "alone": (["rollout.n=1"], ["rollout.n=1", "expected n=2 or more"]),
    "reward": (["algorithm.reward.name=nope"], ["algorithm.reward.name='nope'", "truncate"]),
    "advantage": (["algorithm.advantage.name=nope"], ["algorithm.advantage.name='nope'"]),
    "preset": (["algorithm=dlre"], ["algorithm='dlre'; did you mean dler?"]),
    "part of an algorithm": (["algorithm.los.kl_coef=1"], ["algorithm.los", "algorithm.loss"]),
    "field of another filter": (
        ["algorithm.filter.max_resample_rounds=2"],
        ["none has no such field; choose what has it with algorithm.filter.name=no_signal"],
    ),
    "another name in the algorithm": (
        ["algorithm.refills=2"],
        ["no field 'algorithm.refills'; its name is algorithm.filter.max_resample_rounds"],
    ),
    "dtype": (["dtype=float16"], ["dtype='float16'", "bfloat16, float32"]),
    "wandb mode": (["wandb.mode=somewhere"], ["wandb.mode='somewhere'", "offline, online"]),
    "updates": (
        ["data.train_batch_size=10", "algorithm.num_minibatches=3"],
        ["algorithm.num_minibatches=3 does not divide data.train_batch_size=10"],
    ),
    # Parallelism.
    "processes and tp": (
        ["processes=2", "actor.tp=3"],
        ["actor.tp=3 x actor.pp=1 is 3 ranks", "the 2 that the job has"],
    ),
    "heads and tp": (
        ["processes=3", "actor.tp=3"],
        ["actor: tp=3", "num_attention_heads=4", "choose 1, 2 or 4"],
    ),
    "layers and pp": (["processes=3", "actor.pp=3"], ["4", "choose 1, 2 or 4"]),
    "processes and engines": (
        ["processes=2", "rollout.tp=4"],
        ["rollout.tp=4 does not divide the 2 processes", "choose 1 or 2"],
    ),
    "sequences and one rank": (
        ["actor.sequence_parallel=true"],
        ["actor.sequence_parallel=true with actor.tp=1; expected actor.tp=2 or more"],
    ),
    "samples and micro-batches": (
        ["actor.max_tokens=64"],
        ["actor.max_tokens=64, and a sample may have 136 tokens", "expected 136 or more"],
    ),
    "nothing trained": (
        ["actor.frozen_layers=4"],
        ["actor.frozen_layers=4; the model has 4 layers, and the last must be trained"],
    ),
    "clip": (
        ["algorithm.loss.clip_ratio_low=1.5"],
        ["algorithm.loss.clip_ratio_low=1.5; expected ", "less than 1"],
    ),
    "a rotation": (["model=dynamic"], ["rope_scaling of type 'dynamic' is not supported"]),
    "window": (
        ["model=window"],
        ["use_sliding_window=True is not what Qwen2ForCausalLM", "expected False"],
    ),
    "activation": (
        ["model=gelu"],
        ["hidden_act='gelu' is not what Qwen2ForCausalLM is built with here; expected 'silu'"],
    ),
    "a key of config.json": (
        ["model=scaled"],
        ["config.json: logit_scale=0.5 is not known of Qwen2ForCausalLM, and would be ignored"],
    ),
    "architecture": (["model=mamba"], ["architecture MambaForCausalLM is not supported"]),
    "heads and engines": (
        ["processes=3", "rollout.tp=3"],
        ["num_attention_heads=4", "choose 1, 2 or 4"],
    ),
    # Recipes.
    "recipe": (
        ["recipe=tiny_overthinkr"],
        ["no recipe 'tiny_overthinkr'", "did you mean tiny_overthinker"],
    ),
    "no recipe": (["recipe=nowhere.yaml"], ["nowhere.yaml cannot be read: No such file"]),
    "YAML": (["recipe=syntax.yaml"], ["syntax.yaml is no YAML", "line 2", "--print-config"]),
    "tabs": (["recipe=tab.yaml"], ["tab.yaml is no YAML", "line 2"]),
    "twice": (["recipe=twice.yaml"], ["twice.yaml is no YAML", "duplicate key steps"]),
    "Latin": (["recipe=latin.yaml"], ["latin.yaml is no YAML", "utf-8"]),
    "list": (["recipe=list.yaml"], ["a YAML mapping of fields to values"]),
    "field in YAML": (["recipe=unknown.yaml"], ["'rollout.temprature'", "rollout.temperature"]),
    "type in YAML": (["recipe=type.yaml"], ["steps='many'; expected a whole number"]),
    "null in YAML": (["recipe=null.yaml"], ["steps=null; expected a whole number"]),
    # Graders.
    "grader": (["grading.default=strickt"], ["no grader 'strickt'; did you mean strict?"]),
    "grader of a source": (
        ["grading.graders.sums=nope"],
        ["no grader 'nope'", "strict, last_box, lenient"],
    ),
    "grader's file": (["grading.default=nowhere.py:grade"], ["nowhere.py: there is no such file"]),
    "grader's function": (
        ["grading.default=fine.py:grades"],
        ["fine.py has no 'grades'", "did you mean grade?"],
    ),
    "grader's syntax": (
        ["grading.default=syntax.py:grade"],
        ["cannot import syntax.py", "SyntaxError", "line 1"],
    ),
    "grader's imports": (
        ["grading.default=imports.py:grade"],
        ["cannot import imports.py", "ModuleNotFoundError", "nothing_like_this"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_anything_starts(files, name):
    fields, words = REFUSED[name]
    before = tree(files)
    first = [] if fields[0].startswith("recipe=") else [RECIPE]
    done = command_line(files, "train", *first, *fields)
    refused(done, *words)
    assert done.text.count("\n") == 1
    assert tree(files) == before


def test_nothing_given(files):
    before = tree(files)
    for fields in ([], ["steps=3"]):
        refused(
            command_line(files, "train", *fields),
            "data.train, model, out must be given",
            RECIPE,
        )
    assert tree(files) == before


def test_wandb_that_is_not_installed(tmp_path):
    (tmp_path / "wandb.py").write_text("raise ImportError('No module named wandb')\n")
    out = tmp_path / "run"
    # In a process of its own, since forks may have imported it.
    process = subprocess.run(
        megaprune("train", *SMALL, "wandb.mode=offline", f"out={out}"),
        env={**environment(), "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    done = SimpleNamespace(status=process.returncode, text=process.stdout)
    refused(done, "wandb cannot be imported", "pip install wandb", "wandb.mode=disabled")
    assert not out.exists()


# The folder of a run.


@pytest.fixture
def other(tmp_path):
    """The folder of a run, as far as another command looks at it."""
    out = tmp_path / "here" / "run"
    (out / "checkpoints" / "iter_0000001").mkdir(parents=True)
    config = read_config([*SMALL, f"out={out}"])
    (out / "config.yaml").write_text(to_yaml(config))
    (out / "metrics.jsonl").write_text('{"step": 1, "reward": 0.5}\n')
    return out


def leaves_alone(out, *words, fields=()):
    """Refused, and nothing around the folder has changed."""
    around = out.parent if out.parent.is_dir() else out.parent.parent
    before = tree(around)
    done = command_line(around, "train", *SMALL, f"out={out}", *fields)
    refused(done, *words)
    assert done.text.count("\n") == 1
    assert tree(around) == before


def test_out_is_another_runs(other):
    leaves_alone(
        other,
        f"{other} is the folder of another run",
        "seed=5 (the run's: 0)",
        "rollout.n=8 (the run's: 4)",
        "another out=",
        fields=["seed=5", "rollout.n=8", "steps=9"],
    )


@pytest.mark.parametrize("content", [b"\x00", b"steps: [", b"- 1\n", b"stages: 3\n", b"\xff"])
def test_out_has_a_broken_configuration(other, content):
    (other / "config.yaml").write_bytes(content)
    leaves_alone(other, f"{other}/config.yaml cannot be read", "another out=")


def test_out_has_fields_by_other_names(other):
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(config.replace("train_batch_size", "prompts"))
    leaves_alone(
        other,
        "there is no field 'data.prompts'; its name is data.train_batch_size",
        f"write it anew with: megaprune config upgrade {other}",
    )


def test_out_is_in_use(other):
    lease = Lease(other / LEASE_FILE, other)
    who = f"process {os.getpid()} of {socket.gethostname()}"
    leaves_alone(other, f"{other} is being written by {who}", "wait, or end it")
    lease.close()


def test_out_is_not_a_runs(tmp_path):
    out = tmp_path / "here" / "thesis"
    out.mkdir(parents=True)
    (out / "thesis.tex").write_text("years of work")
    leaves_alone(out, f"{out} is no run's folder", "thesis.tex", "out=")


def test_out_is_a_file(tmp_path):
    out = tmp_path / "here" / "file"
    out.parent.mkdir()
    out.write_text("a file")
    leaves_alone(out, f"cannot write {out}", "is a file")
    leaves_alone(out / "run", f"cannot write {out / 'run'}", f"{out} is a file")


def test_out_cannot_be_written(tmp_path):
    with disk(tmp_path / "disk", "size=1m") as remount:
        out = tmp_path / "disk" / "run"
        remount("ro")
        leaves_alone(out, f"cannot write {out}: Read-only file system")
        assert not out.exists()


# Stories: real runs.


def answers(out, step, kind="samples"):
    return pq.read_table(out / kind / f"step_{step:06}.parquet").to_pylist()


GRADER = """
calls = 0

def grade(gold, response, finished):
    global calls
    calls += 1
    if calls % 4 == 0:
        raise ZeroDivisionError("the fourth is always wrong")
    return gold in response
"""
GRADER_FAILED = (
    "megaprune: warning: the grader failed on 4 of 16 answers "
    "(crash: ZeroDivisionError: the fourth is always wrong); they count as wrong"
)


def play_a_users_mistakes(folder):
    """A grader that raises, W&B that is not there, and commands that come too often."""
    out = folder / "run"
    (folder / "own.py").write_text(GRADER)
    fields = [f"grading.default={folder / 'own.py'}:grade", f"out={out}"]
    unreachable = {
        "WANDB_BASE_URL": "http://127.0.0.1:9",
        "WANDB_API_KEY": "0123456789" * 4,
        "WANDB_INIT_TIMEOUT": "5",
    }
    story = SimpleNamespace(out=out)
    begun = threading.Event()

    def begin():
        story.first = ran(*fields, "wandb.mode=online", **unreachable)
        begun.set()

    first = threading.Thread(target=begin)
    first.start()
    while not (out / "config.yaml").exists() and not begun.wait(0.1):
        pass
    story.second = ran(*fields)
    story.first_went_on = first.is_alive()
    first.join()
    story.first_metrics = metrics(out)
    story.first_samples = answers(out, 1) + answers(out, 2)
    story.first_tree = tree(out)

    story.again = ran(*fields)
    story.again_tree = tree(out)

    story.torchrun = ran(*fields, "seed=5", ranks=2)
    story.torchrun_tree = tree(out)

    story.longer = ran(*fields, "steps=3", "wandb.mode=offline")
    story.longer_metrics = metrics(out)
    story.longer_tree = tree(out)
    story.kept = [path.read_bytes() for path in sorted(out.glob("wandb/offline-run-*/*.wandb"))]

    story.apart = ran(*fields, "steps=4", "max_mismatch=1e-12")
    story.apart_tree = tree(out)
    return story


def play_disk(folder):
    """A disk that is full before, and while, the second checkpoint is written; then it is not."""
    place = folder / "disk"
    with disk(place, "size=16m") as remount:
        out = place / "run"
        story = SimpleNamespace(out=out, place=place)
        story.small = ran(f"out={out}")
        story.small_tree = tree(out)
        # All but the last files of a checkpoint: there is room enough, so that it is begun.
        files = os.statvfs(place)
        remount("size=64m", f"nr_inodes={files.f_files - files.f_ffree + 9}")
        story.filling = ran(f"out={out}")
        story.filling_tree = tree(out)
        remount("size=64m", "nr_inodes=10000")
        story.roomy = ran(f"out={out}")
        story.roomy_tree = tree(out)
        story.metrics = metrics(out)
    return story


def play_not_finite(folder):
    """A weight that is no number; a learning rate that makes them so."""
    model = Path(shutil.copytree(FOLDER / "model", folder / "model"))
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][0, 0] = float("nan")
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    story = SimpleNamespace(nan_out=folder / "nan", lr_out=folder / "lr")
    story.nan = ran(f"model={model}", f"out={story.nan_out}")
    fields = ["optimizer.lr=1e30", "rollout.max_response_length=72", "rollout.n=8", "steps=3"]
    story.lr = ran(*fields, f"out={story.lr_out}")
    return story


def environ(process):
    """Of a folder of /proc; nothing if the process has ended."""
    try:
        return (process / "environ").read_bytes()
    except OSError:
        return b""


def name(process):
    """Of a folder of /proc; nothing if the process has ended."""
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return ""


def marked(mark):
    """The processes that have this in their environment: folder and command line."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        if mark.encode() in environ(process):
            with contextlib.suppress(OSError):
                found.append((process, (process / "cmdline").read_text().replace("\0", " ")))
    return found


def interrupted(after, *fields, there=None):
    """Ctrl-C, a second after a line of these words, and when a file is there.

    Returns its status, text, seconds to the end, and what is left.
    """
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        megaprune("train", *fields, "grading.environment=[MARK]"), env={**environment(), "MARK": mark},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        # A shell's background jobs ignore it, and so would this.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    alarm = threading.Timer(SECONDS, process.kill)
    alarm.start()
    try:
        text = ""
        for line in process.stdout:
            text += line
            if after in line:
                break
        while there is not None and not there.exists():
            assert process.poll() is None, text + process.stdout.read()
            time.sleep(0.1)
        time.sleep(1)
        running = marked(mark)
        os.killpg(process.pid, signal.SIGINT)
        start = time.monotonic()
        text += process.stdout.read()
        status = process.wait()
    finally:
        alarm.cancel()
    seconds = time.monotonic() - start
    while (left := marked(mark)) and time.monotonic() - start < ENDS_SECONDS:
        time.sleep(0.1)
    return SimpleNamespace(status=status, text=text, seconds=seconds, running=running, left=left)


def test_a_rank_that_is_killed(tmp_path):
    """Under the launcher's own processes: as the kernel does it when memory runs out."""
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        megaprune("train", *SMALL, "processes=2", "actor.tp=2", f"out={tmp_path / 'run'}"),
        env={**environment(), "MARK": mark}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    start = time.monotonic()
    while not (rank := [p for p, _ in marked(mark) if name(p) == "megaprune-1"]):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() - start < SECONDS
        time.sleep(0.2)
    os.kill(int(rank[0].name), signal.SIGKILL)
    text, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert "Traceback" not in text, text
    (line,) = [line for line in said(text) if "was killed by" in line]
    assert line.startswith("megaprune: rank 1 was killed by SIGKILL, and the others were ended")
    assert "goes on from the last checkpoint" in line
    assert marked(mark) == []


def play_interrupted(folder):
    """Ctrl-C while responses are generated: in one process, then in two; then to the end."""
    out = folder / "run"
    fields = [
        *SMALL,
        "data.train_batch_size=32",
        "rollout.n=8",
        "rollout.max_response_length=500",
        f"out={out}",
    ]
    fields += ["checkpoint.wait=true"]
    story = SimpleNamespace(out=out)
    saved = out / "checkpoints" / "iter_0000001"
    story.one = interrupted("step 1/2", *fields, there=saved)
    story.one_tree = tree(out)
    story.two = interrupted("after step 1", *fields, "processes=2", "actor.tp=2")
    story.two_tree = tree(out)
    story.end = ended("train", *fields)
    story.metrics = metrics(out)
    return story


STORIES = {
    "mistakes": play_a_users_mistakes,
    "interruptions": play_interrupted,
    "full_disk": play_disk,
    "not_finite": play_not_finite,
}


@pytest.fixture(scope="module", autouse=True)
def stories(request, tmp_path_factory):
    """Those that a test of this session asks for, by name, begun."""
    wanted = {name for item in request.session.items for name in getattr(item, "fixturenames", ())}
    with ThreadPoolExecutor(2) as players:
        yield {
            name: players.submit(play, tmp_path_factory.mktemp(name))
            for name, play in STORIES.items()
            if name in wanted
        }


def told(name):
    return pytest.fixture(scope="module", name=name)(lambda stories: stories[name].result())


mistakes, interruptions, full_disk, not_finite = map(told, STORIES)


def test_a_grader_that_raises(mistakes):
    """It costs its answers, which are counted and shown, and no others."""
    ended_well(mistakes.first)
    assert [line["step"] for line in mistakes.first_metrics] == [1, 2]
    assert [line["grading_failed"] for line in mistakes.first_metrics] == [0.25, 0.25]
    shown = [line for line in mistakes.first.text.splitlines() if line.startswith("step ")]
    assert len(shown) == 2
    assert all("crash 25.0%" in line for line in shown), mistakes.first.text
    crashed = [row for row in mistakes.first_samples if row["why"] == "crash"]
    assert len(crashed) == 8
    assert len(mistakes.first_samples) == 32
    assert not any(row["match"] or row["reward"] for row in crashed)


def test_wandb_that_cannot_be_reached(mistakes):
    ended_well(mistakes.first)
    warning, grader = said(mistakes.first.text)
    assert warning.startswith("megaprune: warning: W&B cannot be reached")
    assert "the run goes on" in warning
    assert f"wandb sync {mistakes.out}/wandb/offline-" in warning
    assert grader == GRADER_FAILED
    # That run, and later another one that was to be offline: all that they measured.
    assert len(mistakes.kept) == 2
    assert all(b"grading_failed" in kept for kept in mistakes.kept)


def test_wandb_offline(mistakes):
    ended_well(mistakes.longer)
    assert said(mistakes.longer.text) == [GRADER_FAILED]  # and nothing of W&B


def test_a_second_process_on_the_same_folder(mistakes):
    assert mistakes.first_went_on
    refused(mistakes.second, f"{mistakes.out} is being written by process ", "or end it")
    ended_well(mistakes.first)


def test_a_finished_run_again(mistakes):
    """Nothing is trained: all that the run made is as it was."""
    ended_well(mistakes.again)
    assert "\nstep " not in mistakes.again.text
    kept = ("checkpoints", "samples", "metrics.jsonl")
    before = {name: what and what[0] for name, what in mistakes.first_tree.items()}
    after = {name: what and what[0] for name, what in mistakes.again_tree.items()}
    assert below(after, *kept) == below(before, *kept)
    assert below(after, "model") == below(before, "model")
    assert after.keys() == before.keys()


def test_out_is_another_runs_under_torchrun(mistakes):
    """Without the launcher: each rank sees it, one says it, and nothing was written."""
    assert mistakes.torchrun.status != 0
    (error,) = [line for line in said(mistakes.torchrun.text) if "error: " in line]
    assert "is the folder of another run: seed=5 (the run's: 0)" in error
    assert "megaprune/train.py" not in mistakes.torchrun.text  # no traceback of ours
    assert mistakes.torchrun_tree == mistakes.again_tree


def test_more_steps_than_before(mistakes):
    ended_well(mistakes.longer)
    assert "goes on after step 2" in mistakes.longer.text
    assert [line["step"] for line in mistakes.longer_metrics] == [1, 2, 3]
    assert mistakes.longer_metrics[:2] == mistakes.first_metrics
    assert "checkpoints/iter_0000003" in mistakes.longer_tree


def test_engines_that_are_too_far_apart(mistakes):
    refused(
        mistakes.apart, "step 4: the engines' log-probs differ by", "more than max_mismatch=1e-12"
    )
    assert len(answers(mistakes.out, 4, "failed")) == 16
    before, after = mistakes.longer_tree, mistakes.apart_tree
    assert after["metrics.jsonl"][0] == before["metrics.jsonl"][0]  # written again, and the same
    kept = ("checkpoints", "samples", "model")
    assert below(after, *kept) == below(before, *kept)


def test_weights_that_are_no_numbers(not_finite):
    refused(not_finite.nan, "step 1: the loss is nan", f"{not_finite.nan_out}/failed")
    rows = answers(not_finite.nan_out, 1, "failed")
    assert len(rows) == 16
    assert all(row["tokens"] for row in rows)


def test_a_learning_rate_that_is_absurd(not_finite):
    """The step before it was saved: that checkpoint is whole, also if it was being written."""
    refused(not_finite.lr, "step 2: the ", " is nan", "smaller optimizer.lr")
    out = not_finite.lr_out
    assert len(answers(out, 2, "failed")) == 32
    assert [line["step"] for line in metrics(out)] == [1]
    assert checkpoints(out) == ["iter_0000001"]
    assert (out / "checkpoints" / "iter_0000001" / "metadata.json").is_file()


def test_a_disk_that_is_too_small(full_disk):
    refused(
        full_disk.small,
        f"the disk of {full_disk.place}",
        "is too full",
        "free, iter_0000002 takes",
    )
    names = {name.split("/")[1] for name in below(full_disk.small_tree, "checkpoints/")}
    assert names == {"iter_0000001", "latest_checkpointed_iteration.txt"}


def test_a_disk_that_becomes_full(full_disk):
    assert "goes on after step 1" in full_disk.filling.text
    refused(
        full_disk.filling,
        f"the disk of {full_disk.place}",
        "is full: No space left on device",
        "Nothing was left of iter_0000002",
    )
    before, after = full_disk.small_tree, full_disk.filling_tree
    assert below(after, "checkpoints") == below(before, "checkpoints")


def test_a_disk_with_room_again(full_disk):
    ended_well(full_disk.roomy)
    assert "goes on after step 1" in full_disk.roomy.text
    assert [line["step"] for line in full_disk.metrics] == [1, 2]
    before, after = full_disk.small_tree, full_disk.roomy_tree
    first = "checkpoints/iter_0000001"
    assert below(after, first) == below(before, first)
    assert {"checkpoints/iter_0000002", "model/model.safetensors", "report/index.html"} <= set(
        after
    )
    assert not [name for name in after if ".megaprune-" in name]


@pytest.mark.parametrize("count", ["one", "two"])
def test_interrupted(interruptions, count):
    """Ctrl-C in a terminal: all end at once, also graders, which are in sessions of their own."""
    done = getattr(interruptions, count)
    assert done.status == 128 + signal.SIGINT, done.text
    assert "Traceback" not in done.text
    assert done.seconds < ENDS_SECONDS
    assert any("grading.worker" in command for _, command in done.running)
    assert done.left == []


def test_interrupted_and_gone_on(interruptions):
    assert "step 1/2" in interruptions.one.text
    assert "goes on after step 1" in interruptions.two.text
    before, after = interruptions.one_tree, interruptions.two_tree
    assert "checkpoints/iter_0000001" in before
    assert below(after, "checkpoints") == below(before, "checkpoints")
    ended_well(interruptions.end)
    assert "goes on after step 1" in interruptions.end.text
    assert [line["step"] for line in interruptions.metrics] == [1, 2]
