"""What differs between GPU and CPU for a process: device, backend, memory, random numbers."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch

from megaprune.errors import InputError

_DEVICES = Path("/dev")
"""Where the driver puts a file for each GPU."""


def device() -> torch.device:
    """Return this process's device: its GPU (by LOCAL_RANK), or the CPU without any."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def check_gpus() -> None:
    """Refuse to go on where there are GPUs that torch cannot use: the CPU is no stand-in for them.

    An empty CUDA_VISIBLE_DEVICES asks for the CPU.

    Raises:
        InputError: says what torch says, and what to do.
    """
    count = len(list(_DEVICES.glob("nvidia[0-9]*")))
    if not count or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return
    if torch.version.cuda is None:
        reason = f"torch {torch.__version__} is a build for CPUs"
    elif torch.cuda.is_available():
        return
    else:
        try:
            torch.cuda.init()
            reason = "torch.cuda.is_available() is false"
        except (RuntimeError, AssertionError) as error:
            reason = " ".join(str(error).split())
        reason = f"torch {torch.__version__} is built for CUDA {torch.version.cuda}: {reason}"
    raise InputError(
        f"this host has {count} GPU{'s' * (count > 1)}, which torch cannot use ({reason}); "
        f"`megaprune doctor` says what fits this driver. To use the CPU, set CUDA_VISIBLE_DEVICES="
    )


def backend() -> str:
    """Return the torch.distributed backend of the device."""
    return "nccl" if device().type == "cuda" else "gloo"


def synchronize() -> None:
    """Wait until the device has done what it was told."""
    if device().type == "cuda":
        torch.cuda.synchronize()


def send(tensor: torch.Tensor, where: torch.device) -> torch.Tensor:
    """Copy a tensor of the host to a device, without waiting for the GPU."""
    if where.type == "cuda":
        return tensor.pin_memory().to(where, non_blocking=True)
    return tensor.to(where)


def gpu_memory_bytes() -> list[int]:
    """Return the memory of each GPU of this host, as nvidia-smi says it: no GPU is touched."""
    if not torch.cuda.is_available():
        return []
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        sizes = [int(line) << 20 for line in done.stdout.split()]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []  # it is not there, or has other words: nothing is known
    return sizes[: torch.cuda.device_count()]


def release_cached() -> None:
    """Give back what torch holds of the GPU's memory without using it."""
    if device().type == "cuda":
        torch.cuda.empty_cache()


def random_numbers_kept() -> AbstractContextManager[None]:
    """Leave torch's random numbers afterwards as they were before."""
    return torch.random.fork_rng(devices=[device()] if device().type == "cuda" else [])


@contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Have torch add sums in a fixed order within, or raise where it cannot, if that is wanted."""
    if not wanted:
        yield
        return
    was_on = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # all that is read is written first
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was_on, warn_only=only_warned)
        torch.utils.deterministic.fill_uninitialized_memory = filled


def peak_bytes() -> int:
    """Return the most bytes held since `reset_peak`: on the GPU, or resident in this process."""
    if device().type == "cuda":
        return torch.cuda.max_memory_allocated()
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except FileNotFoundError:  # not Linux: the most since the process began
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def held_bytes() -> int:
    """Return the bytes held now: on the GPU, or resident in this process (0 if not known)."""
    if device().type == "cuda":
        return torch.cuda.memory_allocated()
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()
    except FileNotFoundError:
        return 0


def reset_peak() -> None:
    """Begin to measure `peak_bytes` anew (on Linux and on GPUs)."""
    if device().type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as clear:
            clear.write("5")
    except OSError:  # not Linux, or /proc is read-only: the peak counts from the process's start
        return
