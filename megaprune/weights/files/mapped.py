"""Tensors that lie in files: read by mapping exactly the bytes that are asked for."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy
import torch

from megaprune.weights.boxes import Box, Shape

BAND_BYTES = 128 << 20
"""How much of a tensor is in memory at once while it is converted or compared."""


def row_major(shape: Shape) -> Shape:
    """Strides, in elements, of a contiguous tensor of this shape."""
    return tuple(prod(shape[d + 1 :]) for d in range(len(shape)))


def read_box(path: Path, offset: int, dtype: torch.dtype, strides: Shape, box: Box) -> torch.Tensor:
    """The elements of `box` of a tensor that begins at byte `offset` of a file.

    Args:
        strides: of the tensor in the file, in elements.

    Returns:
        A tensor of `box.shape` on the file's pages: nothing is read before it is touched, and the
        pages are let go when the last view of it dies. Its storage is no larger than the span of
        the box. Writing to it does not reach the file.
    """
    if box.size == 0:
        return torch.empty(box.shape, dtype=dtype)
    first = sum(a * s for a, s in zip(box.start, strides, strict=True))
    last = sum((b - 1) * s for b, s in zip(box.stop, strides, strict=True))
    size = dtype.itemsize
    # "c": copy on write. torch warns about, but does not respect, read-only memory.
    span = numpy.memmap(
        path, numpy.uint8, "c", offset + first * size, shape=((last - first + 1) * size,)
    )
    return torch.frombuffer(span, dtype=dtype).as_strided(box.shape, strides)
