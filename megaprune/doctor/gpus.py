"""GPUs, their driver, and how they talk to each other."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from megaprune.doctor.engines import torch_mend
from megaprune.doctor.finding import Finding, size
from megaprune.doctor.installed import torch_build
from megaprune.doctor.machine import Machine


def check_gpus(machine: Machine) -> Finding:
    """How many there are, their names and memory."""
    listed = machine.outcomes.get("gpus")
    said = "" if listed is None else listed.out + listed.err
    if listed is not None and listed.status != 0 and "No devices were found" not in said:
        mend = "nvidia-smi  # must list the GPUs: load or install NVIDIA's driver"
        return Finding("GPUs", "wrong", f"nvidia-smi: {listed.failure}", mend)
    if not machine.gpus:
        devices = sorted(Path("/dev").glob("nvidia[0-9]*"))
        if listed is None and devices:
            found = f"{len(devices)} in /dev, and nothing lists them: nvidia-smi is not in PATH"
            mend = "run the container with NVIDIA's runtime, or install NVIDIA's driver"
            return Finding("GPUs", "wrong", found, mend)
        return Finding("GPUs", "missing", "none: runs go on the CPU")
    kinds = Counter((gpu.name, gpu.memory) for gpu in machine.gpus)
    found = ", ".join(
        f"{count} x {name} ({size(memory) if memory else 'memory not told'})"
        for (name, memory), count in kinds.items()
    )
    torch, _ = machine.imported("torch")
    seen = len(torch["gpus"]) if torch and torch["available"] else len(machine.gpus)
    if seen != len(machine.gpus):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        found += f"; a job sees {seen} of them (CUDA_VISIBLE_DEVICES={visible})"
    return Finding("GPUs", "ok", found)


def check_driver(machine: Machine) -> Finding:
    """Whether the driver knows the CUDA that torch was built for."""
    name = "driver, CUDA"
    if not machine.gpus:
        return Finding(name, "missing", "not needed without a GPU")
    build = torch_build()
    built = build[1] if build else None
    if machine.driver is None:
        torch, _ = machine.imported("torch")
        if torch and torch["available"]:
            return Finding(name, "ok", f"not listed, and used by torch (CUDA {built})")
        mend = "nvidia-smi  # must be in PATH"
        return Finding(name, "missing", "nvidia-smi does not say its version", mend)
    driver, known = machine.driver
    found = f"driver {driver}, for CUDA up to {known}; torch was built for {built or 'the CPU'}"
    # Within a major version, older drivers do.
    if built and known != "unknown" and int(built.split(".")[0]) > int(known.split(".")[0]):
        mend = f"install a driver for CUDA {built}, or a torch built for CUDA {known}"
        return Finding(name, "wrong", found, mend)
    return Finding(name, "ok", found)


def check_nccl(machine: Machine) -> Finding:
    """The library of collectives, which is a part of torch's CUDA builds."""
    build = torch_build()
    if build is None or build[1] is None:
        found = "a part of torch's CUDA builds; on a CPU gloo is used"
        if machine.gpus:
            return Finding("NCCL", "wrong", found, torch_mend(machine))
        return Finding("NCCL", "missing", found)
    torch, error = machine.imported("torch")
    if torch is None:
        found = "not asked: torch was not imported" + (" (--quick)" if machine.quick else "")
        return Finding("NCCL", "missing" if error else "ok", found)
    if torch["nccl"] is None:
        return Finding("NCCL", "wrong", "this torch has none", torch_mend(machine))
    return Finding("NCCL", "ok", torch["nccl"])
