"""Figures of a study: its variants beside each other, those of the Pareto front in colour."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import Formatter

from megaprune.report.charts import finish_numbers
from megaprune.report.figures import (
    BLACK,
    GREY,
    LARGE,
    LENGTH,
    PERCENT,
    TOKENS,
    Picture,
    error_bars,
    label,
    look,
    new_figure,
    number,
    to_png,
)
from megaprune.report.labels import Line, label_points
from megaprune.report.study_records import StudyRecord, StudyVariant
from megaprune.report.trade_off import finish_plane

_NAMED = 12
"""If there are more models, those off the front are labelled with their numbers."""

_FAINT = "#C9C9C9"


def front_of(record: StudyRecord) -> list[StudyVariant]:
    """The models of the Pareto front, from the shortest answers to the longest."""
    return sorted(
        (model for model in record.models if model.on_front), key=lambda m: m.tokens.value
    )


def colour_of(record: StudyRecord, model: StudyVariant) -> tuple[str, str]:
    """Colour and marker: the start model is black, the front is coloured, others are grey."""
    if record.start is not None and model.name == record.start.name:
        return BLACK, "*"
    front = [other for other in front_of(record) if other is not record.start]
    return look(front.index(model)) if model in front else (GREY, "o")


def draw_study(record: StudyRecord, order: Sequence[StudyVariant]) -> Picture:
    """Draw accuracy against length of all models, with intervals and the Pareto front.

    Args:
        order: all models in the order in which tables number them, from 1.
    """
    front = front_of(record)
    with new_figure((LARGE[0], 5.2)) as (figure, axes):
        axes.plot(
            [model.tokens.value for model in front],
            [model.accuracy.value for model in front],
            color=GREY, ls="--", lw=1, zorder=1, label="Pareto front",
        )  # fmt: skip
        lines: list[Line] = []
        for model in order:
            colour, marker = colour_of(record, model)
            x, y = model.tokens, model.accuracy
            style = {
                "mfc": colour if model.on_front or colour == BLACK else "white",
                "ecolor": _FAINT if colour == GREY else colour,
                "ms": 9 if marker == "*" else 6,
            }
            axes.errorbar(
                x.value, y.value, error_bars([y]), error_bars([x]), fmt=marker, color=colour,
                elinewidth=0.9, zorder=3 if model.on_front else 2, **style,
            )  # fmt: skip
            if model.on_front:
                lines += [
                    ((x.low, y.value), (x.high, y.value)),
                    ((x.value, y.low), (x.value, y.high)),
                ]
        finish_plane(axes)
        names = [
            model.name
            if model.on_front or model is record.start or len(order) <= _NAMED
            else str(i)
            for i, model in enumerate(order, start=1)
        ]
        label_points(
            axes,
            [
                (label(name), model.tokens.value, model.accuracy.value)
                for name, model in zip(names, order, strict=True)
            ],
            lines,
        )
    places = "; ".join(
        f"{model.name}: {number(model.accuracy.value, '.1%')} right with "
        f"{number(model.tokens.value, ',.1f')} tokens"
        for model in front
    )
    caption = (
        f"With 95 % intervals. Filled and coloured, the Pareto front: no other model is as right "
        f"with fewer tokens. {places}."
    )
    if len(order) > _NAMED:
        caption += " Numbers are those of the table."
    return Picture("trade_off", to_png(figure), "Accuracy against length", caption)


def draw_study_budgets(record: StudyRecord, order: Sequence[StudyVariant]) -> Picture | None:
    """Draw accuracy over budgets of all models; None for fewer than two budgets."""
    if len(record.budgets) < 2:
        return None
    with new_figure(LARGE) as (figure, axes):
        for model in order:
            colour, marker = colour_of(record, model)
            x, y = [*model.at_budget], [share for share, _ in model.at_budget.values()]
            if colour == GREY:
                axes.plot(x, y, color=_FAINT, lw=0.9, zorder=1)
            else:
                style = "--" if colour == BLACK else "-"
                axes.plot(
                    x, y, color=colour, marker=marker, ms=4, ls=style, label=label(model.name)
                )
        finish_numbers(axes, record.budgets, "tokens (logarithmic)")
    caption = (
        "Share right, if answers longer than a budget count as wrong. In colour the models of the "
        "Pareto front, in grey the others."
    )
    return Picture("budgets", to_png(figure), "Accuracy within a budget", caption)


def draw_groups(record: StudyRecord, order: Sequence[StudyVariant]) -> list[Picture]:
    """Draw accuracy, and tokens of right answers, by group of problems; nothing of one group."""
    if len(record.groups) < 2:
        return []
    counts = ", ".join(f"{count:,} {name}" for name, count in record.groups.items())
    by, how = "set", f"Problems of each set: {counts}."
    if not record.by_set:
        by = "difficulty"
        how = (
            f"Problems are easy, medium or hard by what the start model gets right of them: more "
            f"than 2/3, between, less than 1/3 ({counts}). Each answer of the start model itself "
            f"counts where its other answers to the problem would put it."
        )
    more = "Mean over problems that have a right answer."
    rows = (
        ("group_accuracy", f"Accuracy by {by}", "accuracy", PERCENT, how),
        ("group_tokens", f"Tokens of right answers by {by}", LENGTH, TOKENS, more),
    )
    return [
        _draw_rows(name, title, (unit, formatter), [*record.groups], order, which, caption)
        for which, (name, title, unit, formatter, caption) in enumerate(rows)
    ]


def _draw_rows(
    name: str,
    title: str,
    scale: tuple[str, Formatter],
    groups: Sequence[str],
    order: Sequence[StudyVariant],
    which: int,
    caption: str,
) -> Picture:
    """Draw a row for each model, with a mark for each group of problems.

    Args:
        scale: what the marks measure, and how it is written.
        which: of the two numbers of a group.
    """
    axes: Axes
    with new_figure((LARGE[0], 1.2 + 0.26 * len(order))) as (figure, axes):
        for place, group in enumerate(groups):
            colour, marker = look(place)
            points = [
                (value, row)
                for row, model in enumerate(order)
                if group in model.by_group and (value := model.by_group[group][which]) is not None
            ]
            if points:
                x, y = zip(*points, strict=True)
                axes.plot(x, y, marker, color=colour, ms=6, label=label(group))
        axes.set_yticks(np.arange(len(order)), [label(model.name) for model in order])
        axes.set_ylim(len(order) - 0.4, -0.6)
        axes.set_xlabel(scale[0])
        axes.xaxis.set_major_formatter(scale[1])
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return Picture(name, to_png(figure), title, caption)
