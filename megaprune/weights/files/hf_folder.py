"""Hugging Face folders: safetensors shards and what lies beside them.

The safetensors library does not say where in a file a tensor lies, which reading part by part in
bounded memory needs. Its format is small and documented: eight bytes of header length, a JSON
header, then the tensors' bytes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from megaprune.errors import InputError
from megaprune.weights.boxes import Box, Shape
from megaprune.weights.files.folder import check_shape, otherwise_named
from megaprune.weights.files.kind import INDEX, SINGLE
from megaprune.weights.files.mapped import BAND_BYTES, read_box, row_major
from megaprune.weights.files.side_files import (
    QUANTIZATION_FILE,
    QUANTIZATION_KEYS,
    WEIGHT_ENDINGS,
    side_file_notes,
    side_files,
    without_quantization,
)
from megaprune.weights.files.wrong_folder import check_hugging_face
from megaprune.weights.layouts import hf_layout
from megaprune.weights.model import Model, read_config
from megaprune.weights.untrusted import (
    JSON_BYTES,
    are_whole,
    check_stays_in,
    leads_out,
    named,
    parse_json,
    plain_name,
    read_json_object,
    shown,
)

_HEAD = "lm_head.weight"

_MOST = 1 << 62
"""Of elements along a dimension, and of bytes."""

_DIMENSIONS = 16

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in a file, and its type and shape."""

    path: Path
    offset: int
    dtype: torch.dtype
    shape: Shape


class _Quantized(InputError):
    """A tensor's elements are not plain numbers."""


