"""What the machine's own tools and packages say, asked once for all checks."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from megaprune.doctor import installed, probes
from megaprune.doctor.commands import Command, Outcome, run_all
from megaprune.doctor.finding import short

IMPORT_SECONDS = 120.0

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
    "math_verify": ("modules", "math_verify"),
    "wandb": ("modules", "wandb"),
    "matplotlib": ("modules", "matplotlib.figure"),
    "pyarrow": ("modules", "pyarrow.parquet"),
    "safetensors": ("modules", "safetensors"),
    "omegaconf": ("modules", "omegaconf"),
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

_ROW = r"^(.+), (?:(\d+) MiB|\[.*\]), ([\d.]+)$"


@dataclass(frozen=True)
class Gpu:
    """One that the driver lists, or torch."""

    name: str
    memory: int | None  # where memory is the processor's, the driver does not say


class Machine:
    """What was asked.

    Args:
        quick: nothing is imported.
        out: where a job would write.
        outcomes: of probes and tools, by name.
    """

    def __init__(self, quick: bool, out: Path, outcomes: dict[str, Outcome]):
        self.quick = quick
        self.out = out
        self.outcomes = outcomes

    def imported(self, module: str) -> tuple[dict[str, Any] | None, str | None]:
        """What the probe of a module found, and its error; neither if it was not run."""
        outcome = self.outcomes.get(module)
        if outcome is None:
            return None, None
        last = outcome.out.rpartition(f"\n{probes.MARK}")[2] if probes.MARK in outcome.out else ""
        found = json.loads(last.splitlines()[0]) if last else {}
        if "error" in found:
            return None, short(found["error"])
        if outcome.status is None or outcome.status < 0:
            return None, f"importing it {outcome.failure}"
        if not last:  # it ended the process in its own way
            return None, f"importing it failed: {outcome.failure}"
        return found, None

    @cached_property
    def gpus(self) -> list[Gpu]:
        """Those that the driver lists, or torch where nvidia-smi is not there."""
        listed = self.outcomes.get("gpus")
        if listed is not None:
            rows = re.findall(_ROW, listed.out, re.M)
            return [Gpu(name, int(mib) << 20 if mib else None) for name, mib, _ in rows]
        found, _ = self.imported("torch")
        return [Gpu(*each) for each in found["gpus"]] if found else []

    @cached_property
    def driver(self) -> tuple[str, str] | None:
        """The version of the driver, and of the CUDA that it knows."""
        rows = re.findall(_ROW, self._said("gpus"), re.M)
        cuda = re.search(r"CUDA (?:UMD )?Version: *([\d.]+)", self._said("nvidia-smi"))
        if not rows:
            return None
        return rows[0][2], cuda[1] if cuda else "unknown"

    @property
    def extra(self) -> str:
        """Of megaprune, that suits this machine."""
        return "gpu" if self.gpus else "cpu"

    def _said(self, tool: str) -> str:
        outcome = self.outcomes.get(tool)
        return outcome.out if outcome is not None and outcome.status == 0 else ""


def look(quick: bool, out: Path) -> Machine:
    """Ask everything at once."""
    commands = {name: tool for name, tool in TOOLS.items() if shutil.which(tool.words[0])}
    if not quick:
        commands |= {
            module: _probe(words)
            for module, words in PROBES.items()
            if installed.find_module(module) is not None
        }
    return Machine(quick, out, run_all(commands))


def _probe(words: tuple[str, ...]) -> Command:
    flags = ["-S"] if sys.flags.no_site else []
    script = str(Path(probes.__file__))
    # The same modules as here, wherever the script lies.
    command = (sys.executable, *flags, script, json.dumps(sys.path), *words)
    return Command(command, IMPORT_SECONDS, heavy=True)
