"""Hugging Face folders: safetensors shards and what lies beside them.

The safetensors library does not say where in a file a tensor lies, which reading part by part in
bounded memory needs. Its format is small and documented: eight bytes of header length, a JSON
header, then the tensors' bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from megaprune.errors import InputError
from megaprune.weights.boxes import Box, Shape
from megaprune.weights.files.folder import check_shape
from megaprune.weights.files.mapped import BAND_BYTES, read_box, row_major
from megaprune.weights.layouts import hf_layout
from megaprune.weights.model import Model, read_config

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
}

WEIGHT_ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".index.json", ".h5", ".msgpack")
_BESIDE_WEIGHTS = (".json", ".txt", ".jinja", ".model", ".tiktoken")
CHAT_TEMPLATES = "additional_chat_templates"
_LICENCES = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY")


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in a file, and its type and shape."""

    path: Path
    offset: int
    dtype: torch.dtype
    shape: Shape


class HfFolder:
    """A Hugging Face model folder with safetensors weights.

    Opening it checks everything that can be checked without reading weights: every tensor that
    config.json calls for is there once, with the right shape, in a file of the right length.

    Raises:
        InputError: it is not so; the message names file and tensor.
    """

    format = "hugging-face"

    def __init__(self, path: Path):
        if path.is_file():
            raise InputError(f"{path} is a file; expected the folder of a Hugging Face model")
        self.path = path
        self.config = read_config(path)
        self.model = Model.from_config(self.config, str(path / "config.json"))
        self.layout = hf_layout(self.model)
        self.notes: list[str] = []
        self.tensors = self._checked(_stored_tensors(path))

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

    def _checked(self, stored: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
        expected = self.layout.tensors
        for tensor, shape in expected.items():
            if tensor not in stored:
                raise InputError(
                    f"{self.path}: tensor {tensor} is missing: no weight file lists it, and the "
                    f"{self.model.family.architecture} of config.json has it"
                )
            check_shape(str(stored[tensor].path), tensor, stored[tensor].shape, shape)
        for tensor in sorted(stored.keys() - expected.keys()):
            if tensor.endswith("rotary_emb.inv_freq"):
                continue  # a buffer of old releases, recomputed by every loader
            if tensor == "lm_head.weight" and self.model.tied:
                _check_tied(stored["model.embed_tokens.weight"], stored[tensor])
                self.notes.append(
                    "lm_head.weight is stored besides the embedding that it is tied to; they are "
                    "equal, and only the embedding is kept"
                )
                continue
            raise InputError(
                f"{stored[tensor].path}: tensor {tensor} is not part of "
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


def side_files(folder: Path) -> dict[str, Path]:
    """Return configuration, tokenizer and licence files of a folder, by relative name."""
    return {
        str(path.relative_to(folder)): path
        for path in sorted([*folder.iterdir(), *folder.glob(f"{CHAT_TEMPLATES}/*")])
        if path.is_file()
        and not path.name.startswith((".", "megaprune_"))
        and not path.name.endswith(WEIGHT_ENDINGS)
        and (path.suffix in _BESIDE_WEIGHTS or path.name.startswith(_LICENCES))
    }


def _stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Return every tensor of the folder's weight files, those that transformers would load."""
    index, single = folder / INDEX, folder / SINGLE
    if not index.is_file() and not single.is_file():
        seen = sorted(p.name for p in folder.iterdir() if p.name.endswith(WEIGHT_ENDINGS))
        raise InputError(
            f"{folder}: neither {INDEX} nor {SINGLE} is there (weight files seen: "
            f"{', '.join(seen) or 'none'}). Only safetensors are read: other weights can be "
            f"saved anew with transformers' save_pretrained"
        )
    if not index.is_file():
        return read_header(single)
    tensors = _indexed_tensors(folder, index)
    if single.is_file() and single not in {stored.path for stored in tensors.values()}:
        raise InputError(
            f"{folder} has both {SINGLE} and {INDEX}, which does not name it: loaders differ in "
            f"which they take. Remove one"
        )
    return tensors


def copy_side_files(files: dict[str, Path], folder: Path) -> None:
    """Copy the files that `side_files` lists into a folder."""
    for name, path in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(path.read_bytes())


def _indexed_tensors(folder: Path, index: Path) -> dict[str, StoredTensor]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = {name: folder / name for name in sorted(set(weight_map.values()))}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index}: not an index of safetensors shards: {error!r}") from error
    tensors: dict[str, StoredTensor] = {}
    for name, path in shards.items():
        listed = [tensor for tensor, file in weight_map.items() if file == name]
        if not path.is_file():
            raise InputError(
                f"{path} is missing; {INDEX} says that it holds {len(listed)} tensors, "
                f"{listed[0]} among them"
            )
        stored = read_header(path)
        for tensor in listed:
            if tensor not in stored:
                raise InputError(
                    f"{path}: tensor {tensor} is missing; {INDEX} says that it is there"
                )
        for tensor in stored:
            if weight_map.get(tensor) != name:
                raise InputError(
                    f"{index}: tensor {tensor} is missing from the index; it is in {name}. "
                    f"The index and the shards are of different downloads"
                )
        tensors.update(stored)
    return tensors


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Read where every tensor of a safetensors file lies.

    Raises:
        InputError: the file is truncated or is not of this format.
    """
    length = path.stat().st_size
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if length < 8 or size > min(length - 8, 100_000_000):
            raise InputError(
                f"{path}: not a safetensors file, or truncated: its {length} bytes cannot hold the "
                f"header that they begin with (a Git LFS pointer?). Fetch it again"
            )
        try:
            header: dict[str, Any] = json.loads(file.read(size))
        except ValueError as error:
            raise InputError(f"{path}: the header is not JSON. Fetch it again") from error
    if not isinstance(header, dict):
        raise InputError(f"{path}: the header is not a JSON object. Fetch it again")
    header.pop("__metadata__", None)
    tensors = {}
    try:
        for tensor, entry in header.items():
            if entry["dtype"] not in DTYPES:
                raise InputError(
                    f"{path}: tensor {tensor} is of type {entry['dtype']}; expected one of "
                    f"{', '.join(DTYPES)}. Quantized checkpoints are not supported"
                )
            dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
            begin, end = entry["data_offsets"]
            if end - begin != prod(shape) * dtype.itemsize:
                raise InputError(
                    f"{path}: tensor {tensor} of shape {list(shape)} and type {entry['dtype']} "
                    f"takes {prod(shape) * dtype.itemsize} bytes; its header gives it {end - begin}"
                )
            if 8 + size + end > length:
                raise InputError(
                    f"{path}: truncated: {length} bytes, but tensor {tensor} ends at byte "
                    f"{8 + size + end}. Fetch it again"
                )
            tensors[tensor] = StoredTensor(path, 8 + size + begin, dtype, shape)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: tensor {tensor} has a malformed header: {error!r}") from error
    _check_places(path, length - 8 - size, {t: e["data_offsets"] for t, e in header.items()})
    return tensors


def _check_places(path: Path, length: int, places: dict[str, list[int]]) -> None:
    """Refuse tensors that do not fill the data one after another, as the library does too."""
    at = 0
    for tensor, (begin, end) in sorted(places.items(), key=lambda item: item[1]):
        if begin != at:
            raise InputError(
                f"{path}: tensor {tensor} begins at byte {begin} of the data, but the one before "
                f"it ends at byte {at}: tensors overlap or leave a gap. Fetch it again"
            )
        at = end
    if at != length:
        raise InputError(
            f"{path}: holds {length} bytes of data, but its tensors end at byte {at}. Fetch it "
            f"again"
        )