class HfFolder:
    """A Hugging Face model folder with safetensors weights.

    Opening it checks everything that can be checked without reading weights: every tensor that
    config.json calls for is there once, with the right shape, in a file of the right length.

    Raises:
        InputError: it is not so; the message names file and tensor.
    """

    format = "hugging-face"
    lost = ""

    def __init__(self, path: Path):
        check_hugging_face(path)
        self.path = path
        self.config, self.quantization = without_quantization(read_config(path))
        if not self.quantization and (path / QUANTIZATION_FILE).exists():
            self.quantization = QUANTIZATION_FILE  # a side file, which is not copied
        self.model = Model.from_config(self.config, str(path / "config.json"))
        self.layout = hf_layout(self.model)
        self.notes: list[str] = side_file_notes(path)
        try:
            self.tensors = self._checked(_stored_tensors(path, self.model.tied, self.notes))
        except _Quantized as error:
            method = f" ({self.quantization})" if self.quantization else ""
            raise InputError(
                f"{error}. Quantized weights are not read{method}: give the model as it was before"
            ) from None
        self._say_what_is_taken()

    def dtype(self, parameter: str) -> torch.dtype:
        """Return the element type of a tensor."""
        return self.tensors[parameter].dtype

    def read(self, parameter: str, box: Box) -> torch.Tensor:
        """Return elements of a tensor, on the file's pages."""
        stored = self.tensors[parameter]
        return read_box(stored.path, stored.offset, stored.dtype, row_major(stored.shape), box)

    def side_files(self) -> dict[str, Path]:
        """Return config.json, generation_config.json, tokenizer files and licence, by name."""
        return side_files(self.path)

    def _say_what_is_taken(self) -> None:
        """Note what of the folder is not as its words have it."""
        if self.quantization and self.quantization != QUANTIZATION_FILE:
            self.notes.append(
                f"config.json says that the weights are quantized ({self.quantization}); all are "
                f"plain, and its {QUANTIZATION_KEYS[0]} is not passed on"
            )
        paths = sorted({stored.path for stored in self.tensors.values()})
        if links := [path for path in paths if leads_out(path, self.path)]:
            more = f", and {len(links) - 1} more" if len(links) > 1 else ""
            self.notes.append(
                f"weights are read through links that lead out of {self.path}: {links[0].name} to "
                f"{os.path.realpath(links[0])}{more}"
            )

    def _checked(self, stored: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
        expected = self.layout.tensors
        for tensor, shape in expected.items():
            if tensor not in stored:
                raise InputError(
                    f"{self.path}: tensor {tensor} is missing: no weight file lists it, and the "
                    f"{self.model.family.architecture} of config.json has it"
                    f"{otherwise_named(tensor, stored)}"
                )
            check_shape(str(stored[tensor].path), tensor, stored[tensor].shape, shape)
        for tensor in sorted(stored.keys() - expected.keys()):
            if tensor.endswith("rotary_emb.inv_freq"):
                continue  # a buffer of old releases, recomputed by every loader
            if tensor == _HEAD and self.model.tied:
                _check_tied(stored["model.embed_tokens.weight"], stored[tensor])
                self.notes.append(
                    "lm_head.weight is stored besides the embedding that it is tied to; they are "
                    "equal, and only the embedding is kept"
                )
                continue
            raise InputError(
                f"{stored[tensor].path}: tensor {named(tensor)} is not part of "
                f"{self.model.family.architecture} with this config.json; it would be lost"
            )
        return {tensor: stored[tensor] for tensor in expected}


def _check_tied(embedding: StoredTensor, head: StoredTensor) -> None:
    """Raise an InputError unless a stored output layer is the embedding, as the config says."""
    same = (embedding.dtype, embedding.shape) == (head.dtype, head.shape)
    for band in Box.whole(head.shape).bands(BAND_BYTES // head.dtype.itemsize) if same else ():
        sides = [
            read_box(t.path, t.offset, t.dtype, row_major(t.shape), band).view(torch.uint8)
            for t in (embedding, head)
        ]
        same = same and torch.equal(*sides)
    if not same:
        raise InputError(
            f"{head.path}: lm_head.weight differs from the embedding, to which config.json ties "
            f"it; set tie_word_embeddings to false if it is right, or remove the tensor"
        )


def _stored_tensors(folder: Path, tied: bool, notes: list[str]) -> dict[str, StoredTensor]:
    """Return every tensor of the folder's weight files, those that transformers would load.

    Args:
        tied: whether the output layer is the embedding, and need not be stored.
        notes: what is taken although the index is wrong is said here.
    """
    index, single = folder / INDEX, folder / SINGLE
    if not index.is_file() and not single.is_file():
        weights = (p.name for p in folder.iterdir() if p.name.endswith(WEIGHT_ENDINGS))
        seen = [named(name) for name in sorted(weights)[:10]]
        raise InputError(
            f"{folder}: neither {INDEX} nor {SINGLE} is there (weight files seen: "
            f"{', '.join(seen) or 'none'}). Only safetensors are read: other weights can be "
            f"saved anew with transformers' save_pretrained"
        )
    check_stays_in(index, folder)
    for path in (index, single):
        if os.path.lexists(path) and not path.is_file():
            raise InputError(f"{path} is not a regular file")
    if not index.is_file():
        return read_header(single)
    tensors = _indexed_tensors(folder, index, tied, notes)
    if single.is_file() and single not in {stored.path for stored in tensors.values()}:
        raise InputError(
            f"{folder} has both {SINGLE} and {INDEX}, which does not name it: loaders differ in "
            f"which they take. Remove one"
        )
    return tensors


def _indexed_tensors(
    folder: Path, index: Path, tied: bool, notes: list[str]
) -> dict[str, StoredTensor]:
    listed = _listed(index)
    weight_map = {tensor: file for file, names in listed.items() for tensor in names}
    tensors: dict[str, StoredTensor] = {}
    for name, names in sorted(listed.items()):
        path = folder / name
        if not name.endswith(".safetensors"):  # links of weights are read wherever they lead
            check_stays_in(path, folder)
        if not path.is_file():
            raise InputError(
                f"{path} is missing; {INDEX} says that it holds {len(names)} tensors, "
                f"{named(names[0])} among them"
            )
        stored = read_header(path)
        for tensor in names:
            if tensor not in stored and tensor == _HEAD and tied:
                notes.append(
                    f"{INDEX} lists {_HEAD}, which no file has; the model ties it to the embedding"
                )
            elif tensor not in stored:
                raise InputError(
                    f"{path}: tensor {named(tensor)} is missing; {INDEX} says that it is there"
                )
        for tensor in stored:
            if weight_map.get(tensor) != name:
                raise InputError(
                    f"{index}: tensor {named(tensor)} is missing from the index; it is in {name}. "
                    f"The index and the shards are of different downloads"
                )
        tensors.update(stored)
    return tensors


def _listed(index: Path) -> dict[str, list[str]]:
    """Return the tensors of each shard, as the index has them."""
    listed: dict[str, list[str]] = {}
    try:
        weight_map = read_json_object(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise InputError(f"weight_map is {shown(weight_map)}; expected a JSON object")
        for tensor, file in weight_map.items():
            listed.setdefault(plain_name(file, named(tensor)), []).append(tensor)
    except InputError as error:
        raise InputError(f"{index}: not an index of safetensors shards: {error}") from error
    return listed


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Read where every tensor of a safetensors file lies.

    Raises:
        InputError: the file is truncated or is not of this format.
    """
    header, begins, length = _header(path)
    header.pop("__metadata__", None)
    tensors = {}
    for tensor, entry in header.items():
        try:
            dtype, shape, begin, end = _entry(f"{path}: tensor {named(tensor)}", entry)
        except _Quantized as error:
            raise _Quantized(f"{error}{_how_many(header)}") from None
        if begins + end > length:
            raise InputError(
                f"{path}: truncated: {length} bytes, but tensor {named(tensor)} ends at byte "
                f"{begins + end}. Fetch it again"
            )
        tensors[tensor] = StoredTensor(path, begins + begin, dtype, shape)
    places = {tensor: entry["data_offsets"] for tensor, entry in header.items()}
    _check_places(path, length - begins, places)
    return tensors


def _header(path: Path) -> tuple[dict[str, Any], int, int]:
    """Return the header of a safetensors file, where the data begins, and the file's length."""
    length = path.stat().st_size
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if length < 8 or size > length - 8:
            raise InputError(
                f"{path}: not a safetensors file, or truncated: its {length} bytes cannot hold the "
                f"header that they begin with (a Git LFS pointer?). Fetch it again"
            )
        if size > JSON_BYTES:
            raise InputError(f"{path}: its header has {size} bytes; expected at most {JSON_BYTES}")
        header = parse_json(file.read(size), f"{path}: the header")
    if not isinstance(header, dict):
        raise InputError(f"{path}: the header is not a JSON object. Fetch it again")
    return header, 8 + size, length


def _entry(where: str, entry: Any) -> tuple[torch.dtype, Shape, int, int]:
    """Return type, shape and place that a header gives a tensor."""
    if not isinstance(entry, dict):
        raise InputError(f"{where} has a malformed header: {shown(entry)}")
    kind, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    # Offsets below zero are called what they are where places are compared.
    if (
        not isinstance(kind, str)
        or not are_whole(shape, 0, _MOST)
        or not are_whole(offsets, -_MOST, _MOST, count=2)
        or len(shape) > _DIMENSIONS
    ):
        raise InputError(
            f"{where} has a malformed header: {shown(entry)}; expected a type, a shape of whole "
            f"numbers and two data_offsets"
        )
    if kind not in DTYPES:
        raise _Quantized(f"{where} is of type {named(kind)}; expected one of {', '.join(DTYPES)}")
    nbytes = prod(shape) * DTYPES[kind].itemsize
    begin, end = offsets
    if end - begin != nbytes:
        raise InputError(
            f"{where} of shape {shape} and type {kind} takes {shown(nbytes)} bytes; its header "
            f"gives it {end - begin}"
        )
    return DTYPES[kind], tuple(shape), begin, end


def _how_many(header: dict[str, Any]) -> str:
    kinds = [entry.get("dtype") for entry in header.values() if isinstance(entry, dict)]
    count = sum(kind not in DTYPES for kind in kinds if isinstance(kind, str))
    return f"; {count} of {len(header)} tensors in the file are of other types"


def _check_places(path: Path, length: int, places: dict[str, list[int]]) -> None:
    """Refuse tensors that do not fill the data one after another, as the library does too."""
    at = 0
    for tensor, (begin, end) in sorted(places.items(), key=lambda item: item[1]):
        if begin != at:
            raise InputError(
                f"{path}: tensor {named(tensor)} begins at byte {begin} of the data, but the one "
                f"before it ends at byte {at}: tensors overlap or leave a gap. Fetch it again"
            )
        at = end
    if at != length:
        raise InputError(
            f"{path}: holds {length} bytes of data, but its tensors end at byte {at}. Fetch it "
            f"again"
        )
