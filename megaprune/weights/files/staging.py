"""Converted folders are made beside their place and renamed when they are whole."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from rich.filesize import decimal

from megaprune.errors import InputError
from megaprune.files import LEASE_ENDING, check_folder_output, clear_up, disk_full, new_folder
from megaprune.lease import Lease


@contextlib.contextmanager
def staged(out: Path, overwrite: bool, nbytes: int, *sources: Path) -> Iterator[Path]:
    """Yield a folder to write into, which becomes `out` if the block ends without an error.

    After an error nothing is left of it; what a killed process left is cleared away by the next.

    Args:
        overwrite: replace `out` if it is a folder that the program made and nothing was added to;
            otherwise it must not exist.
        nbytes: what will be written, to be checked against the free space first.
        sources: folders that are read from, which must not be replaced.

    Raises:
        InputError: `out` exists, holds something of another's, is a source, is being written by
            another process, or the disk is too small.
    """
    out = Path(os.path.abspath(out))
    out = out.parent.resolve() / out.name
    for source in sources:
        if source.resolve().is_relative_to(out.resolve()):
            raise InputError(f"{out} is where the input {source} lies; choose another --out")
    try:
        with _leased(out):
            clear_up(out, alone=True)
            check_folder_output(out, overwrite=overwrite)
            free = shutil.disk_usage(out.parent).free
            if free < nbytes:
                raise InputError(
                    f"the disk of {out.parent} is too full: {decimal(free)} free, "
                    f"{out.name} takes {decimal(nbytes)}"
                )
            with new_folder(out, overwrite=overwrite) as new:
                yield new
    except BaseException as error:
        if full := disk_full(error):
            raise InputError(
                f"the disk of {out.parent} is full: {full.strerror}. Nothing was left of "
                f"{out.name}; make room and run it again"
            ) from error
        raise


@contextlib.contextmanager
def _leased(out: Path) -> Iterator[None]:
    """Keep other conversions from writing the same output."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lease = Lease(out.with_name(f".{out.name}{LEASE_ENDING}"), out)
    except OSError as error:
        raise InputError(f"cannot write in {out.parent}: {error.strerror}") from error
    try:
        yield
    finally:
        lease.close()
