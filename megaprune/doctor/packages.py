"""Packages: there, importable, and of a version that megaprune works with."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from megaprune.doctor.finding import Finding
from megaprune.doctor.installed import find_module, satisfies, version, wanted
from megaprune.doctor.machine import Machine


@dataclass(frozen=True)
class Package:
    """One that is imported like any other.

    Args:
        name: on an index.
        module: that it brings.
        need: what for.
        required: whether a job cannot do without.
    """

    name: str
    module: str
    need: str
    required: bool = True


PACKAGES = (
    Package("transformers", "transformers", "tokenizers and configurations"),
    Package("safetensors", "safetensors", "weights"),
    Package("omegaconf", "omegaconf", "configurations"),
    Package("pyarrow", "pyarrow", "data sets and samples"),
    Package("math-verify", "math_verify", "grading"),
    Package("psutil", "psutil", "without it Megatron-core hangs when it saves a checkpoint"),
    Package("matplotlib", "matplotlib", "reports", required=False),
    Package("wandb", "wandb", "tracking (wandb.mode)", required=False),
)

BESIDE = ("torchvision", "torchaudio", "torchcodec")
"""What vLLM and transformers import where it is there, and nothing here needs."""


def check_package(package: Package, machine: Machine) -> Finding:
    """Whether it is there, can be imported, and is not too old or new."""
    name, required = package.name, package.required
    have = version(name)
    if have is None and find_module(package.module) is None:
        found = f"not installed: {package.need}"
        return Finding(name, "missing", found, f"pip install '{wish(machine, name)}'", required)
    return check_import(machine, name, name, package.module, required)


def check_import(
    machine: Machine,
    name: str,
    distribution: str,
    module: str,
    required: bool,
    about: str = "",
) -> Finding:
    """Of a package that is installed, or says so."""
    have = version(distribution)
    shown = (have or "without metadata") + about
    if find_module(module) is None:
        found = f"{shown}; its metadata is there, and no module {module}"
        return Finding(name, "wrong", found, _again(machine, distribution), required)
    imported, error = machine.imported(module)
    if error is not None:
        broken = broken_beside(machine)
        mend = f"pip uninstall -y {' '.join(broken)}" if broken else _again(machine, distribution)
        return Finding(name, "wrong", f"{shown}; {error}", mend, required)
    least = wanted("megaprune", distribution, "gpu")
    if least and have and satisfies(least, have) is False:
        found = f"{shown}; {least} is needed"
        return Finding(name, "wrong", found, f"pip install '{least}'", required)
    shown += "" if imported is not None else " (not imported)"
    return Finding(name, "ok", shown, None, required)


def broken_beside(machine: Machine) -> dict[str, str]:
    """Those of `BESIDE` that are there and cannot be imported, with their errors."""
    errors = {name: machine.imported(name)[1] for name in BESIDE}
    return {name: error for name, error in errors.items() if error is not None}


def _again(machine: Machine, name: str) -> str:
    return f"pip install --force-reinstall --no-deps '{wish(machine, name)}'"


def wish(machine: Machine, name: str) -> str:
    """A package in the version that is tested, or asked for, on such a machine."""
    return wanted("megaprune", name, machine.extra) or name


def check_nemo_run(_: Machine) -> Finding:
    """The launcher, which is no part of a job."""
    have = version("nemo-run")
    if have is not None:
        return Finding("nemo-run", "ok", f"{have} (starts jobs)")
    command = shutil.which("nemorun")
    if command:
        return Finding("nemo-run", "ok", f"in an environment of its own: {command}")
    found = "not installed; it only starts jobs, from an environment of its own"
    mend = "pip install 'megaprune[launch]'  # in an environment of its own"
    return Finding("nemo-run", "missing", found, mend)
