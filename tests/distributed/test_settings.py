"""What CUDA and its libraries are told through the environment."""

import os
import subprocess
import sys

import pytest
import torch

from megaprune.cli.main import main
from megaprune.distributed import settings
from megaprune.distributed.device import deterministic_algorithms
from megaprune.errors import InputError

LATER = """
import os, sys
seen = {}
def hook(event, arguments):
    if event == "import" and arguments[0] == "torch":
        seen.setdefault("at_import", os.environ.get("CUDA_DEVICE_MAX_CONNECTIONS"))
sys.addaudithook(hook)
from megaprune.distributed.process import prepare_process
prepare_process()
print(seen["at_import"])
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """An environment that a test may change, without any such setting."""
    for name in settings.recorded_settings():
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "environ", os.environ.copy())


@pytest.mark.parametrize(("own", "seen"), [(None, "1"), ("8", "8")])
def test_a_process_has_them_before_it_imports_torch(own, seen):
    variables = {**os.environ, **({"CUDA_DEVICE_MAX_CONNECTIONS": own} if own else {})}
    command = [sys.executable, "-c", LATER]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == seen, done.stderr


def test_what_a_user_has_set_stays(monkeypatch):
    os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] = "32"
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":16:8"
    own = {"VLLM_CACHE_ROOT": "/a", "TRITON_CACHE_DIR": "/b", "TORCHINDUCTOR_CACHE_DIR": "/c"}
    os.environ.update(own)
    settings.set_up_cuda()
    settings.set_up_determinism()
    assert settings.recorded_settings() == {
        **own,
        "FLASHINFER_WORKSPACE_BASE": "/a/flashinfer",
        "CUDA_DEVICE_MAX_CONNECTIONS": "32",
        "CUBLAS_WORKSPACE_CONFIG": ":16:8",
        "NCCL_ALGO": "^NVLS",
        "NVTE_ALLOW_NONDETERMINISTIC_ALGO": "0",
    }


@pytest.mark.parametrize(
    ("given", "root"),
    [
        ({}, "/home/me/.cache/vllm"),
        ({"XDG_CACHE_HOME": "/shared"}, "/shared/vllm"),
        ({"XDG_CACHE_HOME": "/shared", "VLLM_CACHE_ROOT": "~/own"}, "/home/me/own"),
    ],
)
def test_what_is_compiled_is_kept_in_one_folder(given, root):
    """Triton says itself where; vLLM and torch read these variables as they are."""
    for name in ("XDG_CACHE_HOME", "TRITON_HOME"):
        os.environ.pop(name, None)
    os.environ |= {"HOME": "/home/me", **given}
    settings.set_up_cuda()
    assert os.path.expanduser(os.environ["VLLM_CACHE_ROOT"]) == root
    assert os.environ["FLASHINFER_WORKSPACE_BASE"] == f"{root}/flashinfer"
    words = [sys.executable, "-c", "import triton; print(triton.knobs.cache.dir)"]
    done = subprocess.run(
        words, env={**os.environ}, capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.strip() == f"{root}/triton"
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == f"{root}/torchinductor"


def test_a_setting_with_which_bits_may_differ_is_refused(capsys):
    os.environ["NVTE_ALLOW_NONDETERMINISTIC_ALGO"] = "1"
    with pytest.raises(InputError, match="has NVTE_ALLOW_NONDETERMINISTIC_ALGO=1; unset it"):
        settings.set_up_determinism()
    words = ["train", "recipe=tiny_overthinker", "out=x", "deterministic=true", "--check", "1"]
    assert main(words) != 0
    assert "has NVTE_ALLOW_NONDETERMINISTIC_ALGO=1; unset it" in capsys.readouterr().err


def test_only_what_concerns_cuda_is_recorded():
    given = {"NCCL_DEBUG": "WARN", "VLLM_API_KEY": "secret", "HF_TOKEN": "secret", "NVTE_X": "1"}
    os.environ.update(given)
    assert settings.recorded_settings() == {"NCCL_DEBUG": "WARN", "NVTE_X": "1"}


def test_segments_that_grow_are_seen():
    assert not settings.expandable_segments()
    os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "max_split_size_mb:64,expandable_segments:True"
    assert settings.expandable_segments()


def test_deterministic_algorithms_end_with_the_pass():
    with deterministic_algorithms(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.empty(4).numel() == 4
    assert not torch.are_deterministic_algorithms_enabled()
    with deterministic_algorithms(False):
        assert not torch.are_deterministic_algorithms_enabled()


def test_a_deterministic_actor_adds_in_a_fixed_order_and_learns_the_same(alone, configuration):
    """On a CPU the order is fixed anyway, so that the result is the same to the bit."""
    from pathlib import Path

    import numpy as np

    from megaprune.actor.actor import Actor
    from megaprune.actor.packing import Sample
    from megaprune.algorithms.records import LossOutput

    config, modes = configuration("optimizer.lr=1e-3"), []
    batch = [Sample(np.arange(1, 12), 4), Sample(np.arange(3, 20), 5)]

    def loss(micro_batch):
        modes.append(torch.are_deterministic_algorithms_enabled())
        return LossOutput(-micro_batch.log_probs.sum() / 20, {})

    weights = []
    for deterministic in (False, True):
        actor = Actor(
            Path(config.model), config.actor, config.optimizer, torch.float32, deterministic
        )
        assert actor._transformer.deterministic_mode == deterministic
        actor.step(batch, loss)
        weights.append(actor.weights())
    assert modes == [False, True]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])
