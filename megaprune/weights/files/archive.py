"""Archives that `torch.save` made, read as data: what they say, and where elements lie in them.

`torch.load` runs what a pickle names, and what a TorchScript archive holds is a program. So these
are opened here as what they are: zip archives with a pickle (`pickled`) and stored elements.
"""

from __future__ import annotations

import io
import struct
import zipfile
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from megaprune.errors import InputError
from megaprune.weights.boxes import Shape
from megaprune.weights.files.mapped import row_major
from megaprune.weights.files.pickled import (
    PICKLE_BYTES,
    STORAGE,
    Made,
    Name,
    read_pickle,
)
from megaprune.weights.untrusted import are_whole, is_whole, shown

_DIRECTORY_BYTES = 4 << 20
"""What may be read of a tensor's archive beside its elements; a real one has some 2 KB."""

_LOCAL_HEADER = struct.Struct("<4s22xHH")

_REBUILDERS = {Name("torch._utils", f"_rebuild_tensor_{version}") for version in ("v2", "v3")}
_PARAMETER = Name("torch._utils", "_rebuild_parameter")
_ORDERED = Name("collections", "OrderedDict")


@dataclass(frozen=True)
class StoredElements:
    """Where a saved tensor's elements are in its archive.

    Args:
        offset: of the first element, in bytes.
        shape, strides: in elements.
    """

    offset: int
    dtype: torch.dtype
    shape: Shape
    strides: Shape


class FilePart(io.RawIOBase):
    """A part of a file as a file of its own, of which a bounded number of bytes can be read."""

    def __init__(self, path: Path, offset: int, length: int, budget: int = _DIRECTORY_BYTES):
        self._file = path.open("rb")
        self._offset, self._length, self._at, self._budget = offset, length, 0, budget

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """It can be read anywhere."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place in the part."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        if base + offset < 0:
            raise OSError(22, "a place before the beginning")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """Return the place in the part."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read what there is, within the budget."""
        size = max(0, min(len(buffer), self._length - self._at))
        self._budget -= size
        if self._budget < 0:
            raise InputError("more lies beside the elements than torch.save writes")
        self._file.seek(self._offset + self._at)
        count = self._file.readinto(memoryview(buffer)[:size])
        self._at += count
        return count

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


class Archive:
    """A zip archive that `torch.save` made.

    Args:
        file: which stays open as long as the archive is read.
        where: names it in errors.

    Raises:
        InputError: it is another archive: damaged, compressed, or TorchScript.
    """

    def __init__(self, file: io.RawIOBase, where: str):
        self._file, self._where = file, where
        try:
            entries = zipfile.ZipFile(file).infolist()
        except Exception as error:  # a damaged directory can raise anything
            raise InputError(
                f"{where} cannot be read: it is damaged, or was saved by a torch before 1.6 "
                f"({shown(str(error))})"
            ) from error
        # torch.save puts everything into one folder, named after the file.
        self._entries = {entry.filename.partition("/")[2]: entry for entry in entries}
        tops = {entry.filename.partition("/")[0] for entry in entries}
        if any(n == "constants.pkl" or n.startswith("code/") for n in (*self._entries, *tops)):
            raise InputError(
                f"{where} is a TorchScript archive, which is a program; it was not run. Expected "
                f"what torch.save writes"
            )
        stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        if len(tops) != 1 or len(self._entries) != len(entries) or not stored:
            raise InputError(f"{where} cannot be read: it is no archive that torch.save makes")

    def content(self, known: Any) -> Any:
        """Return what was saved, as data; `known` as in `read_pickle`."""
        offset, size = self._place("data.pkl")
        if size > PICKLE_BYTES:
            raise InputError(f"{self._where} has a pickle of {size} bytes; at most {PICKLE_BYTES}")
        self._file.seek(offset)
        data = self._file.read(size)
        return read_pickle(data or b"", self._where, known)

    def tensor(self) -> StoredElements:
        """Return where the elements lie, if what was saved is a tensor."""
        content = self.content(_of_tensors)
        if isinstance(content, Made) and content.maker == _PARAMETER and _has(content.args, 3):
            content = content.args[0]
        if (
            not isinstance(content, Made)
            or content.maker not in _REBUILDERS
            or not _has(content.args, 6)
        ):
            raise InputError(f"{self._where} holds {shown(content)}; expected a tensor")
        storage, first, shape, strides = content.args[:4]
        dtype = _element_type(storage, content.args)
        limits = (0, 1 << 62)
        if (
            dtype is None
            or not is_whole(first, *limits)
            or not are_whole(shape, *limits)
            or not are_whole(strides, *limits, count=len(shape))
        ):
            raise InputError(f"{self._where} holds a tensor without plain numbers")
        begin, size = self._place(f"data/{storage.state[2]}")
        if "byteorder" in self._entries and self._record("byteorder") != b"little":
            raise InputError(f"{self._where} was saved by a big-endian machine")
        last = first + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        if prod(shape) and (last + 1) * dtype.itemsize > size:
            raise InputError(
                f"{self._where} holds a tensor whose elements end at byte "
                f"{(last + 1) * dtype.itemsize}, but {size} bytes are stored"
            )
        return StoredElements(begin + first * dtype.itemsize, dtype, tuple(shape), tuple(strides))

    def _place(self, name: str) -> tuple[int, int]:
        """Return where an entry's bytes begin in the file, and how many there are."""
        entry = self._entries.get(name)
        if entry is None or entry.header_offset < 0:
            raise InputError(f"{self._where} cannot be read: it has no {shown(name)}")
        self._file.seek(entry.header_offset)
        header = self._file.read(_LOCAL_HEADER.size) or b""
        if len(header) < _LOCAL_HEADER.size or header[:4] != b"PK\x03\x04":
            raise InputError(f"{self._where} is damaged: {shown(name)} is not where it should be")
        _, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        begin = entry.header_offset + _LOCAL_HEADER.size + name_length + extra_length
        end = self._file.seek(0, io.SEEK_END)
        if begin + entry.file_size > end:
            raise InputError(f"{self._where} is truncated within {shown(name)}")
        return begin, entry.file_size

    def _record(self, name: str) -> bytes:
        offset, size = self._place(name)
        self._file.seek(offset)
        return self._file.read(min(size, 100)) or b""


