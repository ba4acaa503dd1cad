"""What the machine can do, and what a process takes of it before it holds a model."""

from __future__ import annotations

import argparse
import os
import pickle
import platform
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from megaprune.distributed import device
from megaprune.distributed.objects import all_gather_object
from smoke.report import Report, Skipped, seconds_of

GB = 10**9


def run(report: Report, scratch: Path, options: argparse.Namespace) -> None:
    with report.check("versions") as values:
        values |= {"python": platform.python_version(), "torch": torch.__version__}
        values |= {"cpus": os.cpu_count(), "gpus": torch.cuda.device_count()}
        if torch.cuda.is_available():
            properties = torch.cuda.get_device_properties(0)
            values |= {"gpu": properties.name, "GB": properties.total_memory / GB}
            values["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    with report.check("context and process group") as values:
        values |= start_bytes()
    with report.check("copies, GB/s") as values:
        values |= copies(1 << (24 if options.cpu else 31))
    with report.check("multiplication, bfloat16") as values:
        values |= multiplication(256 if options.cpu else 8192)
    with report.check("gathered objects") as values:
        values |= gathered_objects(1 if options.cpu else 32)
    with report.check("disk") as values:
        values |= disk(Path.cwd(), (64 if options.cpu else 2048) << 20)


def start_bytes() -> dict[str, object]:
    """GB that a context and NCCL take of the GPU, and seconds to start both."""
    before = used()
    start = time.perf_counter()
    torch.zeros(1, device=device.device())
    device.synchronize()
    context, seconds = used(), time.perf_counter() - start
    start = time.perf_counter()
    if device.device().type == "cuda":
        torch.cuda.set_device(device.device())
    dist.init_process_group(device.backend())
    dist.all_reduce(torch.zeros(1 << 20, device=device.device()))
    device.synchronize()
    group, started = used(), time.perf_counter() - start
    # Actor and engine share the context of their process, and have groups of their own.
    overhead = (context - before + 2 * (group - context)) / GB
    return {
        "context_GB": (context - before) / GB,
        "group_GB": (group - context) / GB,
        "seconds": seconds,
        "group_seconds": started,
        "plan": {"overhead": overhead} if device.device().type == "cuda" else {},
    }


def used() -> int:
    """Bytes of the GPU in use, by anyone."""
    if device.device().type != "cuda":
        return 0
    from pynvml import nvmlDeviceGetHandleByIndex, nvmlDeviceGetMemoryInfo, nvmlInit

    nvmlInit()
    return int(nvmlDeviceGetMemoryInfo(nvmlDeviceGetHandleByIndex(0)).used)


def copies(nbytes: int) -> dict[str, object]:
    """Within the device (read and written bytes), and between it and the host's memory."""
    here = torch.empty(nbytes, dtype=torch.uint8, device=device.device()).fill_(1)
    other = torch.empty_like(here)
    ordinary = torch.empty(nbytes // 4, dtype=torch.uint8).fill_(1)
    rates = {"device": 2 * nbytes / seconds_of(lambda: other.copy_(here)) / GB}
    part = here[: nbytes // 4]
    kinds = {"ordinary": ordinary}
    if here.is_cuda:
        kinds["pinned"] = ordinary.pin_memory()
    for name, host in kinds.items():
        rates[f"to_host_{name}"] = len(host) / seconds_of(partial(host.copy_, part), 3) / GB
        rates[f"from_host_{name}"] = len(host) / seconds_of(partial(part.copy_, host), 3) / GB
    plan = {
        "memory_bandwidth": rates["device"] / 1000,
        "host_bandwidth": rates["to_host_ordinary"],
    }
    return {**rates, "plan": plan if here.is_cuda else {}}


def multiplication(size: int) -> dict[str, object]:
    a, b = (torch.randn(size, size, device=device.device(), dtype=torch.bfloat16) for _ in range(2))
    return {"TFLOPs": 2 * size**3 / seconds_of(lambda: a @ b, 10, 3) / 1e12}


def gathered_objects(megabytes: int) -> dict[str, object]:
    """Bytes of the GPU that objects take on their way, and seconds."""
    answers: list = [np.arange(megabytes << 10, dtype=np.int32) for _ in range(256)]
    size = len(pickle.dumps(answers))
    device.synchronize()
    device.reset_peak()
    before, start = device.held_bytes(), time.perf_counter()
    all_gather_object(answers)
    seconds = time.perf_counter() - start
    return {"MB": size / 1e6, "device_MB": (device.peak_bytes() - before) / 1e6, "seconds": seconds}


def disk(folder: Path, nbytes: int) -> dict[str, object]:
    """Bytes a second that a file takes, until they are on the disk."""
    path = folder / "gpu_smoke.bytes"
    if os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize < 2 * nbytes:
        raise Skipped(f"{folder} has too little room")
    block = os.urandom(16 << 20)
    start = time.perf_counter()
    try:
        with path.open("wb") as file:
            for _ in range(nbytes // len(block)):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        seconds = time.perf_counter() - start
    finally:
        path.unlink(missing_ok=True)
    return {"GB_per_s": nbytes / seconds / GB}
