"""docs/write_an_algorithm.md: its files are written, chosen and called as it says."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from megaprune.algorithms import Algorithm, BatchInfo, Group, LossBatch, registry
from megaprune.algorithms.loss_metrics import combine, to_host
from megaprune.algorithms.presets import PRESETS

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "write_an_algorithm.md").read_text()
BLOCKS = re.findall(r"```python ?(\S*)\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in BLOCKS:
        if name:
            (tmp_path / name).write_text(text)


def test_the_reward():
    spec = {"reward": {"name": "my_rewards.py:Brevity", "scale": 2000}}
    numbers = np.array([True, True, False]), np.array([0, 2000, 1]), np.ones(3, bool)
    rewards = Algorithm.from_spec(spec).score(Group(*numbers, 4000)).rewards
    assert rewards == pytest.approx([1.0, 0.3678794, 0.0])


def test_the_loss():
    algorithm = Algorithm.from_spec({"loss": {"name": "my_losses.py:SequenceRatio"}})
    assert not algorithm.needs_all
    log_probs = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    values = {"advantage": torch.tensor([1.0, -2.0, -2.0])}
    batch = LossBatch(log_probs, torch.ones(3), values, (0, 1, 3), BatchInfo(6, 4))
    output = algorithm.compute_loss(batch)
    output.loss.backward()
    # On policy the ratios are 1: (-1 + 2) / 4, and -A over 4 sequences and a sequence's tokens.
    loss, metrics = combine([to_host(output)])
    assert loss == pytest.approx(0.25)
    assert log_probs.grad.tolist() == pytest.approx([-0.25, 0.25, 0.25])
    assert metrics == {"my/loss": 1.0, "my/ratio": 1.0, "my/ratio_max": 1.0}


def test_the_library(capsys):
    (code,) = (text for name, text in BLOCKS if not name)
    exec(code, {})
    assert "my_rewards.py:Brevity" in capsys.readouterr().out


def test_what_is_named_comes_with_megaprune():
    for kind in registry.CALLS:
        (row,) = re.findall(rf"^\| {kind} \|.*$", PAGE, re.MULTILINE)
        named = set(re.findall(r"`(\w+)`", row.split("|")[4]))
        if kind == "reward":
            page = (DOCS / "rewards.md").read_text()
            named = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
            assert f"| {len(named)}, see [rewards](rewards.md) |" in row
        assert named == registry.components(kind).keys()
    (presets,) = re.findall(r"The presets are (.*?)\.", PAGE)
    assert set(re.findall(r"`(\w+)`", presets)) == PRESETS.keys()
