"""The index of a `torch_dist` checkpoint: what it holds and where, read without loading it.

The files are torch.distributed.checkpoint's: `.metadata` says which part of which tensor lies at
which byte of which file, as an archive that torch.save made.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorStorageMetadata

from megaprune.errors import InputError
from megaprune.weights.boxes import Box, Shape

HF_FILES = "hf"
"""Folder inside a checkpoint that keeps config.json, tokenizer files and the like."""

TRACKER = "latest_checkpointed_iteration.txt"
"""File beside the checkpoints of a run that says which is the latest."""


@dataclass
class Chunk:
    """A stored part of a tensor: its box, the file, and the archive's place in the file."""

    box: Box
    path: Path
    offset: int
    length: int
    data: tuple[int, Shape] | None = field(default=None)
    """First byte of the elements in the file, and their strides; known once looked for."""


class CheckpointIndex:
    """What a distributed checkpoint holds, whatever its model.

    Args:
        path: the checkpoint, or a run's folder with latest_checkpointed_iteration.txt.

    Raises:
        InputError: it is not such a checkpoint, or files are missing or truncated.
    """

    def __init__(self, path: Path):
        if not path.is_dir():
            raise InputError(f"{path} is not a folder; expected a Megatron-core checkpoint")
        self.path = path = latest_checkpoint(path)
        try:
            backend = json.loads((path / "metadata.json").read_text()).get("sharded_backend")
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(
                f"{path / 'metadata.json'} is not there, or is not that of a Megatron-core "
                f"distributed checkpoint: {error}"
            ) from error
        if backend != "torch_dist":
            raise InputError(
                f"{path}: saved as {backend}; expected torch_dist. Save it again with "
                f"--ckpt-format torch_dist"
            )
        self.metadata = _read_metadata(path)
        self.tensors: dict[str, TensorStorageMetadata] = {
            name: stored
            for name, stored in self.metadata.state_dict_metadata.items()
            if isinstance(stored, TensorStorageMetadata)
        }
        self._places: dict[str, list[tuple[MetadataIndex, Any]]] = {}
        for index, place in (self.metadata.storage_data or {}).items():
            self._places.setdefault(index.fqn, []).append((index, place))

    def chunks(self, tensor: str) -> list[Chunk]:
        """Return the stored parts of a tensor, checked to be in files that are long enough."""
        stored = self.tensors[tensor]
        sizes = {tuple(chunk.offsets): tuple(chunk.sizes) for chunk in stored.chunks}
        chunks = []
        for index, place in self._places.get(tensor, []):
            if getattr(place, "transform_descriptors", None):
                raise InputError(
                    f"{self.path / place.relative_path}: {tensor} is stored transformed "
                    f"({place.transform_descriptors}); only plain storage is read"
                )
            start = tuple(index.offset or (0,) * len(stored.size))
            if start not in sizes:
                raise InputError(
                    f"{self.path / '.metadata'} is damaged: it has a place for {list(start)} of "
                    f"{tensor}, but no such part"
                )
            box = Box.whole(sizes[start]).shift(start)
            file = self.path / place.relative_path
            if not file.is_file():
                raise InputError(f"{file} is missing; it holds {box} of {tensor}")
            length = file.stat().st_size
            if length < place.offset + place.length:
                raise InputError(
                    f"{file}: truncated: {length} bytes, but {tensor} ends at byte "
                    f"{place.offset + place.length}"
                )
            chunks.append(Chunk(box, file, place.offset, place.length))
        if sum(chunk.box.size for chunk in chunks) != prod(stored.size):
            raise InputError(
                f"{self.path}: {tensor} has {prod(stored.size)} elements, of which "
                f"{sum(chunk.box.size for chunk in chunks)} are stored"
            )
        return chunks


def is_checkpoint(path: Path) -> bool:
    """Say whether a folder looks like a Megatron-core checkpoint, or a run that has one."""
    return any((path / name).is_file() for name in ("metadata.json", TRACKER))


def kept_config(path: Path) -> Path | None:
    """Return the folder of Hugging Face files inside a checkpoint, if it keeps them."""
    kept = latest_checkpoint(path) / HF_FILES
    return kept if kept.is_dir() else None


def latest_checkpoint(path: Path) -> Path:
    """Return the checkpoint that a Megatron-LM run names as its latest; else the path itself."""
    tracker = path / TRACKER
    if (path / "metadata.json").exists() or not tracker.is_file():
        return path
    word = tracker.read_text().strip()
    name = word if word == "release" else f"iter_{int(word):07}" if word.isdigit() else None
    if name is None or not (path / name).is_dir():
        raise InputError(f"{tracker} names {word!r}, which is not a checkpoint in {path}")
    return path / name


def _read_metadata(path: Path) -> Metadata:
    try:
        # Unpickled by torch, as megatron-core does it: convert only checkpoints that you trust.
        return dcp.FileSystemReader(path).read_metadata()
    except FileNotFoundError as error:
        raise InputError(
            f"{path / '.metadata'} is missing: the checkpoint was not completely written or copied"
        ) from error
    except Exception as error:  # unpickling a damaged file can raise anything
        raise InputError(f"{path / '.metadata'} cannot be read: {error!r}") from error


class _Slice(io.RawIOBase):
    """A part of a file as a file of its own, for torch.load."""

    def __init__(self, path: Path, offset: int, length: int):
        self._file = path.open("rb")
        self._offset, self._length, self._at = offset, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        size = max(0, min(len(buffer), self._length - self._at))
        self._file.seek(self._offset + self._at)
        count = self._file.readinto(memoryview(buffer)[:size])
        self._at += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def locate(name: str, chunk: Chunk, dtype: torch.dtype) -> tuple[int, Shape]:
    """Find a chunk's elements inside the archive that torch.save made of it."""
    try:
        # Under a fake mode torch.load reads the archive's directory, not the elements.
        with FakeTensorMode(), _Slice(chunk.path, chunk.offset, chunk.length) as archive:
            saved = torch.load(archive, map_location="cpu", weights_only=True)
        shape, seen = tuple(saved.shape), saved.dtype
        strides = saved.view(chunk.box.shape).stride() if saved.numel() == chunk.box.size else ()
        first = saved.untyped_storage()._checkpoint_offset
    except Exception as error:  # a damaged archive can raise anything
        raise InputError(
            f"{chunk.path}: {name}{chunk.box} at byte {chunk.offset} is damaged: "
            f"{str(error).partition('. ')[0].partition(chr(10))[0]}"
        ) from error
    if prod(shape) != chunk.box.size or seen != dtype:
        raise InputError(
            f"{chunk.path}: {name}{chunk.box} is stored as {seen} {list(shape)}; "
            f"the checkpoint's metadata says {dtype} {list(chunk.box.shape)}"
        )
    return chunk.offset + first + saved.storage_offset() * dtype.itemsize, tuple(strides)
