"""Figures of sets of answers: lengths, accuracy against length, over budgets and over samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

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
from megaprune.report.run_records import AnswerTable
from megaprune.report.summary import Estimate


@dataclass(frozen=True)
class AccuracyLine:
    """One model's accuracy over numbers of tokens or of samples.

    Attributes:
        name: its name in the legend.
        solid, dashed: the values of two lines, by the number.
        marks: values with intervals, by the number.
    """

    name: str
    solid: Mapping[int, float]
    dashed: Mapping[int, float] = field(default_factory=dict)
    marks: Mapping[int, Estimate] = field(default_factory=dict)


def draw_lengths(
    name: str, title: str, rows: Sequence[tuple[str, AnswerTable, Estimate]]
) -> Picture:
    """Draw histograms, one below the other: overlaid, many kinds of bars would hide each other.

    Args:
        name: the name of the file.
        title: the title of the figure.
        rows: for each histogram its title, the answers and their mean tokens.
    """
    top = max(answers.lengths.max() for _, answers, _ in rows)
    bins = np.linspace(0, max(top, 1), 41)
    size = (LARGE[0], max(LARGE[1], 0.7 + 1.45 * len(rows)))
    with new_figure(size, rows=len(rows)) as (figure, axes):
        for panel, (what, answers, mean) in zip(np.atleast_1d(axes), rows, strict=True):
            right = answers.right > 0
            _, _, patches = panel.hist(
                [answers.lengths[right], answers.lengths[~right]],
                bins,
                weights=[np.full(part.sum(), 100 / len(right)) for part in (right, ~right)],
                stacked=True,
                color=[BLUE, "#F3C3A5"],
                label=["right", "wrong"],
            )
            for patch in patches[1]:
                patch.set(hatch="////", edgecolor=VERMILION, lw=0.4)
            panel.axvline(mean.value, color=BLACK, lw=1.3, ls="--", label="mean")
            panel.set_ylabel("answers, %")
            title_of_it = f"{label(what, 40)}: mean {number(mean.value, ',.0f')}"
            panel.set_title(title_of_it, loc="left", fontsize=10.5)
            panel.xaxis.set_major_formatter(TOKENS)
        panel.set_xlabel("tokens per answer")
        # Above all panels: within one it would hide bars, or the line of the mean would strike it.
        handles, names = panel.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=3, handlelength=1.6)
    caption = "; ".join(
        f"{what}: {number(mean.value, ',.0f')} and {number(answers.lengths.max(), ',.0f')}"
        for what, answers, mean in rows
    )
    return Picture(name, to_png(figure), title, f"Tokens, mean and longest: {caption}.")


def draw_budgets(name: str, lines: Sequence[AccuracyLine]) -> Picture | None:
    """Draw accuracy over budgets of tokens and at early exits; None of fewer than two numbers.

    Args:
        name: the name of the file.
        lines: the models; solid: answers longer than a budget count as wrong; marks: early exits,
            thoughts that were closed after so many tokens.
    """
    budgets = sorted({at for line in lines for at in (*line.solid, *line.marks)})
    if len(budgets) < 2:
        return None
    with new_figure(LARGE) as (figure, axes):
        for index, line in enumerate(lines):
            colour, marker = look(index)
            if line.solid:
                axes.plot(
                    *_xy(line.solid), color=colour, marker=marker, ms=4, label=label(line.name)
                )
            if line.marks:
                estimates = [*line.marks.values()]
                axes.errorbar(
                    [*line.marks], values_of(estimates), error_bars(estimates), color=colour,
                    fmt=f"{marker}:", mfc="white", ms=7, lw=1, elinewidth=1.1, capsize=3,
                    label=f"{label(line.name)}, early exit",
                )  # fmt: skip
        finish_numbers(axes, budgets, "tokens (logarithmic)")
    solid = [f"{line.name} {_ends(line.solid)}" for line in lines if line.solid]
    early = [line for line in lines if line.marks]
    sentences = []
    if solid:
        sentences.append(
            f"Share right, if answers longer than a budget count as wrong: {'; '.join(solid)}."
        )
    if early:
        exits = "; ".join(f"{line.name} {_exits(line.marks)}" for line in early)
        sentences.append(
            "Hollow marks, with 95 % intervals: early exits, where thoughts were closed after so "
            f"many tokens and the model answered: {exits}."
        )
    where = ["within a budget"] * bool(solid) + ["at early exits"] * bool(early)
    title = f"Accuracy {' and '.join(where)}"
    return Picture(name, to_png(figure), title, " ".join(sentences))


def draw_samples(name: str, lines: Sequence[AccuracyLine]) -> Picture | None:
    """Draw pass@k (solid) and maj@k (dashed) over k; None if there is only one sample."""
    numbers = sorted({k for line in lines for k in (*line.solid, *line.dashed)})
    if len(numbers) < 2:
        return None
    with new_figure(LARGE) as (figure, axes):
        for index, line in enumerate(lines):
            colour, marker = look(index)
            style = {"color": colour, "marker": marker, "ms": 4}
            if line.solid:
                axes.plot(*_xy(line.solid), **style, label=f"{label(line.name)}, pass@k")
            if line.dashed:
                text = f"{label(line.name)}, maj@k"
                axes.plot(*_xy(line.dashed), **style, ls="--", mfc="white", label=text)
        finish_numbers(axes, numbers, "k samples (logarithmic)")
    most = "; ".join(
        f"{line.name} "
        + " and ".join(
            f"{word}@{max(values)} {number(values[max(values)], '.1%')}"
            for word, values in (("pass", line.solid), ("maj", line.dashed))
            if values
        )
        for line in lines
    )
    meanings = []
    if any(line.solid for line in lines):
        meanings.append("pass@k: one of k samples is right")
    if any(line.dashed for line in lines):
        meanings.append("maj@k: what most of k say is right")
    caption = f"{'; '.join(meanings)}. {most}."
    return Picture(name, to_png(figure), "With several samples", caption)


def _ends(values: Mapping[int, float]) -> str:
    """Say the first and the last: `31.5 % within 500 tokens and 68.2 % within 32,000 tokens`."""
    ends = dict.fromkeys((min(values), max(values)))
    return " and ".join(f"{number(values[at], '.1%')} within {at:,} tokens" for at in ends)


def _exits(values: Mapping[int, Estimate]) -> str:
    """Say the first and the last: `31.5 % at 500 tokens and 68.2 % at 4,000 tokens`."""
    ends = dict.fromkeys((min(values), max(values)))
    return " and ".join(f"{number(values[at].value, '.1%')} at {at:,} tokens" for at in ends)


def _xy(values: Mapping[int, float]) -> tuple[list[int], list[float]]:
    return [*values], [*values.values()]


def finish_numbers(axes: Axes, numbers: Sequence[int], unit: str) -> None:
    """Label axes of accuracy over numbers, which are on a logarithmic scale."""
    axes.set_xscale("log", base=2)
    # Numbers as near to each other as these would be one text over another.
    apart = (math.log(numbers[-1]) - math.log(numbers[0])) / 10
    shown = [numbers[0]]
    for tick in numbers[1:]:
        if math.log(tick) - math.log(shown[-1]) >= apart:
            shown.append(tick)
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(TOKENS)
    axes.set(xlabel=unit, ylabel="accuracy")
    axes.yaxis.set_major_formatter(PERCENT)
    legend_above(axes)


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
