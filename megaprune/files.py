"""Writing aside, replacing and removing: no other module of the program does any of it.

What is written is made in a *staging folder* beside its place, `.NAME.megaprune-TOKEN`, and
renamed when it is whole and on the disk. The staging folder carries a mark, `owner.json`, which
says what it is for and which process made it. Only a folder with that mark is ever cleared away,
and only if its process is gone. A finished folder carries a record of its files; only a folder
whose every file is in its record, unchanged, is ever replaced or removed.

No link is followed: neither into a removal nor out of a folder that is replaced.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from megaprune.errors import InputError

RECORD = ".megaprune_files.json"
"""The file in a finished folder that lists the folder's other files."""

_UNKNOWN = "unknown"
"""When a process started that the system says no more of than that it lives."""

_OWNER, _NEW, _OLD = "owner.json", "new", "old"
_FORMAT = "megaprune staging folder"
_HASHED_BYTES = 1 << 20
"""Larger files are recorded by their size alone: they are weights, and nobody edits those."""


# Processes.


@cache
def machine() -> str:
    """What tells this machine's process numbers from those of others, and of its own last boot."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))  # containers count their own processes
    return " ".join(parts)


def process_record(pid: int | None = None) -> dict[str, Any]:
    """Name this process, or another one of this machine, for `is_gone`."""
    pid = os.getpid() if pid is None else pid
    return {"machine": machine(), "pid": pid, "started": _start_of(pid)}


def is_gone(process: dict[str, Any]) -> bool:
    """Say whether a process of this machine has ended. False for one of another machine."""
    if process.get("machine") != machine():
        return False
    pid, started = process.get("pid"), process.get("started")
    now = _start_of(pid) if type(pid) is int else None
    return now is None or (now != started and _UNKNOWN not in (now, started))


def _start_of(pid: int) -> str | None:
    """When a process started, in the kernel's ticks; None if there is none, or it has ended."""
    try:
        # The name in parentheses may hold anything; 20 fields follow it up to the start.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]  # ended, and not waited for
    except (OSError, IndexError):
        return _UNKNOWN if _is_hidden(pid) else None


def _is_hidden(pid: int) -> bool:
    """Say whether there is a process that /proc does not show, or there is no /proc."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return not Path("/proc/self/stat").exists()


# Errors of the system.


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says while something is written into an InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}. Mend that and run the same command "
            f"again: it goes on from where it was"
        ) from error


def disk_full(error: BaseException | None) -> OSError | None:
    """Return the ENOSPC or EDQUOT behind an error, if that is what it came from."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return error
        error = error.__cause__ or error.__context__
    return None


# Files.


