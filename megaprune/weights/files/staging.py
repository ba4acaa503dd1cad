"""Outputs are made beside their place and renamed when they are whole."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

from rich.filesize import decimal

from megaprune.errors import InputError
from megaprune.weights.files.checkpoint_index import HF_FILES
from megaprune.weights.files.hf_folder import CHAT_TEMPLATES, WEIGHT_ENDINGS


@contextlib.contextmanager
def staged(out: Path, overwrite: bool, nbytes: int, *sources: Path) -> Iterator[Path]:
    """Yield a folder to write into, which becomes `out` if the block ends without an error.

    It is a sibling, `<out>.partial`, so that the rename is atomic; a model that it replaces is
    `<out>.replaced` for that moment. What a killed run left of both is put right by the next; after
    an error nothing is left.

    Args:
        overwrite: replace `out` if it is a model folder; otherwise it must not exist.
        nbytes: what will be written, to be checked against the free space first.
        sources: folders that are read from, which must not be replaced.

    Raises:
        InputError: `out` exists, is no model folder, is a source, is being written by another
            process, or the disk is too small.
    """
    out = out.resolve()
    partial, replaced = (out.with_name(out.name + word) for word in (".partial", ".replaced"))
    for source in sources:
        if source.resolve() == out or source.resolve().is_relative_to(out):
            raise InputError(f"{out} is where the input {source} lies; choose another --out")
    try:
        with _locked(out):
            _clear_up(out, partial, replaced)
            _check_target(out, overwrite)
            free = shutil.disk_usage(out.parent).free
            if free < nbytes:
                raise InputError(
                    f"the disk of {out.parent} is too full: {decimal(free)} free, "
                    f"{out.name} takes {decimal(nbytes)}"
                )
            partial.mkdir()
            try:
                yield partial
                for path in (*partial.rglob("*"), partial):
                    _flush(path)
                _publish(partial, out, replaced)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
    except BaseException as error:
        if full := _disk_full(error):
            raise InputError(
                f"the disk of {out.parent} is full: {full.strerror}. Nothing was left of "
                f"{out.name}; make room and run it again"
            ) from error
        raise


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Keep other conversions from writing the same output."""
    path = out.with_name(f".{out.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise InputError(f"cannot write in {out.parent}: {error.strerror}") from error
    mine = True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        mine = False
    except OSError as error:
        warnings.warn(
            f"files on {out.parent} cannot be locked ({error.strerror}): make sure that no other "
            f"conversion writes {out}",
            stacklevel=2,
        )
    try:
        # Between opening and locking, the last holder may have removed the file.
        mine = mine and os.path.samestat(os.fstat(lock), path.stat())
    except FileNotFoundError:
        mine = False
    try:
        if not mine:
            raise InputError(f"{out} is being written by another process")
        yield
    finally:
        if mine:
            path.unlink(missing_ok=True)
        os.close(lock)


def _clear_up(out: Path, partial: Path, replaced: Path) -> None:
    """Remove what a killed run left, and put back what it was about to replace."""
    if partial.exists():
        shutil.rmtree(partial)
    if replaced.exists():
        if out.exists():
            shutil.rmtree(replaced)
        else:
            replaced.rename(out)


def _check_target(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    if not overwrite:
        raise InputError(f"{out} exists; give --overwrite to replace it, or another --out")
    if not out.is_dir() or not _is_only_a_model(out):
        raise InputError(
            f"{out} is not a model folder, or holds more than one model: it is not overwritten. "
            f"Remove it yourself"
        )


def _is_only_a_model(folder: Path) -> bool:
    """Say whether a folder is empty, or one model and nothing else (a run holds several)."""
    names = {path.name for path in folder.iterdir()}
    if not names:
        return True
    if any((folder / name).is_dir() for name in names - {HF_FILES, CHAT_TEMPLATES}):
        return False
    checkpoint = {"metadata.json", ".metadata"} <= names
    weights = any(name.endswith(WEIGHT_ENDINGS) for name in names)
    return checkpoint or ("config.json" in names and weights)


def _publish(partial: Path, out: Path, replaced: Path) -> None:
    if out.exists():
        out.rename(replaced)
    try:
        partial.rename(out)
    except BaseException:
        if replaced.exists():
            replaced.rename(out)
        raise
    _flush(out.parent)
    if replaced.exists():
        shutil.rmtree(replaced)


def _flush(path: Path) -> None:
    """Make a file's content, or a folder's names, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _disk_full(error: BaseException | None) -> OSError | None:
    """Return the ENOSPC or EDQUOT behind an error, if that is what it came from."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return error
        error = error.__cause__ or error.__context__
    return None
