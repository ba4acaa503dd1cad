"""What a run's checkpoint was when it was saved: a digest of every stored part of every tensor.

They lie in the checkpoint itself, in `megaprune_checkpoint.json`, together with its step and what
was known of its worth. A *part* is what torch.distributed.checkpoint stores in one piece: some of
a tensor's elements, as an archive that lies at some bytes of a file. All bytes of all files are in
some part, so that no bit of a checkpoint can change unseen.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import stat
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from megaprune.errors import InputError
from megaprune.files import RECORD, read_json
from megaprune.weights.untrusted import (
    are_whole,
    check_disjoint,
    is_whole,
    leads_out,
    named,
    parse_json,
    plain_name,
)

DIGESTS = "megaprune_checkpoint.json"
"""The file in a run's checkpoint that says what the checkpoint is."""

VERIFY = ("full", "sample", "off")
"""How much of a checkpoint is compared with its digests: all, about a sixteenth, or nothing."""

_FORMAT = "megaprune checkpoint 1"
_RECORD_BYTES = 256 << 20
_FILE_BYTES = 1 << 30
"""How long the record may be, and each file that has no tensors."""

_SAMPLED = 16
_READ_BYTES = 4 << 20
_THREADS = 4


class Damaged(Exception):
    """Raised where a checkpoint is not what was saved; says which file, and what is wrong."""


class PartDigest(NamedTuple):
    """Bytes of a file that hold elements of a tensor.

    Args:
        tensor: its name in the checkpoint; empty for bytes that belong to none.
        start: index of the part's first element in the tensor; null for what is not a tensor.
        offset, length: the bytes.
        sha256: of those bytes.
    """

    tensor: str
    start: list[int] | None
    offset: int
    length: int
    sha256: str

    def __str__(self) -> str:
        place = f"bytes {self.offset} to {self.offset + self.length}"
        if not self.tensor:
            return place
        return (
            f"{named(self.tensor)}{'' if self.start is None else f' from {self.start}'} ({place})"
        )


@dataclass(frozen=True)
class CheckpointRecord:
    """What a checkpoint is.

    Args:
        step: steps that were done.
        score: accuracy and length of this step's model; None if that was not measured.
        best: step, accuracy and length of the best model up to here; None if none was measured.
        highest: accuracy of all that were measured up to here.
        parts: of each file with tensors, by its name.
        files: size and sha256 of each other file, by its name.
    """

    step: int
    score: dict[str, Any] | None = None
    best: dict[str, Any] | None = None
    highest: float = 0.0
    parts: dict[str, list[PartDigest]] = field(default_factory=dict)
    files: dict[str, tuple[int, str]] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Digest the folder's other files, and write the record into it."""
        for path in sorted(folder.rglob("*")):
            name = str(path.relative_to(folder))
            if name not in self.parts and path.is_file():
                data = path.read_bytes()
                self.files[name] = (len(data), hashlib.sha256(data).hexdigest())
        content: dict[str, Any] = {"format": _FORMAT, **asdict(self)}
        content["sha256"] = _own_digest(content)
        text = json.dumps(content, separators=(",", ":")) + "\n"
        (folder / DIGESTS).write_text(text, encoding="utf-8")

    def check(self) -> None:
        """Raise a ValueError if this cannot be what `write` wrote: the folder may be anybody's."""
        for name in (*self.parts, *self.files):
            for word in name.split("/"):
                plain_name(word, "it")
        for name, parts in self.parts.items():
            if not all(map(_is_part, parts)):
                raise ValueError(f"it has parts of {named(name)} that are none")
            places = [(p.offset, p.offset + p.length, p.tensor) for p in parts if p.length]
            check_disjoint(places, f"parts of {named(name)}")
        for name, place in self.files.items():
            if (
                not isinstance(place, list | tuple)
                or len(place) != 2
                or not is_whole(place[0], 0, _FILE_BYTES)
            ):
                raise ValueError(f"it has no size of {named(name)}")
        numbers = [self.highest]
        for score in (self.score, self.best):
            if score is not None:
                numbers += [score["step"], score["accuracy"], score["length"]]
        if type(self.step) is not int or not all(type(n) in (int, float) for n in numbers):
            raise ValueError("it has a score that is not a number")

    @staticmethod
    def read(folder: Path) -> CheckpointRecord | None:
        """Read the record of a checkpoint; None if it was saved without one.

        Raises:
            Damaged: it is not what was written.
            InputError: it cannot be read.
        """
        try:
            data = _content(folder / DIGESTS, _RECORD_BYTES)
            content = parse_json(data, DIGESTS, _RECORD_BYTES)
            if not isinstance(content, dict) or content.pop("sha256") != _own_digest(content):
                raise ValueError("its content is not what was written")
            if content.pop("format") != _FORMAT:
                raise ValueError(f"its format is not {_FORMAT!r}")
            parts = {
                n: [PartDigest(*part) for part in parts] for n, parts in content["parts"].items()
            }
            record = CheckpointRecord(**{**content, "parts": parts})
            record.check()
            return record
        except FileNotFoundError:
            files = read_json(folder / RECORD).get("files")
            if isinstance(files, dict) and DIGESTS in files:
                raise Damaged(f"{DIGESTS} is missing") from None
            return None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Damaged(f"{DIGESTS} is not what was written ({error})") from error


