"""What README.md tells people to run, run."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text()


def run(*command, cwd):
    bin_folder = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed")
def test_the_first_command(tmp_path):
    """The demo's command, made short with fields as the README says."""
    line = next(line for line in README.splitlines() if line.startswith("tests/install.sh"))
    command = line.split(".venv/bin/")[1].split()
    short = [
        "steps=2",
        "data.train_batch_size=8",
        "rollout.n=4",
        "validation.max_response_length=24",
        "validation.n=1",
    ]
    out = run(*command, *short, cwd=tmp_path)
    for number in (1, 2):
        assert f"step {number}/2" in out
    assert out.count("validation") == 2
    assert (tmp_path / "runs/demo/model/model.safetensors").is_file()
    assert (tmp_path / "runs/demo/report/index.html").is_file()


def test_a_round_trip(tmp_path):
    (text,) = re.findall(r"`python (recipes/round_trip.py[^`]*)`", README)
    script, *arguments = text.split()
    out = run(sys.executable, REPOSITORY / script, *arguments, cwd=tmp_path)
    assert "1 of 1 weight files are the same file, byte for byte" in out
    made = tmp_path / "round-trip"
    assert {path.name for path in made.iterdir()} == {"hf", "megatron", "back"}
    again = run(sys.executable, REPOSITORY / script, *arguments, cwd=tmp_path)
    assert "1 of 1 weight files" in again


def test_the_conversion_commands(tmp_path):
    """The block of commands, with a tiny model under the name it uses."""
    from megaprune.recipes.tiny_models import make_tiny

    block = README.split("## Convert a checkpoint\n\n```bash\n")[1].split("```")[0]
    commands = [line.split() for line in block.splitlines()]
    assert [command[2] for command in commands] == ["to-megatron", "to-hf", "verify", "inspect"]
    make_tiny(tmp_path / "QwQ-32B")
    run(*commands[0], cwd=tmp_path)
    checkpoint = tmp_path / commands[1][4]
    checkpoint.parent.mkdir(parents=True)
    (tmp_path / "QwQ-32B-megatron").rename(checkpoint)
    run(*commands[1], cwd=tmp_path)
    checkpoint.rename(tmp_path / "QwQ-32B-megatron")
    run(*commands[2], cwd=tmp_path)
    run(*commands[3], cwd=tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed")
def test_both_engines_in_one_job():
    """The model learns what it is rewarded for, and the engines agree all the way."""
    (line,) = (line for line in README.splitlines() if "recipes/two_engines.py" in line)
    out = run(*line.split(), cwd=REPOSITORY)
    steps = [line.split() for line in out.splitlines() if line.startswith("step ")]
    rewards = [float(step[3].rstrip(",")) for step in steps]
    assert len(rewards) == 8
    assert rewards[-1] > rewards[0] + 0.2
    assert all(float(step[7]) < 1e-5 for step in steps)
    assert all(float(step[10]) > 0 for step in steps)


@pytest.mark.parametrize(
    ("layout", "row"),
    [
        ((8, 2, 2), "TP8 x PP2 x DP2"),
        ((8, 4, 1), "TP8 x PP4 x DP1"),
        ((4, 4, 2), "TP4 x PP4 x DP2"),
    ],
)
def test_the_table_of_a_weight_sync(layout, row):
    """The README's figures are those that the benchmark counts."""
    table = run(
        sys.executable, "benchmarks/plan.py", "--layout", *map(str, layout), "8", cwd=REPOSITORY
    )
    words = table.splitlines()[-1].split()
    low, mean, high, bound, whole = words[7:12]
    assert bound == "equal"
    line = next(line for line in README.splitlines() if line.startswith(f"| {row} "))
    assert f" {mean} GB" in line
    assert low == high == mean or f"({low} to {high})" in line
    assert f" {whole} GB" in line
    assert line.rstrip(" |").endswith(f" {words[-2]}")


def test_all_commands_are_well_formed(tmp_path, monkeypatch, capsys):
    """Options and fields are there; what needs a GPU or the hub is not begun."""
    from megaprune.cli.main import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    blocks = re.findall(r"```bash\n(.*?)```", README, re.S)
    lines = "".join(blocks).replace("\\\n", "").splitlines()
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("megaprune ")]
    assert {"train", "prune", "data", "evaluate", "report", "analyze", "convert"} <= {
        command[0] for command in commands
    }
    for command in commands:
        if command[0] in ("train", "prune", "evaluate"):
            assert main([*command, "--print-config"]) == 0, command
        else:
            assert main(command) == 1, command  # its input is not there; 2 is a wrong command
            assert "megaprune: error: " in capsys.readouterr().err


def test_the_plan_of_qwq():
    """The tables are what the command prints."""
    printed = run("megaprune", "plan", "recipe=qwq_32b", cwd=REPOSITORY)
    rows = {tuple(filter(None, map(str.strip, line.split("│")))) for line in printed.splitlines()}
    section = README.split("`megaprune plan recipe=qwq_32b`")[1].split("and host memory")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ") and "---" not in line]
    cells = [tuple(filter(None, map(str.strip, line.split("|")))) for line in lines]
    assert len(cells) == 25
    assert [
        row
        for row in cells
        if row[0] not in ("GB of a GPU (stage 0)", "seconds of a step") and row not in rows
    ] == []
