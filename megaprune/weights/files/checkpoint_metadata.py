"""`.metadata` of a `torch_dist` checkpoint: tensors, their parts, and the places of these.

It is a pickle of torch.distributed.checkpoint's classes, and read as data (`pickled`): every number
in it is checked before it is used.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch

from megaprune.errors import InputError
from megaprune.weights.boxes import Box, Shape
from megaprune.weights.files.archive import dtype_of
from megaprune.weights.files.pickled import PICKLE_BYTES, Made, Name, read_pickle
from megaprune.weights.untrusted import (
    are_whole,
    check_disjoint,
    is_whole,
    named,
    plain_name,
    read_bytes,
    shown,
)

METADATA = ".metadata"

_MOST = 1 << 62
"""Of elements along a dimension, and of bytes."""

_DIMENSIONS = 16

_CLASSES = {
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta",
        "TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo", "_StoragePrefix"},
    "torch.distributed.checkpoint.planner": {
        "BytesIOWriteData", "SavePlan", "TensorWriteData", "WriteItem", "WriteItemType",
    },
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "collections": {"OrderedDict"},
    "pathlib": {"Path", "PosixPath", "PurePath", "PurePosixPath"},
    "pathlib._local": {"Path", "PosixPath", "PurePath", "PurePosixPath"},
}  # fmt: skip
"""What torch.distributed.checkpoint and Megatron-core write into it, besides element types."""


@dataclass(frozen=True)
class StoredPart:
    """Where a part of a tensor, or an object, is stored: a file beside the metadata, and bytes."""

    file: str
    offset: int
    length: int


@dataclass
class CheckpointTensor:
    """A tensor of a checkpoint: its type and shape, its parts, and where each of them is."""

    dtype: torch.dtype
    shape: Shape
    parts: dict[Shape, Shape]
    """Shape of each part by its first element."""

    places: dict[Shape, StoredPart] = field(default_factory=dict)
    transformed: str = ""
    """How a part was changed before it was stored, which cannot be read."""


@dataclass(frozen=True)
class Contents:
    """What a checkpoint's `.metadata` lists, by name: tensors, and where other objects are."""

    tensors: dict[str, CheckpointTensor]
    objects: dict[str, StoredPart]


def known_in_metadata(name: Name) -> bool:
    """Say whether torch or Megatron-core write the name into `.metadata`."""
    return name.name in _CLASSES.get(name.module, ()) or dtype_of(name) is not None


def read_metadata(folder: Path, trust: bool = False) -> Contents:
    """Return what a checkpoint's `.metadata` lists.

    Args:
        trust: pass over objects of classes that are not known, instead of refusing them. They are
            not made or run either way.

    Raises:
        InputError: the file is not there, damaged, or says what cannot be.
    """
    path = folder / METADATA
    if not path.exists():
        raise InputError(f"{path} is missing: the checkpoint was not completely written or copied")
    data = read_bytes(path, PICKLE_BYTES)
    content = read_pickle(data, str(path), (lambda _: True) if trust else known_in_metadata)
    if not isinstance(content, Made) or content.maker.name != "Metadata":
        raise InputError(f"{path} cannot be read: it is {shown(content)}, no Metadata of torch's")
    try:
        return _contents(_state(content, "Metadata"))
    except _Unexpected as error:
        raise InputError(f"{path} is damaged: {error}") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


class _Unexpected(Exception):  # noqa: N818
    """What is said of the metadata where it is not what torch writes."""


def _state(value: Any, kind: str) -> dict[str, Any]:
    """Return the fields of an object of a class of torch.distributed.checkpoint."""
    if not isinstance(value, Made) or value.maker.name != kind or not isinstance(value.state, dict):
        raise _Unexpected(f"it has {shown(value)} where a {kind} is expected")
    return value.state


def _size(value: Any) -> Shape:
    """Return a shape or an index, which torch writes as a Size."""
    if isinstance(value, Made) and value.maker == Name("torch", "Size"):
        value = value.args[0] if isinstance(value.args, tuple) and value.args else ()
    if not are_whole(value, 0, _MOST) or len(value) > _DIMENSIONS:
        raise _Unexpected(f"it has {shown(value)} where a shape is expected")
    return tuple(value)


