"""Files and folders: written whole, and replaced or removed only if they are the program's."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from megaprune.errors import InputError
from megaprune.files.record import (
    RECORD,
    fingerprint_of,
    foreign,
    is_recorded,
    listed,
    record_text,
    recorded,
    write_record,
)
from megaprune.files.staging import NEW, OLD, clear_up, flush, staging


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
    with staging(path, "file") as aside:
        new = aside / NEW
        yield new
        flush(new)
        if overwrite:
            os.replace(new, path)
        else:
            os.link(new, path)  # unlike a rename, it fails if there is something
        flush(path.parent)


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
    with staging(path, "link") as aside:
        (aside / NEW).symlink_to(target)
        os.replace(aside / NEW, path)
        flush(path.parent)


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


def check_output(
    path: Path, *sources: Path, overwrite: bool, is_ours: Callable[[Path], bool]
) -> None:
    """Refuse a file to be written, before anything is touched.

    Args:
        sources: files that are read.
        overwrite: a file that the program made may be there; it is replaced.
        is_ours: says whether the program made a file.

    Raises:
        InputError: it is a source, or something that is not to be replaced is there.
    """
    clear_up(path)
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
    if not is_ours(path):
        raise InputError(
            f"{path} is not what this command writes, and would be lost: it is not overwritten. "
            f"Move it elsewhere, or choose another place"
        )


def remove_file(path: Path) -> None:
    """Remove a file that the program made in a folder of its own; a link or a folder is left."""
    with suppress(FileNotFoundError):
        if stat.S_ISREG(path.lstat().st_mode):
            path.unlink()


def set_aside(path: Path, why: str) -> Path:
    """Give a file, folder or link another name beside it, by which it is not used; returns that.

    The caller has the lease of what it is in.

    Args:
        why: the first word of the new name.
    """
    number, aside = 1, path.with_name(f"{why}_{path.name}")
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"{why}_{path.name}_{number}")
    os.rename(path, aside)
    flush(path.parent)
    return aside


def write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files into a folder that is shared with others', in place of the program's own.

    The folder is made if it is not there. Its record says which files are the program's.

    Args:
        contents: of the files, by name. All are written before the first is replaced; they are
            replaced in this order.

    Raises:
        InputError: a file of such a name is there, and is not one that the program wrote.
        OSError: they cannot be written.
    """
    files = recorded(folder) or {}
    lost = [name for name in contents if not is_recorded(folder / name, files.get(name, []))]
    if lost:
        raise InputError(
            f"{folder} holds what megaprune did not write there, and would be lost: "
            f"{listed(lost)}. It is not overwritten; move that elsewhere, or choose another place"
        )
    folder.mkdir(parents=True, exist_ok=True)
    new = {name: [fingerprint_of(content)] for name, content in contents.items()}
    # A kill on the way leaves files that are the old ones or the new ones.
    both = {name: [*files.get(name, []), *fingerprints] for name, fingerprints in new.items()}
    _replace_record(folder, files | both)
    with staging(folder / RECORD, "files") as aside:
        written = aside / NEW
        written.mkdir()
        for name, content in contents.items():
            (written / name).write_bytes(content)
            flush(written / name)
        for name in contents:
            os.replace(written / name, folder / name)
        flush(folder)
    _replace_record(folder, files | new)


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
    with staging(out, "folder") as aside:
        new = aside / NEW
        new.mkdir()
        yield new
        write_record(new)
        for path in (*new.rglob("*"), new):
            flush(path)
        if out.exists():
            check_folder_output(out, overwrite=overwrite)  # it may have changed meanwhile
            os.rename(out, aside / OLD)
        os.rename(new, out)
        flush(out.parent)


def check_folder_output(out: Path, *, overwrite: bool) -> None:
    """Refuse a folder to be written, before anything is touched.

    Raises:
        InputError: see `new_folder`.
    """
    clear_up(out)
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
            f"{listed(lost)}. It is not overwritten; move that elsewhere"
        )


def remove_folder(path: Path) -> None:
    """Remove a folder that the program made. The caller has the lease of what it is in.

    Raises:
        InputError: something in it is not in its record. Nothing is removed then.
        OSError: it cannot be removed.
    """
    lost = [path.name] if path.is_symlink() else foreign(path)
    if lost is None or lost:
        words = listed(lost) if lost else "a folder without a record"
        raise InputError(f"{path} is not removed: it holds what megaprune did not write: {words}")
    with staging(path, "removal") as aside:
        # Renamed first: half of it must not be taken for the whole.
        os.rename(path, aside / OLD)
        flush(path.parent)


def _replace_record(folder: Path, files: Mapping[str, list[object]]) -> None:
    replace_text(folder / RECORD, record_text(files))