def _is_part(part: PartDigest) -> bool:
    return (
        isinstance(part.tensor, str)
        and isinstance(part.sha256, str)
        and (part.start is None or are_whole(part.start, 0, 1 << 62))
        and are_whole((part.offset, part.length), 0, 1 << 62)
    )


def digest_parts(
    path: Path, places: Iterable[tuple[str, list[int] | None, int, int]]
) -> list[PartDigest]:
    """Digest a file of a checkpoint as it is on the disk, part by part.

    Args:
        places: tensor, index of the first element, offset and length of each part.

    Raises:
        OSError: it cannot be read.
    """
    parts, at = [], 0
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        for tensor, start, offset, length in sorted(places, key=lambda place: place[2]):
            if offset > at:
                parts.append(
                    PartDigest("", None, at, offset - at, _sha256(file.fileno(), at, offset))
                )
            end = offset + length
            digest = _sha256(file.fileno(), offset, end)
            parts.append(PartDigest(tensor, start, offset, length, digest))
            at = max(at, end)
        if size > at:
            parts.append(PartDigest("", None, at, size - at, _sha256(file.fileno(), at, size)))
    return parts


def damage(
    folder: Path,
    verify: str = "full",
    *,
    tensors: Collection[str] | None = None,
    share: tuple[int, int] = (0, 1),
) -> list[str]:
    """Compare a checkpoint with its digests; returns a line for each thing that differs.

    Each names the file, and the tensor whose bytes differ.

    Args:
        verify: one of `VERIFY`; of "off" only whether the record itself can be read.
        tensors: look only at their bytes, besides the small files; None for all.
        share: (number, of how many): this process's share of the bytes, for several at once.

    Raises:
        InputError: it has no digests, or a file cannot be opened.
    """
    try:
        record = CheckpointRecord.read(folder)
    except Damaged as error:
        return [str(error)]
    if verify == "off":
        return []
    if record is None:
        raise InputError(
            f"{folder} has no digests ({DIGESTS}), so that nobody can tell whether it is whole: it "
            f"is of an earlier version, or not of a run. checkpoint.verify=off takes it as it is"
        )
    number, count = share
    lines = _file_damage(folder, record) if number == 0 else []
    jobs: list[tuple[str, PartDigest]] = []
    for name, parts in record.parts.items():
        wanted = [part for part in parts if tensors is None or part.tensor in tensors]
        if wanted and not (faults := _size_damage(folder / name, name, parts)):
            if verify == "sample":
                # Not of the run's own random numbers, which must be the same without this.
                wanted = random.SystemRandom().sample(wanted, -(-len(wanted) // _SAMPLED))
            jobs += [(name, part) for part in wanted]
        elif wanted and number == 0:
            lines += faults
    with ThreadPoolExecutor(_THREADS) as pool:
        damaged = pool.map(
            lambda job: _part_damage(folder, *job), islice(jobs, number, None, count)
        )
        return lines + [line for line in damaged if line is not None]


def check_whole(folder: Path, verify: str, tensors: Collection[str] | None = None) -> None:
    """Refuse a run's checkpoint that is damaged; one without digests is another program's.

    Args:
        verify, tensors: as for `damage`.

    Raises:
        InputError: it is; the message names files and tensors.
    """
    if verify == "off" or not is_own(folder):
        return
    if lines := damage(folder, verify, tensors=tensors):
        raise InputError(
            f"{folder} is damaged: {in_short(lines)}. Take another checkpoint, or restore this one "
            f"from a copy; a run that is started again goes on from the whole one before it"
        )


def is_own(folder: Path) -> bool:
    """Whether a checkpoint is one that a run saved with its digests, as far as names show."""
    if os.path.lexists(folder / DIGESTS):
        return True
    files = read_json(folder / RECORD).get("files")
    return isinstance(files, dict) and DIGESTS in files


def in_short(lines: list[str], most: int = 3) -> str:
    """Put the first few of some lines into one."""
    more = f"; and {len(lines) - most} more" if len(lines) > most else ""
    return "; ".join(lines[:most]) + more


def _file_damage(folder: Path, record: CheckpointRecord) -> list[str]:
    lines = []
    for name, (size, sha256) in record.files.items():
        try:
            content = _content(folder / name, _FILE_BYTES, folder)
        except FileNotFoundError:
            lines.append(f"{name} is missing")
        except Damaged as error:
            lines.append(str(error))
        else:
            if len(content) != size:
                lines.append(f"{name} has {len(content)} bytes instead of {size}")
            elif hashlib.sha256(content).hexdigest() != sha256:
                lines.append(f"{name} is not what was saved")
    return lines


def _size_damage(path: Path, name: str, parts: list[PartDigest]) -> list[str]:
    """Say what is missing of a file with tensors: all of it, or its end."""
    end = max(part.offset + part.length for part in parts)
    try:
        mode, size = (status := path.stat()).st_mode, status.st_size
    except FileNotFoundError:
        names = sorted({named(part.tensor) for part in parts if part.tensor})
        return [f"{name} is missing; it holds {len(names)} tensors, {', '.join(names[:2])} ..."]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if not stat.S_ISREG(mode) or leads_out(path, path.parent):
        return [f"{name} is no ordinary file"]
    if size != end:
        cut = [str(part) for part in parts if part.offset + part.length > size]
        lost = f"; cut off: {in_short(cut, 2)}" if cut else ""
        return [f"{name} has {size} bytes instead of {end}{lost}"]
    return []


def _part_damage(folder: Path, name: str, part: PartDigest) -> str | None:
    try:
        handle = os.open(folder / name, os.O_RDONLY | os.O_NONBLOCK)
        try:
            seen = _sha256(handle, part.offset, part.offset + part.length)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno != errno.EIO:
            raise InputError(f"cannot read {folder / name}: {error.strerror}") from error
        return f"{name}: {part} cannot be read ({error.strerror})"
    return None if seen == part.sha256 else f"{name}: {part} is not what was saved"


def _sha256(handle: int, start: int, stop: int) -> str:
    digest, buffer = hashlib.sha256(), memoryview(bytearray(min(_READ_BYTES, stop - start)))
    while start < stop and (count := os.preadv(handle, [buffer[: stop - start]], start)):
        digest.update(buffer[:count])
        start += count
    return digest.hexdigest()


def _content(path: Path, limit: int, folder: Path | None = None) -> bytes:
    """Read a small file, which may have become anything, and must lie in `folder` if that is given.

    Raises:
        FileNotFoundError: it is not there.
        Damaged: it is no ordinary file, or the disk cannot read it.
        InputError: the system does not let it be read.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or (folder is not None and leads_out(path, folder)):
            raise Damaged(f"{path.name} is no ordinary file")
        if status.st_size > limit:
            raise Damaged(f"{path.name} has {status.st_size} bytes, more than any that was saved")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(errno.ENOENT, f"{path.name} is missing") from error
    except OSError as error:
        if error.errno in (errno.EIO, errno.ELOOP):
            raise Damaged(f"{path.name} cannot be read ({error.strerror})") from error
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def _own_digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