def _contents(metadata: dict[str, Any]) -> Contents:
    listed, storage = metadata.get("state_dict_metadata"), metadata.get("storage_data")
    if not isinstance(listed, dict) or not isinstance(storage or {}, dict):
        raise _Unexpected("it lists no tensors")
    tensors = {
        _name(name): _tensor(_name(name), entry)
        for name, entry in listed.items()
        if not (isinstance(entry, Made) and entry.maker.name == "BytesStorageMetadata")
    }
    objects: dict[str, StoredPart] = {}
    files: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for key, entry in (storage or {}).items():
        index = _state(key, "MetadataIndex")
        name = _name(index.get("fqn"))
        place, transformed = _place(name, entry)
        files[place.file].append((place.offset, place.offset + place.length, name))
        tensor = tensors.get(name)
        if tensor is None:
            objects[name] = place
            continue
        offset = index.get("offset")
        start = (0,) * len(tensor.shape) if offset is None else _size(offset)
        if start not in tensor.parts:
            raise _Unexpected(
                f"it has a place for {list(start)} of {named(name)}, but no such part"
            )
        if start in tensor.places:
            raise _Unexpected(f"it has two places for {list(start)} of {named(name)}")
        tensor.places[start] = place
        tensor.transformed = tensor.transformed or transformed
    for file, places in files.items():
        check_disjoint(places, f"parts in {file}")
    return Contents(tensors, objects)


def _name(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 1000:
        raise _Unexpected(f"it has {shown(value)} where a tensor's name is expected")
    return value


def _tensor(name: str, entry: Any) -> CheckpointTensor:
    state = _state(entry, "TensorStorageMetadata")
    properties = state.get("properties")
    written = properties.state if isinstance(properties, Made) else None
    # torch before 2.3 wrote a dictionary.
    of_type = written.get("dtype") if isinstance(written, dict) else written
    dtype = dtype_of(of_type[0] if isinstance(of_type, tuple) and of_type else of_type)
    if dtype is None:
        raise _Unexpected(f"it does not say of which type {named(name)} is")
    shape = _size(state.get("size"))
    parts = {}
    chunks = state.get("chunks")
    for chunk in chunks if isinstance(chunks, list) else ():
        fields = _state(chunk, "ChunkStorageMetadata")
        start, size = _size(fields.get("offsets")), _size(fields.get("sizes"))
        if len(start) != len(shape) or len(size) != len(shape):
            raise _Unexpected(f"a part of {named(name)} has other dimensions than the tensor")
        if any(a + n > whole for a, n, whole in zip(start, size, shape, strict=True)):
            raise _Unexpected(f"a part of {named(name)} reaches beyond the tensor")
        if start in parts:
            raise _Unexpected(f"two parts of {named(name)} begin at {list(start)}")
        parts[start] = size
    return CheckpointTensor(dtype, shape, parts)


def _place(name: str, entry: Any) -> tuple[StoredPart, str]:
    fields = _state(entry, "_StorageInfo")
    file, offset, length = fields.get("relative_path"), fields.get("offset"), fields.get("length")
    file = plain_name(file, f"the place of {named(name)}")
    if not is_whole(offset, 0, _MOST) or not is_whole(length, 0, _MOST):
        raise _Unexpected(
            f"{named(name)} lies at byte {shown(offset)} and has {shown(length)}; expected whole "
            f"numbers"
        )
    transforms = fields.get("transform_descriptors")
    return StoredPart(file, offset, length), shown(transforms) if transforms else ""


def check_tiled(shape: Shape, parts: dict[Shape, Shape], where: str) -> None:
    """Raise an InputError unless the parts fill a tensor, each element once."""
    stored = sum(map(prod, parts.values()))
    if stored != prod(shape):
        raise InputError(f"{where} has {prod(shape)} elements, of which {stored} are stored")
    if _is_grid(shape, parts):
        return
    boxes = [Box.whole(size).shift(start) for start, size in sorted(parts.items()) if prod(size)]
    if len(boxes) > 2000:
        raise InputError(f"{where} is stored in {len(boxes)} parts that are no grid")
    for number, box in enumerate(boxes):
        for other in boxes[number + 1 :]:
            if box.intersect(other):
                raise InputError(f"{where} is stored with gaps, and {box} and {other} overlap")


def _is_grid(shape: Shape, parts: dict[Shape, Shape]) -> bool:
    """Say whether each part is one cell of a grid that lines through all first elements make."""
    ends: list[dict[int, int]] = []
    for axis, extent in enumerate(shape):
        lines = sorted({start[axis] for start in parts})
        ends.append(dict(zip(lines, [*lines[1:], extent], strict=True)))
    return prod(map(len, ends)) == len(parts) and all(
        a + n == ends[axis][a]
        for start, size in parts.items()
        for axis, (a, n) in enumerate(zip(start, size, strict=True))
    )
