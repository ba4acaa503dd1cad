"""The figure of an analysis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from megaprune.report.figures import BLUE, GREEN, ORANGE, PERCENT, PINK, SKY, STYLE, VERMILION

# The first two are before and after: apart for the colour-blind, and in grey.
COLOURS = (SKY, BLUE, VERMILION, GREEN, ORANGE, PINK)
_BAR = 0.8
"""Of the room between two names, that bars take."""
_LONG_NAME = 28
"""Letters of a name, that two of are too wide beside each other."""


def behaviour_figure(analysis: Mapping[str, Any]) -> Figure:
    """Bars for each behaviour, one for each input: its share of all steps.

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
        for place, one in enumerate(inputs):
            _bars(axes, names, one, place, len(inputs), judged)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(left=0)
        axes.set_xlabel("share of all steps" if judged else "sentences per answer")
        if judged:
            axes.xaxis.set_major_formatter(PERCENT)
        axes.margins(y=0.02)
        columns = 2 if all(len(one["name"]) < _LONG_NAME for one in inputs) else 1
        figure.legend(loc="outside upper center", ncols=columns, handlelength=1)
    return figure


def _bars(
    axes: Axes, names: Sequence[str], one: Mapping[str, Any], place: int, of: int, judged: bool
) -> None:
    width = _BAR / of
    at = np.arange(len(names)) + width * (place - (of - 1) / 2)
    colour = COLOURS[place % len(COLOURS)]
    label = f"{one['name']}, {one['answers']} answers"
    if judged:
        shares = [one["behaviours"][name]["share"] or 0 for name in names]
        axes.barh(at, shares, width, color=colour, label=label)
        return
    means = np.array([one["lexical"][name] or 0 for name in names])
    ends = np.array([one["lexical_interval"][name] or (0, 0) for name in names]).T
    errors = np.maximum([means - ends[0], ends[1] - means], 0)
    style = {"ecolor": "#222222", "elinewidth": 1.1, "capsize": 2}
    axes.barh(at, means, width, color=colour, label=label, xerr=errors, error_kw=style)
