"""examples/, run as they are."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from launch import environment

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vllm is not installed"
)


def test_own_reward(tmp_path):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "own_reward.py"), "mine"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    for number in (1, 2, 3):
        assert f"step {number}: " in done.stdout
    folder = tmp_path / "mine"
    assert (folder / "curves.png").stat().st_size > 5000
    assert (folder / "run/model/model.safetensors").is_file()
    # The grader is the example's own, and the reward is too: a right answer is worth less than 1.
    assert "best: advantage +" in done.stdout
    lines = (folder / "run/metrics.jsonl").read_text().splitlines()
    rewards = [json.loads(line)["reward"] for line in lines]
    assert len(rewards) == 3
    assert all(0 < reward < 0.6 for reward in rewards)
