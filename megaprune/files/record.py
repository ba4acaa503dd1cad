"""The record of a folder: which files in it the program wrote, and what they were."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megaprune.files.staging import read_json

RECORD = ".megaprune_files.json"
"""The file in a finished folder that lists the folder's other files."""

_FORMAT = "megaprune record of files"
_HASHED_BYTES = 1 << 20
"""Larger files are recorded by their size alone: they are weights, and nobody edits those."""


def foreign(folder: Path) -> list[str] | None:
    """List what a folder holds beside the files of its record, unchanged.

    None if it has no record; an empty folder has nothing foreign in it.
    """
    entries = sorted(folder.rglob("*"))
    if not entries:
        return []
    files = recorded(folder)
    if files is None:
        return None
    folders = {str(parent) for name in files for parent in Path(name).parents}
    lost = []
    for path in entries:
        name = str(path.relative_to(folder))
        mode = path.lstat().st_mode
        if name == RECORD or (stat.S_ISDIR(mode) and name in folders):
            continue
        if name not in files or not stat.S_ISREG(mode):
            lost.append(name)
        elif not is_recorded(path, files[name]):
            lost.append(f"{name} (changed since)")
    return lost


def recorded(folder: Path) -> dict[str, Any] | None:
    """Read a folder's record: by file, the fingerprints that it may have. None if there is none."""
    record = read_json(folder / RECORD)
    files = record.get("files") if record.get("format") == _FORMAT else None
    if not isinstance(files, dict) or not all(isinstance(f, list) for f in files.values()):
        return None
    return files


def is_recorded(path: Path, fingerprints: Sequence[Any]) -> bool:
    """Say whether a file is as it is recorded, or not there."""
    if not os.path.lexists(path):
        return True
    return stat.S_ISREG(path.lstat().st_mode) and _fingerprint(path) in fingerprints


def record_text(files: Mapping[str, Any]) -> str:
    """Return the text of a record: by file, the fingerprints that it may have."""
    return json.dumps({"format": _FORMAT, "files": files}, indent=1) + "\n"


def write_record(folder: Path) -> None:
    """Write the record of all that is in a folder."""
    files = {
        str(path.relative_to(folder)): [_fingerprint(path)]
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    (folder / RECORD).write_text(record_text(files), encoding="utf-8")


def _fingerprint(path: Path) -> list[Any]:
    size = path.stat().st_size
    return [size, None] if size > _HASHED_BYTES else fingerprint_of(path.read_bytes())


def fingerprint_of(content: bytes) -> list[Any]:
    """Return what a record says of a file with this content: its size, and sha256 if small."""
    size = len(content)
    return [size, hashlib.sha256(content).hexdigest() if size <= _HASHED_BYTES else None]


def listed(names: Sequence[str], most: int = 5) -> str:
    """Return names in a row, for a message."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
