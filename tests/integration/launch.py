"""Start a worker on several ranks and read the JSON lines that it prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def environment() -> dict[str, str]:
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",  # several ranks on few cores: more threads only spin
        "HF_HUB_OFFLINE": "1",
        "PYTHONWARNINGS": "ignore",
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
    }


def command(ranks: int, worker: str, *arguments: object) -> list[str]:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    start += ["--nproc-per-node", str(ranks), str(HERE / worker)]
    return [*start, *map(str, arguments)]


def launch(
    ranks: int, worker: str, *arguments: object, seconds: int = 300, **variables: str
) -> list[dict]:
    """Run a worker to its end, with more environment variables; its JSON lines."""
    process = subprocess.Popen(
        command(ranks, worker, *arguments),
        env={**environment(), **variables}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        if process.poll() is None:
            process.terminate()  # torchrun ends its ranks, which are in sessions of their own
            process.wait()
    assert process.returncode == 0, (out + err)[-8000:]
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]
