"""Tensors that lie in files: read by mapping exactly the bytes asked for, written in pieces."""

from __future__ import annotations

import contextlib
import io
import mmap
from math import prod
from pathlib import Path
from typing import Any

import torch

from megaprune.weights.boxes import Box, Shape

BAND_BYTES = 128 << 20
"""How much of a tensor is in memory at once while it is converted or compared."""

_WRITE_BYTES = 128 << 10
"""Larger write(2) calls make the kernel look for larger blocks of free memory to keep the data in,
which are the slow ones on a virtual machine that lends its free memory to its host: calls of 1 MiB
were measured to take 1.4 to 1.8 times as long as `cp`, calls of 64 to 256 KiB 0.9 to 1.1 times."""

_MADV_POPULATE_READ = 22  # Linux 5.14 and later; not in Python's mmap module


class _Pieces(io.FileIO):
    def write(self, data: Any, /) -> int:
        # A raw file may write less than it was given: who buffers it calls again.
        return super().write(memoryview(data).cast("B")[:_WRITE_BYTES])


def create(path: Path) -> io.BufferedWriter:
    """Open a new file to write tensors to."""
    return io.BufferedWriter(_Pieces(path, "w"))


def row_major(shape: Shape) -> Shape:
    """Return the strides, in elements, of a contiguous tensor of this shape."""
    return tuple(prod(shape[d + 1 :]) for d in range(len(shape)))


def read_box(path: Path, offset: int, dtype: torch.dtype, strides: Shape, box: Box) -> torch.Tensor:
    """Return the elements of `box` of a tensor that begins at byte `offset` of a file.

    Args:
        strides: of the tensor in the file, in elements.

    Returns:
        A tensor of `box.shape` on the file's pages, which are let go when the last view of it dies.
        Its storage is the span from the first element to the last. Writing to it does not reach
        the file.
    """
    if box.size == 0:
        return torch.empty(box.shape, dtype=dtype)
    first = sum(a * s for a, s in zip(box.start, strides, strict=True))
    last = sum((b - 1) * s for b, s in zip(box.stop, strides, strict=True))
    begin = offset + first * dtype.itemsize
    before = begin % mmap.ALLOCATIONGRANULARITY
    length = (last - first + 1) * dtype.itemsize
    with path.open("rb") as file:
        # Copy on write: torch warns about read-only memory, and would write to it all the same.
        pages = mmap.mmap(
            file.fileno(), before + length, access=mmap.ACCESS_COPY, offset=begin - before
        )
    # One call instead of a page fault for every few pages: up to 2 times faster where the elements
    # are written on (benchmarks/convert.py). Older kernels refuse it, and fault.
    with contextlib.suppress(OSError):
        pages.madvise(_MADV_POPULATE_READ)
    span = torch.frombuffer(pages, dtype=torch.uint8, offset=before, count=length)
    return span.view(dtype).as_strided(box.shape, strides)
