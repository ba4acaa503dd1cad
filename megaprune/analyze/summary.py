"""An analysis in numbers: each input's means, a table, a figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from megaprune import schema
from megaprune.analyze.judge import BEHAVIOURS
from megaprune.analyze.thoughts import AnalysisInput, ProblemKey
from megaprune.evaluation.metrics import bootstrap
from megaprune.evaluation.summary import headline, truncated
from megaprune.grading.markers import MARKERS, count_markers
from megaprune.report.figures import BLUE, GREEN, ORANGE, PERCENT, PINK, SKY, STYLE, VERMILION

if TYPE_CHECKING:
    from rich.table import Table


def summarise(
    group: AnalysisInput, behaviours: Mapping[ProblemKey, Counter[str]] | None
) -> dict[str, Any]:
    """Compute an input's numbers, as JSON takes them: means over its answers, null if it has none.

    Args:
        group: the input.
        behaviours: steps of each behaviour, by problem; None without a judge.

    Returns:
        "sets": of all answers by data source, as an evaluation has them: how many "samples",
        "accuracy", "length", their intervals, and "truncated", the share that was cut off.
        The rest is of the thoughts, one for each problem: "problems" = "answers" + all of
        "left_out"; "open" how many of them the length limit ended; "tokens" of the response,
        "steps" of the thought, "tokens_per_step" the ratio of these means (the answer's tokens are
        among them); "right" the share; "lexical" means of markers, "lexical_interval" their 95 %
        intervals (bootstrap over problems); "behaviours" {name: {"steps": in all, "share": of all
        steps, "per_answer": mean, "interval": its own}}, {} without a judge.
    """
    thoughts = list(group.thoughts.values())
    counts = [count_markers(thought.text) for thought in thoughts]
    lexical = {kind: [count[kind] for count in counts] for kind in MARKERS}
    tokens = _mean([thought.length for thought in thoughts])
    steps = _mean([len(thought.steps) for thought in thoughts])
    return {
        "name": group.name,
        "path": group.path,
        "sets": {name: _of_all_answers(rows) for name, rows in sorted(group.outcomes.items())},
        "problems": group.problems,
        "answers": len(thoughts),
        "open": sum(not thought.closed for thought in thoughts),
        "left_out": dict(group.left_out.most_common()),
        "tokens": tokens,
        "steps": steps,
        "tokens_per_step": tokens / steps if tokens is not None and steps else None,
        "right": _mean([thought.right for thought in thoughts]),
        "lexical": {kind: _mean(values) for kind, values in lexical.items()},
        "lexical_interval": {kind: _interval(values) for kind, values in lexical.items()},
        "behaviours": {} if behaviours is None else _behaviours([*behaviours.values()]),
    }


def _of_all_answers(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """An evaluation's numbers of a set; those that the rows do not tell are None."""
    ended = [row["finish"] for row in rows]
    known = all(row[name] is not None for row in rows for name in ("match", "length"))
    names = ("accuracy", "accuracy_interval", "length", "length_interval")
    return {
        "samples": len(rows),
        **(headline(rows) if known else dict.fromkeys(names)),
        schema.TRUNCATED: None if None in ended else truncated(rows),
    }


def _behaviours(answers: Sequence[Counter[str]]) -> dict[str, dict[str, Any]]:
    total = sum(answer.total() for answer in answers)
    summary = {}
    for name in BEHAVIOURS:
        steps = [answer[name] for answer in answers]
        summary[name] = {
            "steps": sum(steps),
            "share": sum(steps) / total if total else None,
            "per_answer": _mean(steps),
            "interval": _interval(steps),
        }
    return summary


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def _interval(values: Sequence[float]) -> list[float] | None:
    return list(bootstrap(values)) if values else None


