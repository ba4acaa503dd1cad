"""What one GPU can prove of megaprune in one call of a few minutes, with nothing from the network.

    python benchmarks/gpu_smoke.py --out DIR [--only actor,speed] [--cumem DIR] [--seconds 345]
    python benchmarks/gpu_smoke.py --out DIR --cpu

Each part is a process of its own, with a limit of time; each check of a part prints one line. What
fails does not stop the rest. DIR gets smoke.json with all figures, and plan.json with the fields of
`megaprune plan` that were measured. --cpu runs the same checks on tiny models.

    machine   copies, multiplications, memory of a context and NCCL, gathered objects
    actor     log-probs, gradients, recompute, steps, offload, checkpoints, against transformers
    memory    vLLM's allocator: sleep, train, wake, sync into the same addresses, CUDA graphs
    memory-x  the same with expandable segments
    rewrite   the weights of QwQ-32B's share at TP8: sync, verify, wake beside its cache
    speed     QwQ-32B's layers: bytes against the plan, tokens/s, MFU, kernels, syncs
    logprobs  log-probs from hidden states in chunks against materialised logits

--cumem names a folder with vLLM's cumem_allocator.abi3.so and its Python, where vLLM itself is not
installed (see smoke/pools.py).
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from smoke.lines import line

EXPANDABLE = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
PARTS: dict[str, tuple[str, int, dict[str, str]]] = {
    "machine": ("machine", 45, {}),
    "actor": ("actor", 110, {}),
    "memory": ("memory", 60, {}),
    "rewrite": ("rewrite", 50, {}),
    "speed": ("speed", 80, {}),
    "logprobs": ("logprobs", 50, {}),
    "memory-x": ("memory", 60, EXPANDABLE),
}
"""Module, seconds at most, and environment of each part, in the order that they run in."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--cumem", type=Path)
    parser.add_argument("--seconds", type=float, default=345.0)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        run_part(options)
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + options.seconds
    parts: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only.split(","):
            ended = start_part(name, Path(folder), options, deadline)
            path = Path(folder) / f"{name}.json"
            checks = json.loads(path.read_text()) if path.is_file() else []
            parts[name] = {"checks": checks, "ended": ended}
            (options.out / "smoke.json").write_text(json.dumps(parts, indent=1))
    return show(parts, options.out)


def start_part(name: str, folder: Path, options: argparse.Namespace, deadline: float) -> str:
    """Run a part in a process that writes FOLDER/NAME.json; how it ended, "" if well."""
    _, limit, environment = PARTS[name]
    limit = int(min(limit * (4 if options.cpu else 1), deadline - time.monotonic()))
    if limit < 10:
        return "not started: no time left"
    command = [sys.executable, __file__, "--part", name, "--out", str(folder)]
    command += ["--cpu"] if options.cpu else []
    command += ["--cumem", str(options.cumem.absolute())] if options.cumem else []
    print(f"--- {name}, {limit} s at most", flush=True)
    start = time.monotonic()
    process = subprocess.Popen(command, env={**os.environ, **process_environment(), **environment})
    try:
        status = process.wait(limit)
        ended = "" if status == 0 else f"ended with status {status}"
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        ended = f"killed after {limit} s"
    print(f"--- {name}: {time.monotonic() - start:.1f} s {ended}", flush=True)
    return ended


def process_environment() -> dict[str, str]:
    """What torchrun would set for the only process of a job, and this checkout on the path."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    repository = str(Path(__file__).absolute().parents[1])
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), repository]))
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    quiet = {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    return {"PYTHONPATH": path, **ranks, **address, **quiet}


def run_part(options: argparse.Namespace) -> None:
    """A part, in this process."""
    if options.cpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from smoke.report import Report

    module = importlib.import_module(f"smoke.{PARTS[options.part][0]}")
    with scratch_folder() as scratch:
        module.run(Report(options.part, options.out), scratch, options)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder that is removed afterwards; in memory, where that has room for models."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 30e9
    with tempfile.TemporaryDirectory(dir=memory if roomy else None) as folder:
        yield Path(folder)


def show(parts: dict[str, dict[str, Any]], folder: Path) -> int:
    """Print all checks in one table, and write plan.json; 1 if anything failed."""
    plan: dict[str, float] = {}
    bad = 0
    print("--- all checks")
    for name, part in parts.items():
        for check in part["checks"]:
            print(line(name, check))
            bad += check["state"] == "failed"
            plan |= check["values"].get("plan", {})
        if part["ended"]:
            print(f"{name:10} {part['ended']}")
            bad += 1
    (folder / "plan.json").write_text(json.dumps(plan, indent=1))
    print("for megaprune plan:", json.dumps(plan))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
