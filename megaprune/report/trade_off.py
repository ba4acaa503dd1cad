"""Figures of accuracy against length: of models, and of the steps of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

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
from megaprune.report.labels import Line, label_points
from megaprune.report.published import PROTOCOLS, PublishedResult
from megaprune.report.summary import Estimate


@dataclass(frozen=True)
class TradeOffPoint:
    """A model's accuracy and length.

    Attributes:
        name: the name at the point.
        at_budget: (mean tokens, accuracy) of the same answers when they are cut at rising budgets.
    """

    name: str
    tokens: Estimate
    accuracy: Estimate
    at_budget: Sequence[tuple[float, float]] = ()


def draw_path(
    name: str,
    points: Sequence[TradeOffPoint],
    each: str,
    published: Sequence[PublishedResult] = (),
) -> Picture:
    """Draw accuracy against length of one model as it changed.

    Args:
        name: the name of the file.
        points: the points in their order; the first one is where the model began.
        each: what a point is, for the caption.
        published: others' results of the same model on the same set, in grey.
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
        _draw_published(axes, published)
        labelled = sorted({*np.linspace(0, len(x) - 1, min(len(x), 7)).round().astype(int)})
        finish_plane(axes)
        label_points(
            axes,
            [(points[at].name, float(x[at]), float(y[at])) for at in labelled],
            [*_crosses(points), *pairwise(zip(x, y, strict=True))],
        )
    ends = "; ".join(_place(point) for point in dict.fromkeys((points[0], points[-1])))
    caption = (
        f"{sentence(ends)} Each point is {each} with its 95 % intervals: the further left, the "
        "shorter the answers; the further up, the more are right."
    ) + _tell_published(published)
    return Picture(name, to_png(figure), "Accuracy against length", caption)


def _crosses(points: Sequence[TradeOffPoint]) -> list[Line]:
    """The intervals of points, as lines."""
    lines: list[Line] = []
    for point in points:
        x, y = point.tokens, point.accuracy
        lines.append(((x.low, y.value), (x.high, y.value)))
        lines.append(((x.value, y.low), (x.value, y.high)))
    return lines


def draw_paths(name: str, paths: Mapping[str, Sequence[TradeOffPoint]]) -> Picture:
    """Draw accuracy against length of several models as they changed.

    Args:
        name: the name of the file.
        paths: the points of each model in their order, by the model's name.
    """
    with new_figure(LARGE) as (figure, axes):
        for index, (model, points) in enumerate(paths.items()):
            colour, marker = look(index)
            last = points[-1]
            x, y = (
                values_of([getattr(p, axis) for p in points]) for axis in ("tokens", "accuracy")
            )
            axes.plot(x, y, color=colour, lw=1, marker=marker, ms=3.5, mfc="white")
            axes.errorbar(
                last.tokens.value, last.accuracy.value, error_bars([last.accuracy]),
                error_bars([last.tokens]), fmt=marker, color=colour, ms=7, elinewidth=1.2,
                label=label(model), zorder=3,
            )  # fmt: skip
        finish_plane(axes)
        legend_above(axes)
    ends = "; ".join(f"{model}, {_place(points[-1])}" for model, points in paths.items())
    what = "Each mark is a run's only validation, with"
    if any(len(points) > 1 for points in paths.values()):
        what = (
            "Hollow marks are the validations of a run in their order; the last one is filled and "
            "has"
        )
    caption = (
        f"{ends}. {what} its 95 % intervals. The further left, the shorter the answers; the "
        "further up, the more are right."
    )
    return Picture(name, to_png(figure), "Accuracy against length", caption)


def draw_models(
    name: str,
    points: Sequence[TradeOffPoint],
    baseline: str | None,
    published: Sequence[PublishedResult] = (),
) -> Picture:
    """Draw accuracy against length of models beside each other.

    Args:
        name: the name of the file.
        points: the models.
        baseline: the name of the one that gets a ring.
        published: others' results on the same set, in grey.
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
        _draw_published(axes, published)
        finish_plane(axes)
        if not published:
            _show_models(axes, points)
        legend_above(axes)
        drawn, hidden = _in_view(axes, points)
    places = "; ".join(_place(point) for point in points)
    caption = f"With 95 % intervals. {places}."
    if drawn:
        caption += (
            " The dashed lines are the same answers, those longer than a budget cut and wrong"
        )
        caption += "; they go on to the left and below." if hidden else "."
    if any(point.name == baseline for point in points):
        caption += " The baseline has a ring."
    caption += _tell_published(published)
    return Picture(name, to_png(figure), "Accuracy against length", caption)


def _draw_published(axes: Axes, published: Sequence[PublishedResult]) -> None:
    """Draw others' results in grey, each pruned model tied to the base of its source."""
    bases = {(r.source, r.model): (r.tokens, r.accuracy) for r in published if r.method == "base"}
    for result in published:
        at = result.tokens, result.accuracy
        ends = bases[result.source, result.model], at
        axes.plot(*zip(*ends, strict=True), color=GREY, lw=0.8, ls=":", zorder=1)
        axes.plot(*at, "D", color=GREY, ms=5, mfc="none", zorder=2)
        offset = (4, -9 if result.method == "base" else 5)
        axes.annotate(result.method, at, offset, textcoords="offset points", color=GREY, size=7)


def _tell_published(published: Sequence[PublishedResult]) -> str:
    """Say in a caption whose results are drawn; nothing without any."""
    if not published:
        return ""
    sources = dict.fromkeys(result.source for result in published)
    protocols = "; ".join(f"{source}: {PROTOCOLS[source]}" for source in sources)
    return (
        f" In grey, published results of the same model ({protocols}). Prompts, limits and graders "
        "differ: compare each with its own base."
    )


def _show_models(axes: Axes, points: Sequence[TradeOffPoint]) -> None:
    """Set the limits so that models and intervals fill half of the axes, wherever curves go."""
    for which, estimates in (
        ("x", [point.tokens for point in points]),
        ("y", [point.accuracy for point in points]),
    ):
        begin, end = getattr(axes, f"get_{which}lim")()
        low, high = (
            min(estimate.low for estimate in estimates),
            max(estimate.high for estimate in estimates),
        )
        if (size := high - low) > 0:
            getattr(axes, f"set_{which}lim")(max(begin, low - size), min(end, high + 0.15 * size))


def _in_view(axes: Axes, points: Sequence[TradeOffPoint]) -> tuple[bool, bool]:
    """Tell whether any part of a model's curve over budgets is in view, and whether any is not."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    drawn = hidden = False
    for point in points:
        end = point.tokens.value, point.accuracy.value
        curve = [at for at in point.at_budget if at != end]
        inside = [left <= tokens <= right and low <= share <= high for tokens, share in curve]
        # The last stretch leads to the model's own mark, which is in view.
        drawn |= bool(curve)
        hidden |= not all(inside)
    return drawn, hidden


def _place(point: TradeOffPoint) -> str:
    return (
        f"{point.name}: {number(point.tokens.value, ',.0f')} tokens and "
        f"{number(point.accuracy.value, '.1%')} right"
    )


def finish_plane(axes: Axes) -> None:
    """Label axes of accuracy against length."""
    axes.set(xlabel=LENGTH, ylabel="accuracy")
    axes.xaxis.set_major_formatter(TOKENS)
    axes.yaxis.set_major_formatter(PERCENT)
    axes.margins(0.1)
