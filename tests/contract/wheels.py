"""Files of wheels of one version, as the package index has them; of large wheels, those alone.

    python wheels.py NAME VERSION FOLDER PATTERN...

A wheel is a zip archive, whose table of contents stands at its end. pip can read parts of one over
HTTP, so that a few files of vLLM's 336 MB take 3 MB. What was fetched is kept in a cache:
MEGAPRUNE_TEST_CACHE, or a folder of XDG_CACHE_HOME.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from contextlib import ExitStack
from pathlib import Path

TRANSFORMER_ENGINE = ("transformer_engine", "2.20.2", "transformer_engine/*", "*.dist-info/*")
"""Its Python, 1.2 MB; the compiled half is a package of its own."""

VLLM = ("vllm", "0.33.0", *(f"vllm/{file}.py" for file in (
    "__init__", "_custom_ops", "config/model", "config/parallel", "engine/arg_utils",
    "entrypoints/llm", "env_override", "envs", "logprobs", "model_executor/layers/utils",
    "model_executor/models/qwen2", "outputs", "platforms/__init__", "platforms/interface",
    "sampling_params", "v1/engine/core_client", "v1/engine/llm_engine", "v1/executor/__init__",
    "v1/executor/abstract", "v1/executor/uniproc_executor", "v1/serial_utils",
    "v1/worker/gpu/model_runner", "v1/worker/gpu_model_runner", "v1/worker/gpu_worker",
    "v1/worker/worker_base",
)))  # fmt: skip
"""Of the CUDA build's 336 MB, what megaprune calls, and what that is defined with."""

TORCH = {
    version: ("torch", version, "torch/nn/attention/varlen.py")
    for version in ("2.10.0", "2.11.0", "2.14.0")
}
"""Its releases with other signatures of variable-length attention, and that of a GPU's lock."""

SECONDS = 300
CHUNK_BYTES = 256 << 10  # read at once: a file's neighbours in the wheel are seldom wanted


class Unavailable(Exception):
    """Files cannot be had here: no network, no such version, no pip."""


def files(name: str, version: str, *patterns: str) -> Path:
    """The folder of those files of a package's wheel that match a pattern.

    Raises:
        Unavailable: they are not in the cache, and cannot be fetched.
    """
    wanted = hashlib.sha256(" ".join(sorted(patterns)).encode()).hexdigest()[:12]
    folder = _cache() / f"{name}-{version}-{wanted}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix="partial-", dir=folder.parent))
    try:
        done = subprocess.run(
            [sys.executable, __file__, name, version, str(partial), *patterns],
            capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason is given"])[-1]
            raise Unavailable(f"{name} {version} cannot be fetched: {reason}")
        # Of two tests that fetch the same, the second finds it there: both have the same files.
        if not folder.is_dir():
            os.replace(partial, folder)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{name} {version} was not fetched in {SECONDS} s") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _cache() -> Path:
    chosen = os.environ.get("MEGAPRUNE_TEST_CACHE")
    if chosen:
        return Path(chosen)
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "megaprune-tests"


def fetch(name: str, version: str, folder: Path, patterns: list[str]) -> None:
    """Read files of a wheel with pip's own client, which knows index, certificates and proxies."""
    from pip._internal.commands import create_command
    from pip._internal.network.lazy_wheel import LazyZipOverHTTP
    from pip._vendor.packaging.specifiers import SpecifierSet

    command = create_command("download")
    options, _ = command.parse_args([name])
    with command.main_context():
        session = command.get_default_session(options)
        finder = command._build_package_finder(options, session)
        best = finder.find_best_candidate(name, SpecifierSet(f"=={version}")).best_candidate
        if best is None or not best.link.is_wheel:
            sys.exit("the index has no wheel of it for this Python")
        with ExitStack() as stack:
            place = best.link.file_path if best.link.is_file else None
            if place is None:
                url = best.link.url_without_fragment
                place = stack.enter_context(LazyZipOverHTTP(url, session, CHUNK_BYTES))
            _unpack(stack.enter_context(zipfile.ZipFile(place)), folder, patterns)


def _unpack(archive: zipfile.ZipFile, folder: Path, patterns: list[str]) -> None:
    for pattern in patterns:
        names = fnmatch.filter(archive.namelist(), pattern)
        if not names:
            sys.exit(f"its wheel has no {pattern}")
        for name in names:
            archive.extract(name, folder)


if __name__ == "__main__":
    fetch(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