def table(analysis: Mapping[str, Any]) -> Table:
    """Make a table with a row for each number and a column for each input."""
    from rich.table import Table

    inputs = analysis["inputs"]
    grid = Table()
    grid.add_column("mean over problems", no_wrap=True)
    for group in inputs:
        grid.add_column(group["name"], justify="right")

    def row(name: str, cells: Sequence[str]) -> None:
        grid.add_row(name, *cells)

    names = dict.fromkeys(name for group in inputs for name in group["sets"])
    for name in names:
        sets = [group["sets"].get(name) or {} for group in inputs]
        suffix = f", {name}" if len(names) > 1 else ""
        row(f"all answers{suffix}", [_shown(part.get("samples"), ",") for part in sets])
        row("  right", [_share(part) for part in sets])
        row("  tokens", [_shown(part.get("length"), ",.0f") for part in sets])
        row("  cut off", [_shown(part.get(schema.TRUNCATED), ".1%") for part in sets])
    grid.add_section()
    row(
        "first answers' thoughts",
        [f"{group['answers']:,} of {group['problems']:,} problems" for group in inputs],
    )
    row("  not closed, cut off", [f"{group['open']:,}" for group in inputs])
    row("  right", [_shown(group["right"], ".1%") for group in inputs])
    for key, form in (("tokens", ",.0f"), ("steps", ".1f"), ("tokens_per_step", ".1f")):
        row(f"  {key.replace('_', ' ')}", [_shown(group[key], form) for group in inputs])
    grid.add_section()
    for kind in MARKERS:
        cells = [_with(group["lexical"][kind], group["lexical_interval"][kind]) for group in inputs]
        row(kind, cells)
    if analysis["mode"] == "judge":
        grid.add_section()
        for name in BEHAVIOURS:
            parts = [group["behaviours"][name] for group in inputs]
            row(
                name,
                [f"{_shown(p['share'], '.1%')}, {_shown(p['per_answer'], '.2f')}" for p in parts],
            )
    reasons = dict.fromkeys(reason for group in inputs for reason in group["left_out"])
    if reasons:
        grid.add_section()
    for reason in reasons:
        row(f"left out: {reason}", [str(group["left_out"].get(reason, 0)) for group in inputs])
    return grid


def _share(numbers: Mapping[str, Any]) -> str:
    """Format a set's accuracy, with its interval in percent."""
    if numbers.get("accuracy") is None:
        return ""
    low, high = numbers["accuracy_interval"]
    return f"{numbers['accuracy']:.1%} [{100 * low:.1f}, {100 * high:.1f}]"


def _with(value: float | None, interval: Sequence[float] | None) -> str:
    return _shown(value, ".2f") + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"


# The first two are before and after: apart for the colour-blind, and in grey.
COLOURS = (SKY, BLUE, VERMILION, GREEN, ORANGE, PINK)
_BAR = 0.8
"""The share of the room between two names that bars take."""
_LONG_NAME = 28
"""Letters from which on names are too wide to stand beside each other in the legend."""


def behaviour_figure(analysis: Mapping[str, Any]) -> Figure:
    """Draw a bar for each behaviour and input: the behaviour's share of all steps.

    Without a judge: for each kind of marker its mean per answer, with its 95 % interval.

    Args:
        analysis: the content of analysis.json.
    """
    inputs = analysis["inputs"]
    judged = analysis["mode"] == "judge"
    names = list(inputs[0]["behaviours"] if judged else inputs[0]["lexical"])
    height = 1.1 + len(names) * max(0.32, 0.17 * len(inputs) + 0.08)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for place, group in enumerate(inputs):
            _bars(axes, names, group, place, len(inputs), judged)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(left=0)
        axes.set_xlabel("share of all steps" if judged else "sentences per answer")
        if judged:
            axes.xaxis.set_major_formatter(PERCENT)
        axes.margins(y=0.02)
        columns = 2 if all(len(group["name"]) < _LONG_NAME for group in inputs) else 1
        figure.legend(loc="outside upper center", ncols=columns, handlelength=1)
    return figure


def _bars(
    axes: Axes, names: Sequence[str], group: Mapping[str, Any], place: int, of: int, judged: bool
) -> None:
    width = _BAR / of
    at = np.arange(len(names)) + width * (place - (of - 1) / 2)
    colour = COLOURS[place % len(COLOURS)]
    label = f"{group['name']}, {group['answers']} answers"
    if judged:
        shares = [group["behaviours"][name]["share"] or 0 for name in names]
        axes.barh(at, shares, width, color=colour, label=label)
        return
    means = np.array([group["lexical"][name] or 0 for name in names])
    ends = np.array([group["lexical_interval"][name] or (0, 0) for name in names]).T
    errors = np.maximum([means - ends[0], ends[1] - means], 0)
    style = {"ecolor": "#222222", "elinewidth": 1.1, "capsize": 2}
    axes.barh(at, means, width, color=colour, label=label, xerr=errors, error_kw=style)
