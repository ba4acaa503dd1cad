"""Write safetensors shards part by part: the library writes whole files from memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import torch

from megaprune.weights.boxes import Box
from megaprune.weights.files.folder import Rearranged
from megaprune.weights.files.hf_folder import DTYPES
from megaprune.weights.files.kind import INDEX, SINGLE
from megaprune.weights.files.mapped import BAND_BYTES, create

_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

_ORDER = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""The safetensors library's order of tensors in a file (widest first, then by name)."""


def write_hf(
    folder: Path, weights: Rearranged, max_shard: int, written: Callable[[str, int, bool], None]
) -> None:
    """Write weights, in the logical layout, as safetensors shards with an index.

    Shards are filled in the model's order; within a shard, tensors lie in the order that the
    safetensors library gives them, so that a file equals the one it would write.

    Args:
        max_shard: bytes of tensors in a shard at the most; a larger tensor has one of its own.
        written: told (tensor, bytes, whether the tensor is complete) as each band is written.
    """
    shapes = weights.layout.tensors
    sizes = {t: prod(s) * weights.dtype(t).itemsize for t, s in shapes.items()}
    shards = list(_shards(sizes, max_shard))
    names = [SINGLE]
    if len(shards) > 1:
        names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    for name, tensors in zip(names, shards, strict=True):
        tensors.sort(key=lambda t: (_ORDER.index(weights.dtype(t)), t))
        with create(folder / name) as file:
            file.write(_header(weights, tensors, sizes))
            for tensor in tensors:
                box = Box.whole(shapes[tensor])
                for band in box.bands(BAND_BYTES // weights.dtype(tensor).itemsize):
                    data = weights.read(tensor, band).contiguous().view(torch.uint8).flatten()
                    file.write(data.numpy().data)
                    written(tensor, data.numel(), band.stop == box.stop)
                    del data  # before the next band is built
    if len(shards) > 1:
        index = {
            "metadata": {
                "total_parameters": sum(map(prod, shapes.values())),
                "total_size": sum(sizes.values()),
            },
            "weight_map": dict(
                sorted((t, name) for name, shard in zip(names, shards, strict=True) for t in shard)
            ),
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _shards(sizes: dict[str, int], limit: int) -> Iterator[list[str]]:
    shard: list[str] = []
    total = 0
    for tensor, size in sizes.items():
        if shard and total + size > limit:
            yield shard
            shard, total = [], 0
        shard.append(tensor)
        total += size
    yield shard


def _header(weights: Rearranged, tensors: list[str], sizes: dict[str, int]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        header[tensor] = {
            "dtype": _DTYPE_NAMES[weights.dtype(tensor)],
            "shape": list(weights.layout.tensors[tensor]),
            "data_offsets": [offset, offset + sizes[tensor]],
        }
        offset += sizes[tensor]
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