def _has(args: Any, count: int) -> bool:
    return isinstance(args, tuple) and len(args) >= count


def _of_tensors(name: Name) -> bool:
    return (
        name in _REBUILDERS
        or name in (_PARAMETER, _ORDERED)
        or storage_type(name) is not None
        or dtype_of(name) is not None
        or name == Name("torch.storage", "UntypedStorage")
    )


def dtype_of(name: Any) -> torch.dtype | None:
    """Return the element type that a name is of; None if it is of something else."""
    if not isinstance(name, Name) or name.module != "torch":
        return None
    value = vars(torch).get(name.name)
    return value if isinstance(value, torch.dtype) else None


def storage_type(name: Any) -> torch.dtype | None:
    """Return the element type of a typed storage of torch; None if a name is of something else."""
    if not isinstance(name, Name) or name.module not in ("torch", "torch.storage"):
        return None
    for dtype, storage in torch.storage._dtype_to_storage_type_map().items():
        if storage == name.name:
            return dtype
    return None


def _element_type(storage: Any, args: tuple[Any, ...]) -> torch.dtype | None:
    """Return the type of the elements, if the storage is one that `torch.save` describes."""
    if not isinstance(storage, Made) or storage.maker != STORAGE or not _has(storage.state, 5):
        return None
    word, kind, key, *_ = storage.state
    if word != "storage" or not isinstance(key, str):
        return None
    if kind == Name("torch.storage", "UntypedStorage"):
        return dtype_of(args[6]) if len(args) > 6 else None
    return storage_type(kind)


def elements_of(path: Path, offset: int, length: int, where: str) -> StoredElements:
    """Find the elements of a tensor that `torch.save` wrote into a part of a file.

    Returns:
        Their place in the whole file.

    Raises:
        InputError: the part is not such an archive.
    """
    with FilePart(path, offset, length) as part:
        elements = Archive(part, where).tensor()
    return StoredElements(
        offset + elements.offset, elements.dtype, elements.shape, elements.strides
    )


def viewed(elements: StoredElements, shape: Shape) -> Shape | None:
    """Return the strides of saved elements seen in another shape; None where that needs a copy."""
    if elements.shape == shape:
        return elements.strides
    # Only leading or other dimensions of extent 1 may differ, unless all lies in one run.
    kept = [(n, s) for n, s in zip(elements.shape, elements.strides, strict=True) if n != 1]
    if [n for n, _ in kept] == [n for n in shape if n != 1]:
        strides = iter([s for _, s in kept])
        return tuple(next(strides) if n != 1 else 1 for n in shape)
    if prod(elements.shape) == prod(shape) and elements.strides == row_major(elements.shape):
        return row_major(shape)
    return None
