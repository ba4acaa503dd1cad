"""Figures of answers beside each other: their lengths, and accuracy over budgets and samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from megaprune.report.answers import Answers
from megaprune.report.figures import (
    BLACK,
    BLUE,
    LARGE,
    PERCENT,
    TOKENS,
    VERMILION,
    Picture,
    error_bars,
    label,
    legend_above,
    look,
    new_figure,
    number,
    to_png,
    values_of,
)
from megaprune.report.summary import Estimate


@dataclass(frozen=True)
class Line:
    """Accuracy over numbers of tokens or of samples.

    Attributes:
        name: in the legend.
        solid, dashed: by number.
        marks: with intervals, by number.
    """

    name: str
    solid: Mapping[int, float]
    dashed: Mapping[int, float] = field(default_factory=dict)
    marks: Mapping[int, Estimate] = field(default_factory=dict)


def draw_lengths(name: str, title: str, rows: Sequence[tuple[str, Answers, Estimate]]) -> Picture:
    """Histograms, one below the other: overlaid, many kinds of bars would hide each other.

    Args:
        name: of the file.
        title: of the figure.
        rows: of each: what it is, answers, their mean tokens.
    """
    top = max(answers.lengths.max() for _, answers, _ in rows)
    bins = np.linspace(0, max(top, 1), 41)
    size = (LARGE[0], max(LARGE[1], 0.7 + 1.45 * len(rows)))
    with new_figure(size, rows=len(rows)) as (figure, axes):
        for one, (what, answers, mean) in zip(np.atleast_1d(axes), rows, strict=True):
            right = answers.right > 0
            _, _, patches = one.hist(
                [answers.lengths[right], answers.lengths[~right]],
                bins,
                weights=[np.full(part.sum(), 100 / len(right)) for part in (right, ~right)],
                stacked=True,
                color=[BLUE, "#F3C3A5"],
                label=["right", "wrong"],
            )
            for patch in patches[1]:
                patch.set(hatch="////", edgecolor=VERMILION, lw=0.4)
            text = f"mean, {number(mean.value, ',.0f')}"
            one.axvline(mean.value, color=BLACK, lw=1.3, ls="--", label=text)
            one.set_ylabel("answers, %")
            one.set_title(label(what, 60), loc="left", fontsize=10.5)
            one.xaxis.set_major_formatter(TOKENS)
            one.legend(loc="best")
        one.set_xlabel("tokens per answer")
    says = "; ".join(
        f"{what}: {number(mean.value, ',.0f')} and {number(answers.lengths.max(), ',.0f')}"
        for what, answers, mean in rows
    )
    return Picture(name, to_png(figure), title, f"Tokens, mean and longest: {says}.")


def draw_budgets(name: str, lines: Sequence[Line]) -> Picture | None:
    """Accuracy over budgets of tokens; None if there are none.

    Args:
        name: of the file.
        lines: solid: answers longer than a budget are wrong; marks: thoughts closed at it.
    """
    budgets = sorted({at for line in lines for at in (*line.solid, *line.marks)})
    if len(budgets) < 2:
        return None
    with new_figure(LARGE) as (figure, axes):
        for index, line in enumerate(lines):
            colour, marker = look(index)
            axes.plot(*_xy(line.solid), color=colour, marker=marker, ms=4, label=label(line.name))
            if line.marks:
                estimates = [*line.marks.values()]
                axes.errorbar(
                    [*line.marks], values_of(estimates), error_bars(estimates), color=colour,
                    fmt=f"{marker}:", mfc="white", ms=7, lw=1, elinewidth=1.1, capsize=3,
                    label=f"{label(line.name)}, closed early",
                )  # fmt: skip
        _finish_numbers(axes, budgets, "budget, tokens (logarithmic)")
    ends = "; ".join(f"{line.name} {_ends(line.solid)}" for line in lines if line.solid)
    says = f"Share right, if answers longer than a budget count as wrong: {ends or 'none'}."
    if any(line.marks for line in lines):
        says += (
            " Hollow marks, with 95 % intervals: thoughts were closed at the budget, and the model "
            "answered."
        )
    return Picture(name, to_png(figure), "Accuracy within a budget", says)


def draw_samples(name: str, lines: Sequence[Line]) -> Picture | None:
    """pass@k (solid) and maj@k (dashed) over k; None if one sample is all there is."""
    numbers = sorted({k for line in lines for k in (*line.solid, *line.dashed)})
    if len(numbers) < 2:
        return None
    with new_figure(LARGE) as (figure, axes):
        for index, line in enumerate(lines):
            colour, marker = look(index)
            style = {"color": colour, "marker": marker, "ms": 4}
            axes.plot(*_xy(line.solid), **style, label=f"{label(line.name)}, pass@k")
            if line.dashed:
                text = f"{label(line.name)}, maj@k"
                axes.plot(*_xy(line.dashed), **style, ls="--", mfc="white", label=text)
        _finish_numbers(axes, numbers, "k samples (logarithmic)")
    most = "; ".join(
        f"{line.name} "
        + " and ".join(
            f"{word}@{max(values)} {number(values[max(values)], '.1%')}"
            for word, values in (("pass", line.solid), ("maj", line.dashed))
            if values
        )
        for line in lines
    )
    says = f"pass@k: one of k samples is right; maj@k: what most of k say is right. {most}."
    return Picture(name, to_png(figure), "With several samples", says)


def _ends(values: Mapping[int, float]) -> str:
    """`31.5 % within 500 tokens and 68.2 % within 32,000 tokens`."""
    ends = dict.fromkeys((min(values), max(values)))
    return " and ".join(f"{number(values[at], '.1%')} within {at:,} tokens" for at in ends)


def _xy(values: Mapping[int, float]) -> tuple[list[int], list[float]]:
    return [*values], [*values.values()]


def _finish_numbers(axes: Axes, numbers: Sequence[int], unit: str) -> None:
    axes.set_xscale("log", base=2)
    # Numbers as near to each other as these would be one text over another.
    apart = (math.log(numbers[-1]) - math.log(numbers[0])) / 10
    shown = [numbers[0]]
    for one in numbers[1:]:
        if math.log(one) - math.log(shown[-1]) >= apart:
            shown.append(one)
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(TOKENS)
    axes.set(xlabel=unit, ylabel="accuracy")
    axes.yaxis.set_major_formatter(PERCENT)
    legend_above(axes)
