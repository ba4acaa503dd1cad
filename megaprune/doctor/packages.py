"""Packages: what is installed, whether it can be imported, and in a version that works here."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

from megaprune.doctor.findings import Finding

if TYPE_CHECKING:
    from megaprune.doctor.inspection import Inspection


@dataclass(frozen=True)
class Package:
    """A package that is imported like any other.

    Args:
        name: on an index.
        module: the module that it brings.
        need: what it is for.
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
    Package("pydantic", "pydantic", "fields of configurations"),
    Package("pyarrow", "pyarrow", "data sets and samples"),
    Package("mpmath", "mpmath", "grading"),
    Package("psutil", "psutil", "without it Megatron-core hangs when it saves a checkpoint"),
    Package("matplotlib", "matplotlib", "reports", required=False),
    Package("wandb", "wandb", "tracking (wandb.mode)", required=False),
)

BESIDE = ("torchvision", "torchaudio", "torchcodec")
"""What vLLM and transformers import where it is there, and nothing here needs."""


# Checks.


def check_package(package: Package, machine: Inspection) -> Finding:
    """Check that a package is there, can be imported, and is neither too old nor too new."""
    name, required = package.name, package.required
    if version(name) is None and find_module(package.module) is None:
        detail = f"not installed: {package.need}"
        fix = f"pip install '{tested_requirement(machine, name)}'"
        return Finding(name, "missing", detail, fix, required)
    return check_import(machine, name, name, package.module, required)


def check_import(
    machine: Inspection,
    name: str,
    distribution: str,
    module: str,
    required: bool,
    about: str = "",
    extra: str = "gpu",
) -> Finding:
    """Check a package that is installed, or whose metadata says so; `extra` has its bounds."""
    installed = version(distribution)
    shown = (installed or "without metadata") + about
    if find_module(module) is None:
        detail = f"{shown}; its metadata is there, and no module {module}"
        return Finding(name, "wrong", detail, _reinstall(machine, distribution), required)
    imported, error = machine.imported(module)
    if error is not None:
        broken = broken_beside(machine)
        fix = (
            f"pip uninstall -y {' '.join(broken)}" if broken else _reinstall(machine, distribution)
        )
        return Finding(name, "wrong", f"{shown}; {error}", fix, required)
    needed = requirement_of("megaprune", distribution, extra)
    if needed and installed and satisfies(needed, installed) is False:
        detail = f"{shown}; {needed} is needed"
        return Finding(name, "wrong", detail, f"pip install '{needed}'", required)
    shown += "" if imported is not None else " (not imported)"
    return Finding(name, "ok", shown, None, required)


def broken_beside(machine: Inspection) -> dict[str, str]:
    """Return those of `BESIDE` that are there and cannot be imported, with their errors."""
    errors = {name: machine.imported(name)[1] for name in BESIDE}
    return {name: error for name, error in errors.items() if error is not None}


def check_nemo_run(_: Inspection) -> Finding:
    """Check the launcher, which is no part of a job."""
    installed = version("nemo-run")
    if installed is not None:
        return Finding("nemo-run", "ok", f"{installed} (starts jobs)")
    command = shutil.which("nemorun")
    if command:
        return Finding("nemo-run", "ok", f"in an environment of its own: {command}")
    detail = "not installed; it only starts jobs, from an environment of its own"
    fix = "pip install 'megaprune[launch]'  # in an environment of its own"
    return Finding("nemo-run", "missing", detail, fix)


def tested_requirement(machine: Inspection, name: str) -> str:
    """Return a package in the version that is tested, or asked for, on such a machine."""
    return requirement_of("megaprune", name, machine.extra) or name


def _reinstall(machine: Inspection, name: str) -> str:
    return f"pip install --force-reinstall --no-deps '{tested_requirement(machine, name)}'"


# What is installed, without importing any of it.


def find_module(name: str) -> ModuleSpec | None:
    """Return where a module would be imported from; a mere folder of that name is none."""
    package, _, inner = name.rpartition(".")
    if package:
        # Step by step: asked for both, Python would import the package.
        outer = _top_level(package)
        places = outer.submodule_search_locations if outer is not None else None
        spec = PathFinder.find_spec(inner, list(places)) if places else None
    else:
        spec = _top_level(name)
    return spec if spec is not None and spec.origin is not None else None


def _top_level(name: str) -> ModuleSpec | None:
    # Not importlib.util.find_spec: of what is imported already it says where that was.
    specs = (finder.find_spec(name, None) for finder in sys.meta_path)
    return next((spec for spec in specs if spec is not None), None)


def version(distribution: str) -> str | None:
    """Return the version of an installed distribution."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def requirement_of(distribution: str, name: str, extra: str | None = None) -> str | None:
    """Return what a distribution asks of another here: "torch==2.13.0"; None if nothing."""
    try:
        lines = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return None
    for line in lines:
        requirement, _, marker = line.partition(";")
        if re.split(r"[\s\[(<>=!~]", requirement, maxsplit=1)[0].lower() != name:
            continue
        if _applies(marker.strip(), extra):
            return requirement.strip()
    return None


def satisfies(requirement: str, installed: str) -> bool | None:
    """Say whether a version is what was asked for; None if that cannot be said."""
    try:
        from packaging.requirements import Requirement
        from packaging.version import InvalidVersion, Version
    except ImportError:
        return None
    try:
        number = Version(installed)
    except InvalidVersion:
        return None
    return Requirement(requirement).specifier.contains(number, prereleases=True)


def torch_build() -> tuple[str, str | None] | None:
    """Return torch's version and the CUDA version it was built for (None: built for the CPU)."""
    spec = find_module("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    values = dict(re.findall(r"^(\w+)[^=\n]*= *['\"]?([^'\"\n]*)", text, re.M))
    cuda = values.get("cuda", "None")
    return values.get("__version__", "unknown"), None if cuda == "None" else cuda


def _applies(marker: str, extra: str | None) -> bool:
    if not marker:
        return True
    try:
        from packaging.markers import Marker
    except ImportError:
        return extra is not None and f'extra == "{extra}"' in marker
    return Marker(marker).evaluate({"extra": extra or ""})
