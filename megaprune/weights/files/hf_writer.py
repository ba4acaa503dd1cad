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
from megaprune.weights.files.hf_folder import DTYPES, INDEX, SINGLE
from megaprune.weights.files.mapped import BAND_BYTES

_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

_WRITE_BYTES = 1 << 20
"""Mapped pages are written in pieces of this size: Linux takes up to 4 times longer to write a
large span of pages that are not in memory yet (benchmarks/convert.py)."""


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
        # Widest type first keeps every tensor aligned.
        tensors.sort(key=lambda t: (-weights.dtype(t).itemsize, _rank(weights.dtype(t)), t))
        with open(folder / name, "wb") as file:
            file.write(_header(weights, tensors, sizes))
            for tensor in tensors:
                box = Box.whole(shapes[tensor])
                for band in box.bands(BAND_BYTES // weights.dtype(tensor).itemsize):
                    data = weights.read(tensor, band).contiguous().view(torch.uint8).flatten()
                    for start in range(0, data.numel(), _WRITE_BYTES):
                        file.write(data[start : start + _WRITE_BYTES].numpy().data)
                    written(tensor, data.numel(), band.stop == box.stop)
    if len(shards) > 1:
        index = {
            "metadata": {
                "total_parameters": sum(map(prod, shapes.values())),
                "total_size": sum(sizes.values()),
            },
            "weight_map": {
                tensor: name
                for name, tensors in zip(names, shards, strict=True)
                for tensor in tensors
            },
        }
        index["weight_map"] = dict(sorted(index["weight_map"].items()))
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


def _rank(dtype: torch.dtype) -> int:
    # The library orders types of the same width by their place in its list: BF16 after F16.
    return {torch.bfloat16: 0, torch.float16: 1}.get(dtype, 0)


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
