"""GPUs that are there and that torch cannot use."""

import pytest
import torch

from megaprune.cli.main import main
from megaprune.distributed import device
from megaprune.errors import InputError


@pytest.fixture
def gpus(tmp_path, monkeypatch):
    """A driver has two GPUs, and torch can use none."""
    if torch.cuda.is_available():
        pytest.skip("torch can use this machine's GPUs")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(device, "_DEVICES", tmp_path)
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    return tmp_path


def test_they_are_refused(gpus, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(InputError, match=r"has 2 GPUs, which torch cannot use \(torch .* for CPUs"):
        device.check_gpus()


def test_what_torch_says_is_said(gpus, monkeypatch):
    """As a build for CUDA 13 says of a driver for CUDA 12, in words of its own."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    # A build for CUDA has no driver here.
    own = r"(Torch not compiled with CUDA|Found no NVIDIA driver)"
    with pytest.raises(InputError, match=rf"built for CUDA 13\.0: {own}"):
        device.check_gpus()


@pytest.mark.parametrize("visible", ["", "-1"])
def test_the_cpu_can_be_asked_for(gpus, monkeypatch, visible):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    device.check_gpus()


def test_no_gpu(gpus):
    (gpus / "nvidia0").unlink()
    (gpus / "nvidia1").unlink()
    device.check_gpus()


RECIPES = {
    "train": "tiny_overthinker", "prune": "tiny_overthinker_rounds",
    "evaluate": "tiny_overthinker_test",
}  # fmt: skip


@pytest.mark.parametrize("check", [("--check", "1"), ()])
@pytest.mark.parametrize("command", RECIPES)
def test_a_driver_that_is_too_old_ends_a_command_in_one_line(
    gpus, tmp_path, monkeypatch, capsys, command, check
):
    """As torch's build for CUDA 13 says it of a driver for CUDA 12.2."""

    def refuse():
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 12020).")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", refuse)
    out = tmp_path / "out"
    assert main([command, f"recipe={RECIPES[command]}", f"out={out}", *check]) != 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "2 GPUs, which torch cannot use" in line
    assert "built for CUDA 13.0: The NVIDIA driver on your system is too old" in line
    assert "`megaprune doctor` says what fits" in line
    assert not out.exists()