@contextmanager
def new_file(path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """Yield a path to write a file to, which becomes `path` if the block ends without an error.

    A reader sees the old file or the new one, whole. If `path` is a link, the link is replaced.

    Args:
        overwrite: a file that is there is replaced; otherwise FileExistsError is raised for it.

    Raises:
        OSError: it cannot be written. What was there stays as it was.
    """
    if path.is_dir() and not path.is_symlink():
        raise IsADirectoryError(errno.EISDIR, f"{path} is a folder")
    clear_up(path)
    with _staging(path, "file") as staging:
        new = staging / _NEW
        yield new
        _flush(new)
        if overwrite:
            os.replace(new, path)
        else:
            os.link(new, path)  # unlike a rename, it fails if there is something
        _flush(path.parent)


def replace_bytes(path: Path, content: bytes) -> None:
    """Replace a file, or leave it as it is: a reader sees the old one or the new one, whole."""
    with new_file(path) as new:
        new.write_bytes(content)


def replace_text(path: Path, text: str) -> None:
    """Replace a file by a text in UTF-8, as `replace_bytes` does."""
    replace_bytes(path, text.encode("utf-8"))


def replace_link(path: Path, target: str) -> None:
    """Make a link, in place of one that is there.

    Raises:
        InputError: something else is there.
    """
    if path.exists() and not path.is_symlink():
        raise InputError(f"{path} is no link: it is not replaced; move it elsewhere")
    clear_up(path)
    with _staging(path, "link") as staging:
        (staging / _NEW).symlink_to(target)
        os.replace(staging / _NEW, path)
        _flush(path.parent)


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, durably. If the file ends within a line, a new one is begun."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
    handle = os.open(path, flags, 0o644)
    try:
        size = os.fstat(handle).st_size
        whole = size == 0 or os.pread(handle, 1, size - 1) == b"\n"
        content = (line if whole else "\n" + line).encode("utf-8") + b"\n"
        while content:
            content = content[os.write(handle, content) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def check_output(path: Path, *sources: Path, overwrite: bool) -> None:
    """Refuse a file to be written, before anything is touched.

    Args:
        sources: files that are read.
        overwrite: another file may be there; it is replaced.

    Raises:
        InputError: it is a source, or a folder or a special file, or it is there.
    """
    for source in sources:
        if path.exists() and source.exists() and os.path.samefile(path, source):
            raise InputError(f"{path} is the input {source}; choose another place for the output")
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise InputError(f"{path} is no ordinary file: it is not replaced; choose another place")
    if not overwrite:
        raise InputError(f"{path} exists; give --overwrite to replace it, or another place")


def remove_file(path: Path) -> None:
    """Remove a file that the program made in a folder of its own; a link or a folder is left."""
    with suppress(FileNotFoundError):
        if stat.S_ISREG(path.lstat().st_mode):
            path.unlink()


# Folders.


@contextmanager
def new_folder(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a folder to write into, which becomes `out` if the block ends without an error.

    The caller has the lease of `out` (see `megaprune.lease`). After an error nothing is left.

    Args:
        out: not a link.
        overwrite: replace `out` if all that is in it is in its record; otherwise it must not exist.

    Raises:
        InputError: `out` exists, or is not what the program made; the message names what would be
            lost.
        OSError: it cannot be written.
    """
    clear_up(out, alone=True)
    check_folder_output(out, overwrite=overwrite)
    with _staging(out, "folder") as staging:
        new = staging / _NEW
        new.mkdir()
        yield new
        _write_record(new)
        for path in (*new.rglob("*"), new):
            _flush(path)
        if out.exists():
            check_folder_output(out, overwrite=overwrite)  # it may have changed meanwhile
            os.rename(out, staging / _OLD)
        os.rename(new, out)
        _flush(out.parent)


def check_folder_output(out: Path, *, overwrite: bool) -> None:
    """Refuse a folder to be written, before anything is touched.

    Raises:
        InputError: see `new_folder`.
    """
    if out.is_symlink():
        raise InputError(f"{out} is a link, which is not replaced; give the place that it leads to")
    if not out.exists():
        return
    if not overwrite:
        raise InputError(f"{out} exists; give --overwrite to replace it, or another --out")
    if not out.is_dir():
        raise InputError(f"{out} is not a folder: it is not overwritten. Remove it yourself")
    lost = foreign(out)
    if lost is None:
        raise InputError(
            f"{out} has no record ({RECORD}) that megaprune made it: it is not overwritten. If "
            f"nothing in it is needed any more, remove it yourself"
        )
    if lost:
        raise InputError(
            f"{out} holds what megaprune did not write there, and would be lost: "
            f"{_listed(lost)}. It is not overwritten; move that elsewhere"
        )


def remove_folder(path: Path) -> None:
    """Remove a folder that the program made. The caller has the lease of what it is in.

    Raises:
        InputError: something in it is not in its record. Nothing is removed then.
        OSError: it cannot be removed.
    """
    lost = [path.name] if path.is_symlink() else foreign(path)
    if lost is None or lost:
        words = _listed(lost) if lost else "a folder without a record"
        raise InputError(f"{path} is not removed: it holds what megaprune did not write: {words}")
    with _staging(path, "removal") as staging:
        # Renamed first: half of it must not be taken for the whole.
        os.rename(path, staging / _OLD)
        _flush(path.parent)


def foreign(folder: Path) -> list[str] | None:
    """List what a folder holds beside the files of its record, unchanged.

    None if it has no record; an empty folder has nothing foreign in it.
    """
    entries = sorted(folder.rglob("*"))
    if not entries:
        return []
    record = read_json(folder / RECORD)
    files = record.get("files") if record.get("format") == "megaprune" else None
    if not isinstance(files, dict):
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
        elif _fingerprint(path) != files[name]:
            lost.append(f"{name} (changed since)")
    return lost


def _write_record(folder: Path) -> None:
    files = {
        str(path.relative_to(folder)): _fingerprint(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    text = json.dumps({"format": "megaprune", "files": files}, indent=1) + "\n"
    (folder / RECORD).write_text(text, encoding="utf-8")


def _fingerprint(path: Path) -> list[Any]:
    size = path.stat().st_size
    small = size <= _HASHED_BYTES
    return [size, hashlib.sha256(path.read_bytes()).hexdigest() if small else None]


def _listed(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


# Staging folders.


@contextmanager
def _staging(target: Path, purpose: str) -> Iterator[Path]:
    staging = target.with_name(f".{target.name}.megaprune-{secrets.token_hex(8)}")
    staging.mkdir()  # an error if anything has the name, a link included
    try:
        owner = {
            "format": _FORMAT, "target": target.name, "purpose": purpose, **process_record(),
        }  # fmt: skip
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(staging / _OWNER, flags, 0o644), "w", encoding="utf-8") as file:
            json.dump(owner, file)
        yield staging
    except BaseException:
        _put_back(staging, target, purpose)
        _remove_staging(staging)
        raise
    _remove_staging(staging)


def clear_up(target: Path, *, alone: bool = False) -> None:
    """Clear away what dead processes left of a target, and put back what they were replacing.

    Args:
        alone: this process has the target's lease, so that all others at it are dead; otherwise
            only what ended processes of this machine made is touched.
    """
    for staging in _stagings(target.parent):
        owner = read_json(staging / _OWNER)
        if owner.get("target") == target.name:
            _clear_staging(staging, owner, alone)


def clear_up_inside(folder: Path) -> None:
    """Do what `clear_up` does for all targets in a folder, whose lease this process has."""
    for staging in _stagings(folder):
        _clear_staging(staging, read_json(staging / _OWNER), True)


def _clear_staging(staging: Path, owner: dict[str, Any], alone: bool) -> None:
    purpose = owner.get("purpose")
    if owner.get("format") != _FORMAT or not isinstance(owner.get("target"), str):
        return
    if not (is_gone(owner) or alone):
        return
    target = staging.with_name(owner["target"])
    if target.parent != staging.parent or not staging.name.startswith(f".{target.name}."):
        return
    _put_back(staging, target, purpose)
    _remove_staging(staging)


def _put_back(staging: Path, target: Path, purpose: Any) -> None:
    old = staging / _OLD
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
    for name in (_NEW, _OLD):
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
            content = json.load(file)
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _flush(path: Path) -> None:
    """Make a file's content, or a folder's names, durable."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
