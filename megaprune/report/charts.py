"""Figures of sets of answers: their lengths, and accuracy over budgets and over samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

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


def draw_intervals(name: str, lines: Sequence[AccuracyLine]) -> Picture | None:
    """Draw accuracy over intervals of length; None if no model has any.

    Args:
        name: the name of the file.
        lines: the models; solid: intervals of ranks, which have as many answers each; dashed:
            intervals of equal width.
    """
    places = sorted({place for line in lines for place in (*line.solid, *line.dashed)})
    if not places:
        return None
    with new_figure(LARGE) as (figure, axes):
        for index, line in enumerate(lines):
            colour, marker = look(index)
            if line.solid:
                text = f"{label(line.name)}, as many in each"
                axes.plot(*_xy(line.solid), color=colour, marker=marker, ms=4, label=text)
            if line.dashed:
                text = f"{label(line.name)}, equal width"
                axes.plot(
                    *_xy(line.dashed), color=colour, marker=marker, ms=4, ls="--", mfc="white",
                    label=text,
                )  # fmt: skip
        axes.set(xlabel="interval of length, the shortest first", ylabel="accuracy", xticks=places)
        axes.yaxis.set_major_formatter(PERCENT)
        legend_above(axes)
    solid = "; ".join(
        f"{line.name} {', '.join(number(value, '.1%') for value in line.solid.values())}"
        for line in lines
        if line.solid
    )
    caption = (
        "The answers to each problem by their length, from the shortest quarter to the longest; "
        f"mean over problems. {solid}."
    )
    return Picture(name, to_png(figure), "Accuracy by length, problem by problem", caption)


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
