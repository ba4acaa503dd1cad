"""The index of a `torch_dist` checkpoint: what it holds and where, read without loading it.

The files are torch.distributed.checkpoint's: `.metadata` says which part of which tensor lies at
which byte of which file, as an archive that torch.save made. Nothing of them is run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import torch

from megaprune.errors import InputError
from megaprune.weights.boxes import Box, Shape
from megaprune.weights.files.archive import elements_of, viewed
from megaprune.weights.files.checkpoint_metadata import (
    CheckpointTensor,
    StoredPart,
    check_tiled,
    read_metadata,
)
from megaprune.weights.files.digests import is_own
from megaprune.weights.files.kind import COMMON, COMMON_OBJECT, METADATA, TRACKER, iterations
from megaprune.weights.files.wrong_folder import below, check_checkpoint
from megaprune.weights.untrusted import check_stays_in, leads_out, named, read_json_object

HF_FILES = "hf"
"""Folder inside a checkpoint that keeps config.json, tokenizer files and the like."""


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
        path: the checkpoint, or a folder of checkpoints, of which the latest is taken.
        trust: pass over what is of classes that are not known (`read_metadata`).

    Raises:
        InputError: it is not such a checkpoint, or files are missing or truncated.
    """

    def __init__(self, path: Path, trust: bool = False):
        check_checkpoint(path)
        self.path = path = latest_checkpoint(path)
        check_checkpoint(path)
        try:
            backend = read_json_object(path / "metadata.json").get("sharded_backend")
        except InputError as error:
            raise InputError(
                f"{path / 'metadata.json'} is not there, or is not that of a Megatron-core "
                f"distributed checkpoint: {error}"
            ) from error
        if backend != "torch_dist":
            raise InputError(
                f"{path}: saved as {named(str(backend))}; expected torch_dist. Save it again with "
                f"--ckpt-format torch_dist"
            )
        self._contents = read_metadata(path, trust)
        self.tensors: dict[str, CheckpointTensor] = self._contents.tensors

    def common(self) -> tuple[Path, StoredPart] | None:
        """Find what Megatron-core keeps undivided: its file, and the place in it; None if nowhere.

        Where both are, the file counts, as it does for Megatron-core.
        """
        file = self.path / COMMON
        if file.is_file():
            return file, StoredPart(COMMON, 0, file.stat().st_size)
        part = self._contents.objects.get(COMMON_OBJECT)
        if part is None:
            return None
        return self._file(part, COMMON_OBJECT), part

    def chunks(self, tensor: str) -> list[Chunk]:
        """Return the stored parts of a tensor, checked to be in files that are long enough."""
        stored = self.tensors[tensor]
        name = named(tensor)
        if stored.transformed:
            raise InputError(
                f"{self.path}: {name} is stored transformed ({stored.transformed}); only plain "
                f"storage is read"
            )
        chunks = []
        for start, place in stored.places.items():
            box = Box.whole(stored.parts[start]).shift(start)
            file = self._file(place, name, f"{box} of ")
            chunks.append(Chunk(box, file, place.offset, place.length))
        there = {chunk.box.start: chunk.box.shape for chunk in chunks}
        check_tiled(stored.shape, there, f"{self.path}: {name}")
        return chunks

    def _file(self, place: StoredPart, name: str, part: str = "") -> Path:
        """Return the file that a part is in, checked to be there and long enough."""
        file = self.path / place.file
        check_stays_in(file, self.path)
        if not file.is_file():
            raise InputError(f"{file} is missing; it holds {part}{name}")
        length = file.stat().st_size
        if length < place.offset + place.length:
            raise InputError(
                f"{file}: truncated: {length} bytes, but {name} ends at byte "
                f"{place.offset + place.length}"
            )
        return file


def kept_config(path: Path) -> Path | None:
    """Return the folder of Hugging Face files inside a checkpoint, if it keeps them."""
    folder = latest_checkpoint(path)
    kept = folder / HF_FILES
    return kept if kept.is_dir() and not leads_out(kept, folder) else None


def latest_checkpoint(path: Path) -> Path:
    """Return the latest checkpoint of a run's folder; the path itself if it is a checkpoint.

    A run of megaprune has whole checkpoints only: the last one counts, whatever the tracker says.
    Another program's may be half written, and its tracker says which one is not.

    Raises:
        InputError: the tracker names what is not there, and nothing else is.
    """
    tracker = path / TRACKER
    if (path / METADATA).exists():
        return path
    checkpoints = iterations(path)
    if own := [checkpoint for checkpoint in checkpoints if is_own(checkpoint)]:
        return own[-1]
    if not tracker.is_file():
        return checkpoints[-1] if checkpoints else path
    with tracker.open("rb") as file:
        word = file.read(100).decode(errors="replace").strip()
    number = re.fullmatch(r"[0-9]{1,18}", word)
    name = word if word == "release" else number and f"iter_{int(word):07}"
    if name and (path / name).is_dir():
        return path / name
    if not checkpoints:
        raise InputError(
            f"{tracker} names {word[:40]!r}, which is not a checkpoint in {path}{below(path)}"
        )
    return checkpoints[-1]


def locate(name: str, chunk: Chunk, dtype: torch.dtype) -> tuple[int, Shape]:
    """Find a chunk's elements inside the archive that torch.save made of it."""
    where = f"{chunk.path}: {named(name)}{chunk.box} at byte {chunk.offset}"
    try:
        elements = elements_of(chunk.path, chunk.offset, chunk.length, where)
    except InputError as error:
        raise InputError(f"{where} is damaged: {str(error).removeprefix(where)}") from error
    strides = viewed(elements, chunk.box.shape)
    if strides is None or elements.dtype != dtype:
        raise InputError(
            f"{chunk.path}: {named(name)}{chunk.box} is stored as {elements.dtype} "
            f"{list(elements.shape)}; the checkpoint's metadata says {dtype} "
            f"{list(chunk.box.shape)}"
        )
    return elements.offset, strides
