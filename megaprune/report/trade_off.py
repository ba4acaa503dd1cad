"""Figures of accuracy against length: what pruning trades."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from megaprune.report.figures import (
    BLACK,
    BLUE,
    GREY,
    LARGE,
    LENGTH,
    PERCENT,
    SKY,
    TOKENS,
    VERMILION,
    Picture,
    error_bars,
    label,
    legend_above,
    look,
    new_figure,
    number,
    sentence,
    to_png,
    values_of,
)
from megaprune.report.summary import Estimate

_PLACES = (
    (5, 5, "left"), (5, -13, "left"), (-5, 5, "right"), (-5, -13, "right"), (5, 17, "left"),
    (5, -25, "left"),
)  # fmt: skip
"""Of a point's label: points to the right and up, and which side of it is there."""


@dataclass(frozen=True)
class Point:
    """An outcome in the plane of accuracy and length.

    Attributes:
        name: at the point.
        at_budget: (mean tokens, accuracy) of the same answers when cut at budgets that rise.
    """

    name: str
    tokens: Estimate
    accuracy: Estimate
    at_budget: Sequence[tuple[float, float]] = ()


def draw_path(name: str, points: Sequence[Point], each: str) -> Picture:
    """Accuracy against length, of one model as it changed.

    Args:
        name: of the file.
        points: in their order; the first is where it began.
        each: what a point is.
    """
    tokens, accuracies = [p.tokens for p in points], [p.accuracy for p in points]
    x, y = values_of(tokens), values_of(accuracies)
    with new_figure(LARGE) as (figure, axes):
        axes.plot(x, y, color=GREY, lw=1, zorder=1)
        axes.errorbar(
            x, y, error_bars(accuracies), error_bars(tokens), fmt="none", ecolor=SKY, elinewidth=1.1
        )
        axes.scatter(x, y, c=[VERMILION, *[BLUE] * (len(x) - 1)], s=36, zorder=3)
        # Labels of a few: those of dozens would hide each other.
        some = sorted({*np.linspace(0, len(x) - 1, min(len(x), 7)).round().astype(int)})
        _finish_plane(axes)
        _label(axes, [(points[at].name, float(x[at]), float(y[at])) for at in some])
    ends = "; ".join(_said(point) for point in dict.fromkeys((points[0], points[-1])))
    says = (
        f"{sentence(ends)} Each point is {each} with its 95 % intervals: the further left, the "
        "shorter the answers; the further up, the more are right."
    )
    return Picture(name, to_png(figure), "Accuracy against length", says)


def draw_models(name: str, points: Sequence[Point], baseline: str | None) -> Picture:
    """Accuracy against length, of models beside each other.

    Args:
        name: of the file.
        points: the models.
        baseline: the name of one of them, which gets a ring.
    """
    with new_figure(LARGE) as (figure, axes):
        for index, point in enumerate(points):
            colour, marker = look(index)
            curve = [*point.at_budget, (point.tokens.value, point.accuracy.value)]
            axes.plot(*zip(*curve, strict=True), color=colour, lw=0.9, ls="--", marker=".", ms=5)
            is_base = point.name == baseline
            axes.errorbar(
                point.tokens.value, point.accuracy.value, error_bars([point.accuracy]),
                error_bars([point.tokens]), fmt=marker, color=colour, ms=7, elinewidth=1.2,
                label=label(point.name) + " (baseline)" * is_base, zorder=3,
            )  # fmt: skip
            if is_base:
                at = point.tokens.value, point.accuracy.value
                axes.scatter(*at, s=150, facecolors="none", edgecolors=BLACK, lw=1.2, zorder=4)
        _finish_plane(axes)
        _show_models(axes, points)
        legend_above(axes)
    said = "; ".join(_said(point) for point in points)
    says = f"With 95 % intervals. {said}."
    if any(point.at_budget for point in points):
        says += " The dashed lines are the same answers, those longer than a budget cut and wrong; "
        says += "they go on to the left and below."
    if any(point.name == baseline for point in points):
        says += " The baseline has a ring."
    return Picture(name, to_png(figure), "Accuracy against length", says)


def _show_models(axes: Axes, points: Sequence[Point]) -> None:
    """Have the models and their intervals fill half of the axes, wherever the curves go."""
    for which, estimates in (
        ("x", [point.tokens for point in points]),
        ("y", [point.accuracy for point in points]),
    ):
        begin, end = getattr(axes, f"get_{which}lim")()
        low, high = min(one.low for one in estimates), max(one.high for one in estimates)
        if (size := high - low) > 0:
            getattr(axes, f"set_{which}lim")(max(begin, low - size), min(end, high + 0.15 * size))


def _label(axes: Axes, points: Sequence[tuple[str, float, float]]) -> None:
    """Names at points, each where it is over no other name and no point, if there is such a place.

    Args:
        axes: with their final limits.
        points: names, and where they are.
    """
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    wide, tall = (72 * size * 0.8 for size in LARGE)  # of the axes, in points of 1/72 inch, nearly
    at = [
        (wide * (x - left) / (right - left), tall * (y - low) / (high - low)) for _, x, y in points
    ]
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in at]
    for (name, x, y), (across, up) in zip(points, at, strict=True):
        boxes = {}
        for place in _PLACES:
            begin = across + place[0] - (5.5 * len(name) if place[2] == "right" else 0)
            boxes[place] = begin, up + place[1], begin + 5.5 * len(name), up + place[1] + 9
        free = (
            place
            for place, box in boxes.items()
            if box[0] > 0 and box[2] < wide and not any(_meet(box, other) for other in taken)
        )
        place = next(free, _PLACES[0])
        taken.append(boxes[place])
        axes.annotate(
            name, (x, y), xytext=place[:2], ha=place[2], textcoords="offset points",
            fontsize=9.5, zorder=4,
        )  # fmt: skip


def _meet(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two boxes (left, low, right, high) have something in common."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _said(point: Point) -> str:
    return (
        f"{point.name}: {number(point.tokens.value, ',.0f')} tokens and "
        f"{number(point.accuracy.value, '.1%')} right"
    )


def _finish_plane(axes: Axes) -> None:
    axes.set(xlabel=LENGTH, ylabel="accuracy")
    axes.xaxis.set_major_formatter(TOKENS)
    axes.yaxis.set_major_formatter(PERCENT)
    axes.margins(0.1)
