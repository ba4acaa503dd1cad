"""What a process of a job sets before it imports torch and the engines."""

from __future__ import annotations

import gc
import logging
import os
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from megaprune.distributed.settings import set_up_cuda

_PR_SET_NAME = 15


def prepare_process() -> None:
    """Set threads, CUDA, the garbage collector and the engines' logging, for a process of a job."""
    set_up_cuda()
    # vLLM makes objects by the million as it answers, which stay for a while.
    gc.set_threshold(100_000)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun does: more processes use more cores
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # torch reads it when it is imported
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    with importing():
        import torch

    engines = r"(torch|megatron)(\.|$)"
    # What they warn of, they warn of on every rank, and again at every save.
    action: Literal["once", "ignore"] = "once" if os.environ.get("RANK", "0") == "0" else "ignore"
    warnings.filterwarnings(action, category=UserWarning, module=engines)
    # Megatron-core calls collectives and checkpoints by names that torch is about to change.
    for category in (FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=category, module=engines)
    warnings.filterwarnings("ignore", category=FutureWarning, module="vllm")
    if not torch.cuda.is_available():
        # Megatron-core says at each import that there is no apex: no GPU, no apex.
        warnings.filterwarnings("ignore", category=UserWarning, module=r"megatron\.core")
        # vLLM looks for its version under the name of its CUDA build, and takes Triton for broken.
        logging.getLogger("vllm.triton_utils.importing").setLevel(logging.ERROR)


@contextmanager
def importing() -> Iterator[None]:
    """Import the engines quickly: without what takes seconds and is not used.

    The garbage collector would look through each new module for cycles, and Megatron-core would
    import wandb, where it is installed, for metrics that it is not asked for. On a CPU nothing is
    compiled while it runs, and the compiler need not be imported for functions that are marked for
    it.
    """
    enabled = gc.isenabled()
    torch: Any = sys.modules.get("torch")
    compiles = None if torch is None or torch.cuda.is_available() else torch.compile
    gc.disable()
    if compiles is not None:
        torch.compile = _as_it_is
    try:
        with hidden("wandb"):
            yield
    finally:
        if compiles is not None:
            torch.compile = compiles
        if enabled:
            gc.enable()


@contextmanager
def hidden(module: str) -> Iterator[None]:
    """Have importing a module raise an ImportError, unless it was imported before."""
    absent = module not in sys.modules
    if absent:
        sys.modules[module] = None  # type: ignore[assignment]  # as the import system has it
    try:
        yield
    finally:
        if absent:
            del sys.modules[module]


def _as_it_is(function: Any = None, **_: Any) -> Any:
    """Stand in for `torch.compile`, as a decorator with options and without."""
    return (lambda function: function) if function is None else function


def name_process() -> None:
    """Name this process by its rank, as `top` and /proc/PID/comm show it: megaprune-3."""
    if sys.platform == "linux":
        import ctypes  # which commands that start nothing need not import

        name = f"megaprune-{os.environ['RANK']}"
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def be_alone() -> None:
    """Set what torchrun sets, for a job of this one process."""
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])
