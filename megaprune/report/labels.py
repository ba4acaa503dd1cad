"""Names at the points of a figure, where no line strikes them and they hide nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from megaprune.report.figures import GREY
from megaprune.report.run_records import Array

Line: TypeAlias = Sequence[tuple[float, float]]
"""Both ends of a straight line."""

_PLACES = [
    (across * distance, up * distance, side, edge)
    for distance in (5, 10, 18, 28, 40, 54)
    for across, side in ((1, "left"), (-1, "right"))
    for up, edge in ((1, "bottom"), (-1, "top"))
]
"""Of a point's name: points of 1/72 inch to the right and up, and which corner of it is there."""


_NEAR = 10
"""In points: a name that is farther away has a line to its point."""


def label_points(
    axes: Axes, points: Sequence[tuple[str, float, float]], lines: Sequence[Line]
) -> list[Annotation]:
    """Write names at points, each where it meets no line, no point and no other name, if it can.

    What cannot be helped a white rim keeps readable. A thin line joins a name to its point where
    it is farther away.

    Args:
        axes: the axes, with their final limits.
        points: names, and where they are.
        lines: what is drawn beside the points.
    """
    figure: Any = axes.figure
    figure.draw_without_rendering()  # now everything is where it will be
    segments = [axes.transData.transform(np.asarray(line, dtype=float)) for line in lines]
    spots = axes.transData.transform(np.array([(x, y) for _, x, y in points], dtype=float))
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in spots]
    labels = []
    for number, (name, x, y) in enumerate(points):
        text = axes.annotate(
            name, (x, y), xytext=(0, 0), textcoords="offset points", fontsize=9.5, zorder=5,
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )  # fmt: skip
        text.set_in_layout(False)
        costs = []
        for order, place in enumerate(_PLACES):
            _move(text, place)
            box = text.get_window_extent()
            # A name beside another point would be taken for that one's.
            misleading = int(np.argmin(_distances(box, spots))) != number
            costs.append((_meetings(box, axes.bbox, taken, segments) + 5 * misleading, order))
        place = _PLACES[min(costs)[1]]
        _move(text, place)
        if abs(place[0]) > _NEAR:
            _lead(axes, (x, y), place)
        taken.append(text.get_window_extent())
        labels.append(text)
    return labels


def _distances(box: Bbox, spots: Array) -> Array:
    """How far points [P, 2] are from a box: [P], in pixels."""
    low, high = np.array([box.x0, box.y0]), np.array([box.x1, box.y1])
    apart: Array = np.linalg.norm(np.maximum(0, np.maximum(low - spots, spots - high)), axis=1)
    return apart


def _lead(axes: Axes, point: tuple[float, float], place: tuple[int, int, str, str]) -> None:
    """Draw a thin line from a name to its point."""
    axes.annotate(
        "", point, xytext=place[:2], textcoords="offset points", zorder=1.5,
        arrowprops={"arrowstyle": "-", "lw": 0.7, "color": GREY, "shrinkA": 0, "shrinkB": 3},
    ).set_in_layout(False)  # fmt: skip


def _move(text: Annotation, place: tuple[int, int, str, str]) -> None:
    text.xyann = place[:2]
    text.set(ha=place[2], va=place[3])


def _meetings(box: Bbox, frame: Bbox, taken: Sequence[Bbox], segments: Sequence[Array]) -> int:
    """How much a name in this box would meet; outside of the axes counts as much as all else."""
    outside = box.x0 < frame.x0 or box.x1 > frame.x1 or box.y0 < frame.y0 or box.y1 > frame.y1
    met = sum(box.overlaps(other) for other in taken)
    struck = sum(strikes(segment, box) for segment in segments)
    return int(100 * outside + 10 * met + struck)


def strikes(segment: Array, box: Bbox) -> bool:
    """Tell whether a straight line, [2, 2], goes through a box (Liang and Barsky 1984)."""
    begin, along = segment[0], segment[1] - segment[0]
    enter, leave = 0.0, 1.0
    for axis, (low, high) in enumerate(((box.x0, box.x1), (box.y0, box.y1))):
        if along[axis] == 0:
            if not low < begin[axis] < high:
                return False
            continue
        ends = sorted(((low - begin[axis]) / along[axis], (high - begin[axis]) / along[axis]))
        enter, leave = max(enter, ends[0]), min(leave, ends[1])
    return bool(enter < leave)
