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
from megaprune.weights.files.checkpoint_index import is_checkpoint


@contextlib.contextmanager
def staged(out: Path, overwrite: bool, nbytes: int, *sources: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `out` if the block ends without an error.

    It is a sibling, `<out>.partial`, so that the rename is atomic. What a killed run left there is
    removed; after an error nothing is left.

    Args:
        overwrite: replace `out` if it is a model folder; otherwise it must not exist.
        nbytes: what will be written, to be checked against the free space first.
        sources: folders that are read from, which must not be replaced.

    Raises:
        InputError: `out` exists, is no model folder, is a source, is being written by another
            process, or the disk is too small.
    """
    out = out.absolute()
    _check_target(out, overwrite, sources)
    partial = out.with_name(out.name + ".partial")
    try:
        with _locked(out):
            if partial.exists():
                shutil.rmtree(partial)
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
                _publish(partial, out)
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
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between opening and locking, the last holder may have removed the file.
        mine = path.exists() and os.path.samestat(os.fstat(lock), path.stat())
    except BlockingIOError:
        mine = False
    except OSError as error:
        mine = True
        warnings.warn(
            f"files on {out.parent} cannot be locked ({error.strerror}): make sure that no other "
            f"conversion writes {out}",
            stacklevel=2,
        )
    try:
        if not mine:
            raise InputError(f"{out} is being written by another process")
        yield
    finally:
        if mine:
            path.unlink(missing_ok=True)
        os.close(lock)


def _check_target(out: Path, overwrite: bool, sources: tuple[Path, ...]) -> None:
    for source in sources:
        there = source.resolve()
        if out.resolve() == there or there.is_relative_to(out.resolve()):
            raise InputError(f"{out} is where the input {source} lies; choose another --out")
    if not out.exists():
        return
    if not overwrite:
        raise InputError(f"{out} exists; give --overwrite to replace it, or another --out")
    empty = out.is_dir() and not any(out.iterdir())
    if not (empty or is_checkpoint(out) or (out / "config.json").is_file()):
        raise InputError(f"{out} is not a model folder: it is not overwritten. Remove it yourself")


def _publish(partial: Path, out: Path) -> None:
    old = out.with_name(out.name + ".replaced")
    if old.exists():
        shutil.rmtree(old)
    if out.exists():
        out.rename(old)
    partial.rename(out)
    _flush(out.parent)
    if old.exists():
        shutil.rmtree(old)


def _flush(path: Path) -> None:
    """Make a file's content, or a folder's names, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _disk_full(error: BaseException | None) -> OSError | None:
    """The ENOSPC or EDQUOT behind an error, if that is what it came from."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return error
        error = error.__cause__ or error.__context__
    return None
