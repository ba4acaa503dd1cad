"""Staging folders: where something is made beside its place, and put right after a kill."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from megaprune.files.processes import is_gone, machine, process_record

NEW, OLD = "new", "old"
"""What a staging folder holds: what is being made, and what that replaces."""

_OWNER = "owner.json"
_JSON_BYTES = 256 << 20

LEASE_ENDING = ".megaprune-lease"
"""What a lease in a folder is called, and what ends the name of one that is beside its place."""

STAGING_FORMAT = "megaprune staging folder"
"""What the mark of a staging folder says that it is."""


@contextmanager
def staging(target: Path, purpose: str) -> Iterator[Path]:
    """Yield a staging folder for a target; it is gone when the block ends.

    Args:
        purpose: "file", "files", "link", "folder" or "removal".
    """
    process = process_record()
    # The name says whose it is even before the mark is in it.
    maker = f"{_machine_hash()}-{process['pid']}-{process['started']}"
    aside = target.with_name(f".{target.name}.megaprune-{maker}-{secrets.token_hex(4)}")
    aside.mkdir()  # an error if anything has the name, a link included
    try:
        owner = {
            "format": STAGING_FORMAT, "target": target.name, "purpose": purpose, **process,
        }  # fmt: skip
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(aside / _OWNER, flags, 0o644), "w", encoding="utf-8") as file:
            json.dump(owner, file)
        yield aside
    except BaseException:
        _put_back(aside, target, purpose)
        _remove_staging(aside)
        raise
    _remove_staging(aside)


def clear_up(target: Path, *, alone: bool = False) -> None:
    """Clear away what dead processes left of a target, and put back what they were replacing.

    Args:
        alone: this process has the target's lease, so that all others at it are dead; otherwise
            only what ended processes of this machine made is touched.
    """
    for aside in _stagings(target.parent):
        if aside.name.startswith(f".{target.name}.megaprune-"):
            _clear_staging(aside, read_json(aside / _OWNER), alone)


def clear_up_inside(folder: Path) -> None:
    """Do what `clear_up` does for all targets below a folder, whose lease this process has.

    What is below and has a lease of its own is its holder's.
    """
    for place, names, _ in os.walk(folder):
        names[:] = [
            name
            for name in names
            if ".megaprune-" not in name
            if not os.path.lexists(os.path.join(place, name, LEASE_ENDING))
        ]
        for aside in _stagings(Path(place)):
            target = aside.name.rpartition(".megaprune-")[0]
            leased = os.path.lexists(aside.with_name(target + LEASE_ENDING))
            _clear_staging(aside, read_json(aside / _OWNER), alone=not leased)


def _clear_staging(staging: Path, owner: dict[str, Any], alone: bool) -> None:
    purpose = owner.get("purpose")
    if not owner and (alone or _maker_is_gone(staging)):
        _remove_unmarked(staging)
    if owner.get("format") != STAGING_FORMAT or not isinstance(owner.get("target"), str):
        return
    if not (is_gone(owner) or alone):
        return
    target = staging.with_name(owner["target"])
    if target.parent != staging.parent or not staging.name.startswith(f".{target.name}."):
        return
    _put_back(staging, target, purpose)
    _remove_staging(staging)


def _machine_hash() -> str:
    return hashlib.sha256(machine().encode()).hexdigest()[:8]


def _maker_is_gone(staging: Path) -> bool:
    """Say whether a staging folder's name is of an ended process of this machine."""
    parts = staging.name.rpartition(".megaprune-")[2].split("-")
    if len(parts) != 4 or parts[0] != _machine_hash() or not parts[1].isdecimal():
        return False
    return is_gone({"machine": machine(), "pid": int(parts[1]), "started": parts[2]})


def _remove_unmarked(staging: Path) -> None:
    """Remove the staging folder of a process that was killed before it had marked it."""
    if all(p.name == _OWNER and p.lstat().st_size == 0 for p in staging.iterdir()):
        (staging / _OWNER).unlink(missing_ok=True)
        staging.rmdir()


def _put_back(staging: Path, target: Path, purpose: Any) -> None:
    old = staging / OLD
    if purpose == "folder" and old.is_dir() and not os.path.lexists(target):
        os.rename(old, target)


def _stagings(folder: Path) -> list[Path]:
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [
        folder / entry.name
        for entry in entries
        if entry.name.startswith(".") and ".megaprune-" in entry.name
        if entry.is_dir(follow_symlinks=False)
    ]


def _remove_staging(staging: Path) -> None:
    """Remove what a staging folder may hold, the mark last; what else is in it stays."""
    for name in (NEW, OLD):
        path = staging / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    (staging / _OWNER).unlink(missing_ok=True)
    with suppress(OSError):  # something of somebody else's is in it
        staging.rmdir()


def read_json(path: Path) -> dict[str, Any]:
    """Read an object of JSON from an ordinary file; empty if that is not what it is."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, encoding="utf-8") as file:
            if os.fstat(handle).st_size > _JSON_BYTES:
                return {}
            content = json.load(file)
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def flush(path: Path) -> None:
    """Make a file's content, or a folder's names, durable."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
