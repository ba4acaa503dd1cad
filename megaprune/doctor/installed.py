"""What is installed, without importing any of it."""

from __future__ import annotations

import re
import sys
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path


def find_module(name: str) -> ModuleSpec | None:
    """Where a module would be imported from; a mere folder of that name is none."""
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
    found = (finder.find_spec(name, None) for finder in sys.meta_path)
    return next((spec for spec in found if spec is not None), None)


def version(distribution: str) -> str | None:
    """Of an installed distribution."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def wanted(of: str, name: str, extra: str | None = None) -> str | None:
    """What a distribution asks of another, on this machine: "torch==2.13.0"; None if nothing."""
    try:
        texts = metadata.requires(of) or []
    except metadata.PackageNotFoundError:
        return None
    for text in texts:
        wish, _, marker = text.partition(";")
        if re.split(r"[\s\[(<>=!~]", wish, maxsplit=1)[0].lower() != name:
            continue
        if _applies(marker.strip(), extra):
            return wish.strip()
    return None


def satisfies(wish: str, have: str) -> bool | None:
    """Whether a version is what was asked for; None if it cannot be said."""
    try:
        from packaging.requirements import Requirement
        from packaging.version import InvalidVersion, Version
    except ImportError:
        return None
    try:
        number = Version(have)
    except InvalidVersion:
        return None
    return Requirement(wish).specifier.contains(number, prereleases=True)


def torch_build() -> tuple[str, str | None] | None:
    """torch's version and the CUDA version it was built for (None: built for the CPU)."""
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
