"""Write the locks: every package of an environment at one version, with the hashes of its files.

python requirements/renew.py [LOCK...]    e.g. gpu-py3.12; without names all of them. It needs uv.

A lock has the newest versions that extras of setup.py allow, for one Python on Linux.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

PYTHONS = ("3.11", "3.12", "3.13")

PLATFORM = "x86_64-manylinux_2_31"
"""The oldest glibc for which every package has a wheel."""

COMPILED = "transformer-engine-torch"
"""The only package without a wheel."""

CUDA_PYTHON = "cuda-python>=13"
"""FlashInfer takes any, and those before 13 do not bound the cuda-bindings beside them."""

BESIDE = ("torchvision", "torchaudio", "torchcodec")
"""What vLLM's CPU build asks for and nothing here needs; their builds on an index are for CUDA."""


@dataclass(frozen=True)
class Lock:
    """What a lock holds.

    Args:
        about: what its header says besides.
        extras: of setup.py.
        overrides: requirements that replace those of the packages.
        without: packages that are resolved and not written.
        only: packages that alone are written.
    """

    about: str
    extras: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    without: frozenset[str] = frozenset()
    only: frozenset[str] = frozenset()


TRANSFORMER_ENGINE = frozenset(
    {"transformer-engine", "transformer-engine-cu13", "transformer-engine-torch"}
)

LOCKS = {
    "cpu": Lock(
        "torch is not in it: install it last, and without hashes. Its builds for CPUs and for CUDA "
        "all satisfy torch==2.13.0, each has a hash of its own, and indexes have different ones.",
        ("cpu", "vllm-cpu", "dev"),
        overrides=("torch==2.13.0", *(f"{name}; sys_platform == 'never'" for name in BESIDE)),
        without=frozenset({"torch"}),
    ),
    "gpu": Lock(
        "Transformer Engine is not in it, and all that it needs is: it is built for this torch, so "
        "it comes after it.",
        ("gpu", "transformer-engine", "dev"),
        overrides=(CUDA_PYTHON,),
        without=TRANSFORMER_ENGINE,
    ),
    "transformer-engine": Lock(
        "It is built for the torch of the gpu lock: install it afterwards, and with "
        "--no-build-isolation.",
        ("gpu", "transformer-engine", "dev"),
        overrides=(CUDA_PYTHON,),
        only=TRANSFORMER_ENGINE,
    ),
    "launch": Lock("For an environment of its own, to submit from.", ("launch",)),
}


def main() -> None:
    """Write the locks that the command line names."""
    names = sys.argv[1:] or [f"{lock}-py{python}" for lock in LOCKS for python in PYTHONS]
    for name in names:
        lock, _, python = name.rpartition("-py")
        path = HERE / f"{name}.txt"
        path.write_text(render(LOCKS[lock], python, resolve(LOCKS[lock], python)))
        print(path)


def resolve(lock: Lock, python: str) -> list[dict[str, Any]]:
    """Return all packages, with the files that suit this Python and platform."""
    with tempfile.TemporaryDirectory() as folder:
        overrides, pylock = Path(folder) / "overrides.txt", Path(folder) / "pylock.toml"
        overrides.write_text("\n".join(lock.overrides))
        command = ["uv", "--config-file", HERE / "uv.toml", "pip", "compile", "--quiet"]
        command += [HERE.parent / "setup.py", "--override", overrides, "--output-file", pylock]
        command += ["--format", "pylock.toml", "--no-python-downloads"]
        command += ["--python-version", python, "--python-platform", PLATFORM]
        command += [word for extra in lock.extras for word in ("--extra", extra)]
        subprocess.run(list(map(str, command)), check=True)
        packages: list[dict[str, Any]] = tomllib.loads(pylock.read_text())["packages"]
    return packages


def render(lock: Lock, python: str, packages: list[dict[str, Any]]) -> str:
    """Return the text of a lock, in the format of pip's requirements files."""
    lines = [
        f"# Python {python} on Linux (x86-64, glibc 2.31): {', '.join(lock.extras)} of setup.py.",
        f"# {lock.about}",
        "# Written by requirements/renew.py. Install it with",
        "#     pip install --no-deps --require-hashes -r",
    ]
    for package in packages:
        name = package["name"]
        if name in lock.without or (lock.only and name not in lock.only):
            continue
        if "wheels" not in package and name != COMPILED:
            sys.exit(f"renew.py: {name} {package['version']} has no wheel for {PLATFORM}")
        files = package.get("wheels") or [package["sdist"]]
        hashes = sorted({file["hashes"]["sha256"] for file in files})
        lines.append(
            f"{name}=={package['version']}" + "".join(f" --hash=sha256:{h}" for h in hashes)
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
