"""Whether a model's shorter answers to the same problem are right more often (2501.12570, Table 1).

The responses to each problem are divided by their length into intervals, the shortest first. The
accuracy of an interval is the mean over problems, so that hard problems, whose responses are long,
do not make long responses look wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

COUNT = 4
"""Intervals, as published."""


def accuracy_by_rank(
    right: Sequence[Sequence[bool]], lengths: Sequence[Sequence[int]], count: int = COUNT
) -> list[float] | None:
    """The accuracy of the shortest, ..., longest responses; as many in each interval.

    Responses of equal length are all as right as they are on average, so that their order is of no
    account. Of K responses, interval i has the ranks from K i / count to K (i + 1) / count,
    in part where a rank is in two.

    Args:
        right: of each problem's responses.
        lengths: the same, tokens.
        count: of intervals.

    Returns:
        [count], the mean over problems with `count` responses or more; None if there are none.
    """
    rows = [
        _by_rank(np.asarray(r, np.float64), np.asarray(n), count)
        for r, n in zip(right, lengths, strict=True)
        if len(r) >= count
    ]
    return [float(value) for value in np.mean(rows, axis=0)] if rows else None


def _by_rank(right: NDArray[np.float64], lengths: NDArray[np.int64], count: int) -> list[float]:
    values, places, sizes = np.unique(lengths, return_inverse=True, return_counts=True)
    # A response is as right as those of its length are on average.
    shares = (np.bincount(places, right, len(values)) / sizes)[np.sort(places)]
    ranks, edges = np.arange(len(right) + 1), np.linspace(0, len(right), count + 1)
    at_edges = np.interp(edges, ranks, np.concatenate([[0.0], np.cumsum(shares)]))
    return [float(value) for value in np.diff(at_edges) / np.diff(edges)]


def accuracy_by_width(
    right: Sequence[Sequence[bool]], lengths: Sequence[Sequence[int]], count: int = COUNT
) -> list[float | None] | None:
    """The accuracy in intervals of equal width between a problem's shortest and longest response.

    Args:
        right: of each problem's responses.
        lengths: the same, tokens.
        count: of intervals.

    Returns:
        [count], the mean over those problems with `count` responses or more that have one in the
        interval, None for one without any; None if no such problem has responses of two lengths.
    """
    found: list[list[float]] = [[] for _ in range(count)]
    for r, n in zip(right, lengths, strict=True):
        low, width = min(n), max(n) - min(n)
        if not width or len(n) < count:
            continue
        places = [min(count - 1, count * (length - low) // width) for length in n]
        for place in {*places}:
            inside = [bool(b) for b, own in zip(r, places, strict=True) if own == place]
            found[place].append(sum(inside) / len(inside))
    if not any(found):
        return None
    return [float(np.mean(values)) if values else None for values in found]
