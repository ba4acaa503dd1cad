"""What the machine's own tools and packages say, asked once for all checks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from megaprune.doctor import probes
from megaprune.doctor.findings import short
from megaprune.doctor.packages import find_module

IMPORT_SECONDS = 300.0  # the first import after an installation, on a busy machine


@dataclass(frozen=True)
class Command:
    """A program to run.

    Args:
        words: the program and its arguments.
        seconds: how long it may take, from its start.
        heavy: it keeps a core busy, so that only as many as there are cores run at a time.
    """

    words: tuple[str, ...]
    seconds: float
    heavy: bool = False


@dataclass(frozen=True)
class CommandResult:
    """How a command ended; its status is None if its time was up."""

    status: int | None
    out: str
    err: str
    seconds: float

    @property
    def failure(self) -> str:
        """Why it failed, in a short line."""
        if self.status is None:
            return f"did not end within {self.seconds:g} s"
        if self.status < 0:
            return f"was killed by {signal.Signals(-self.status).name}"
        return short(self.err) or short(self.out) or f"ended with status {self.status}"


# Longest first: vLLM's takes 20 to 40 s.
PROBES: dict[str, tuple[str, ...]] = {
    "vllm": ("vllm",),
    "torch": ("torch",),
    "megatron.core": (
        "modules",
        "megatron.core.models.gpt",
        "megatron.core.dist_checkpointing",
        "megatron.core.distributed",
    ),
    "transformers": ("modules", "transformers.models.qwen2.modeling_qwen2"),
    "transformer_engine": ("modules", "transformer_engine.pytorch"),
    "torchvision": ("modules", "torchvision"),
    "torchaudio": ("modules", "torchaudio"),
    "torchcodec": ("modules", "torchcodec"),
    "fused_weight_gradient_mlp_cuda": ("modules", "torch", "fused_weight_gradient_mlp_cuda"),
    "mpmath": ("modules", "mpmath"),
    "wandb": ("modules", "wandb"),
    "matplotlib": ("modules", "matplotlib.figure"),
    "pyarrow": ("modules", "pyarrow.parquet"),
    "safetensors": ("modules", "safetensors"),
    "omegaconf": ("modules", "omegaconf"),
    "pydantic": ("modules", "pydantic"),
    "psutil": ("modules", "psutil"),
}
"""How each module is tried, by the module that must be there for it."""

TOOLS = {
    "gpus": Command(
        ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"),
        20,
    ),
    "nvidia-smi": Command(("nvidia-smi",), 20),  # only here it says which CUDA the driver knows
    "sinfo": Command(("sinfo", "--version"), 5),
    "scontrol": Command(("scontrol", "ping"), 5),
}

_GPU_LINE = r"^(.+), (?:(\d+) MiB|\[.*\]), ([\d.]+)$"


@dataclass(frozen=True)
class ListedGpu:
    """A GPU as the driver lists it, or torch.

    Args:
        memory: bytes; None where memory is the processor's and the driver does not say.
    """

    name: str
    memory: int | None


class Inspection:
    """The answers of all tools and probes, which the checks read.

    Args:
        quick: nothing was imported.
        out: the folder that a job would write to.
        results: how each probe and tool ended, by name.
    """

    def __init__(self, quick: bool, out: Path, results: dict[str, CommandResult]):
        self.quick = quick
        self.out = out
        self.results = results

    def imported(self, module: str) -> tuple[dict[str, Any] | None, str | None]:
        """Return what the probe of a module reported, and its error; neither if it was not run."""
        result = self.results.get(module)
        if result is None:
            return None, None
        last = result.out.rpartition(f"\n{probes.MARK}")[2] if probes.MARK in result.out else ""
        report = json.loads(last.splitlines()[0]) if last else {}
        if "error" in report:
            return None, short(report["error"])
        if result.status is None or result.status < 0:
            return None, f"importing it {result.failure}"
        if not last:  # it ended the process in its own way
            return None, f"importing it failed: {result.failure}"
        return report, None

    @cached_property
    def gpus(self) -> list[ListedGpu]:
        """The GPUs that the driver lists, or torch where nvidia-smi is not there."""
        listed = self.results.get("gpus")
        if listed is not None:
            lines = re.findall(_GPU_LINE, listed.out, re.M)
            return [ListedGpu(name, int(mib) << 20 if mib else None) for name, mib, _ in lines]
        report, _ = self.imported("torch")
        return [ListedGpu(*gpu) for gpu in report["gpus"]] if report else []

    @cached_property
    def driver(self) -> tuple[str, str] | None:
        """The version of the driver, and of the CUDA that it knows."""
        lines = re.findall(_GPU_LINE, self._output("gpus"), re.M)
        cuda = re.search(r"CUDA (?:UMD )?Version: *([\d.]+)", self._output("nvidia-smi"))
        if not lines:
            return None
        return lines[0][2], cuda[1] if cuda else "unknown"

    @property
    def extra(self) -> str:
        """The extra of megaprune's package that suits this machine."""
        return "gpu" if self.gpus else "cpu"

    def _output(self, tool: str) -> str:
        result = self.results.get(tool)
        return result.out if result is not None and result.status == 0 else ""


def inspect_machine(quick: bool, out: Path) -> Inspection:
    """Run all tools and probes at once, and keep what they say."""
    commands = {name: tool for name, tool in TOOLS.items() if shutil.which(tool.words[0])}
    if not quick:
        commands |= {
            module: _probe(words)
            for module, words in PROBES.items()
            if find_module(module) is not None
        }
    return Inspection(quick, out, run_all(commands))


def _probe(words: tuple[str, ...]) -> Command:
    flags = ["-S"] if sys.flags.no_site else []
    script = str(Path(probes.__file__))
    # The same modules as here, wherever the script lies.
    command = (sys.executable, *flags, script, json.dumps(sys.path), *words)
    return Command(command, IMPORT_SECONDS, heavy=True)


def usable_cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_all(commands: Mapping[str, Command]) -> dict[str, CommandResult]:
    """Run commands side by side, each within its time and none outliving this process."""
    return asyncio.run(_run_all(commands))


async def _run_all(commands: Mapping[str, Command]) -> dict[str, CommandResult]:
    turns = asyncio.Semaphore(max(2, usable_cores()))
    results = await asyncio.gather(*(_run(command, turns) for command in commands.values()))
    return dict(zip(commands, results, strict=True))


async def _run(command: Command, turns: asyncio.Semaphore) -> CommandResult:
    async with turns if command.heavy else contextlib.nullcontext():
        began = time.monotonic()
        try:
            process = await asyncio.create_subprocess_exec(
                *command.words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,  # so that it is killed with all that it started
            )
        except OSError as error:
            return CommandResult(126, "", f"cannot be started: {error.strerror}", 0)
        try:
            out, err = await asyncio.wait_for(process.communicate(), command.seconds)
        except TimeoutError:
            return CommandResult(None, "", "", command.seconds)
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        seconds = time.monotonic() - began
        return CommandResult(process.returncode, _text(out), _text(err), seconds)


def _text(content: bytes) -> str:
    return content.decode(errors="replace")
