"""Half-open ranges of tensor elements, and the little geometry that weight movement needs.

Pure Python: no torch, no numpy. All tensors are row-major.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from operator import add, lt, sub
from typing import NamedTuple

Shape = tuple[int, ...]


class Box(NamedTuple):
    """Elements `start[d] <= i[d] < stop[d]` of a tensor, in every dimension d."""

    start: Shape
    stop: Shape

    @staticmethod
    def whole(shape: Shape) -> Box:
        """Return the box that holds every element of a tensor of this shape."""
        return Box((0,) * len(shape), tuple(shape))

    @property
    def shape(self) -> Shape:
        """Number of elements along each dimension."""
        return tuple(map(sub, self.stop, self.start))

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def slices(self) -> tuple[slice, ...]:
        """The index that picks this box out of an array or tensor."""
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    def __str__(self) -> str:
        return "[" + ", ".join(f"{a}:{b}" for a, b in zip(self.start, self.stop, strict=True)) + "]"

    def intersect(self, other: Box) -> Box | None:
        """Return the elements in both, or None where there are none."""
        # Most pairs that a plan looks at lie apart in their rows: tell those quickly.
        if self.stop[:1] <= other.start[:1] or other.stop[:1] <= self.start[:1]:
            return None
        start = tuple(map(max, self.start, other.start))
        stop = tuple(map(min, self.stop, other.stop))
        return Box(start, stop) if all(map(lt, start, stop)) else None

    def subtract(self, other: Box) -> list[Box]:
        """Return disjoint boxes with the elements of this box that are not in `other`."""
        common = self.intersect(other)
        if common is None:
            return [self]
        if common == self:
            return []
        rest = []
        start, stop = list(self.start), list(self.stop)
        for d, (low, high) in enumerate(zip(common.start, common.stop, strict=True)):
            if start[d] < low:
                rest.append(Box(tuple(start), (*stop[:d], low, *stop[d + 1 :])))
            if high < stop[d]:
                rest.append(Box((*start[:d], high, *start[d + 1 :]), tuple(stop)))
            start[d], stop[d] = low, high
        return rest

    def shift(self, offset: Shape) -> Box:
        """Move the box by `offset` elements along each dimension."""
        return Box(tuple(map(add, self.start, offset)), tuple(map(add, self.stop, offset)))

    def within(self, outer: Box) -> Box:
        """Return this box in coordinates that count from the start of `outer`."""
        return Box(
            tuple(map(sub, self.start, outer.start)), tuple(map(sub, self.stop, outer.start))
        )

    def carried(self, outer: Box, to: Box) -> Box:
        """Return where this box lies, given that `outer`, of which it is a part, lies at `to`.

        `outer` and `to` may differ in the number of leading dimensions of extent 1.
        """
        inner = self.within(outer)
        extra = len(to.start) - len(inner.start)
        if extra >= 0:
            inner = Box((0,) * extra + inner.start, (1,) * extra + inner.stop)
        else:
            inner = Box(inner.start[-extra:], inner.stop[-extra:])
        return inner.shift(to.start)

    def is_one_run(self, shape: Shape) -> bool:
        """Say whether the box is one contiguous run of memory in a tensor of this shape."""
        extents = self.shape
        first = next((d for d, extent in enumerate(extents) if extent != 1), len(extents))
        return extents[first + 1 :] == tuple(shape[first + 1 :])

    def bands(self, max_elements: int) -> Iterator[Box]:
        """Cut into boxes of at most `max_elements`, in memory order.

        Cuts run along the first dimension longer than 1; a single row that is larger stays whole,
        so a band exceeds the limit only where one row does.
        """
        extents = self.shape
        axis = next((d for d, extent in enumerate(extents) if extent != 1), None)
        if axis is None or self.size <= max_elements:
            yield self
            return
        step = max(1, max_elements // prod(extents[axis + 1 :]))
        for low in range(self.start[axis], self.stop[axis], step):
            high = min(low + step, self.stop[axis])
            yield Box(
                (*self.start[:axis], low, *self.start[axis + 1 :]),
                (*self.stop[:axis], high, *self.stop[axis + 1 :]),
            )
