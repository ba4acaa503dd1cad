"""How figures look: sizes, colours, numbers in captions, and a figure as the bytes of a PNG.

Figures can be read at the width of a phone; a page sets them side by side where there is room.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter, MaxNLocator

from megaprune.report.run_records import Array
from megaprune.report.summary import Estimate

# Okabe and Ito's colours, which also the colour-blind tell apart.
BLUE, VERMILION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
SKY, PINK, BLACK, GREY = "#56B4E9", "#CC79A7", "#222222", "#8A8A8A"
COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, VERMILION)
MARKERS = "osD^vP"

LARGE, SMALL = (6.4, 4.0), (4.6, 3.0)  # inches
STYLE: Any = {  # matplotlib names every key in its type
    "figure.dpi": 160,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same everywhere
    "font.size": 10.5,
    "text.parse_math": False,  # a name may have dollars
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.8,
    "hatch.linewidth": 0.7,
}
STEP = "optimizer step"
LENGTH = "mean tokens per answer"


class TickNumbers(Formatter):
    """Labels ticks with as many decimals as tell them apart: 59.0, 59.5, 60.0 and not 59, 60, 60.

    Args:
        scale: values are multiplied by it.
        unit: behind each number.
    """

    def __init__(self, scale: float = 1.0, unit: str = ""):
        self._scale, self._unit = scale, unit

    def __call__(self, x: float, pos: int | None = None) -> str:
        """The label of one tick."""
        return self.format_ticks([x])[0]

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        """The labels of all ticks of an axis."""
        numbers = [self._scale * float(value) for value in values]
        apart = [b - a for a, b in pairwise(sorted(numbers)) if b > a]
        most = min(apart, default=1.0) / 100
        fits = (
            digits
            for digits in range(_DECIMALS)
            if all(abs(round(number, digits) - number) < most for number in numbers)
        )
        digits = next(fits, _DECIMALS)
        return [f"{number:,.{digits}f}{self._unit}".replace("-", "\u2212") for number in numbers]


_DECIMALS = 8
"""Decimals of a tick's label at most."""

TOKENS = TickNumbers()
PERCENT = TickNumbers(100, " %")


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        name: the name of its file, without the suffix.
        png: the bytes of the file.
        title: what is drawn.
        caption: what there is to see, in a sentence, also for those who do not see it.
    """

    name: str
    png: bytes
    title: str
    caption: str


@contextlib.contextmanager
def new_figure(size: tuple[float, float], rows: int = 1) -> Iterator[tuple[Figure, Any]]:
    """Make a figure and its axes within the style; without pyplot, nothing is kept of it."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, figure.subplots(rows, sharex=True, sharey=rows > 1)


def to_png(figure: Figure) -> bytes:
    """Draw a figure as the bytes of a file."""
    file = io.BytesIO()
    with mpl.rc_context(STYLE):
        # Without matplotlib's version in it: the same figure is the same bytes.
        figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def legend_above(axes: Axes) -> None:
    """Put the legend, if anything has a name, where it hides nothing."""
    if not axes.get_legend_handles_labels()[0]:
        return
    axes.figure.legend(loc="outside upper center", ncols=2, handlelength=1.6, columnspacing=1.4)


def marks_of(steps: Sequence[int] | Array, marker: str = "o") -> dict[str, Any]:
    """Marks on a line through few points, which would be nothing to see; large ones on a single."""
    if len(steps) >= 10:
        return {}
    return {"marker": marker, "ms": 3 if len(steps) > 1 else 7}


def step_axis(axes: Axes, steps: Sequence[int] | Array, ticks: int = 9) -> None:
    """Label an axis of steps with whole numbers; a single step stands between its neighbours."""
    axes.set_xlabel(STEP)
    axes.xaxis.set_major_locator(
        MaxNLocator(ticks, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
    )
    if len(only := {*map(int, steps)}) == 1:
        step = only.pop()
        axes.set_xlim(step - 1, step + 1)


def error_bars(estimates: Sequence[Estimate]) -> Array:
    """The lengths of error bars, below and above: [2, points]."""
    low = [estimate.value - estimate.low for estimate in estimates]
    high = [estimate.high - estimate.value for estimate in estimates]
    errors: Array = np.maximum(np.array([low, high]), 0)
    return errors


def values_of(estimates: Sequence[Estimate]) -> Array:
    """The values of estimates, without their intervals."""
    values: Array = np.array([estimate.value for estimate in estimates])
    return values


def number(value: float, form: str) -> str:
    """Format a number for a caption."""
    if form.endswith("g") and abs(value) >= 1000:
        form = ",.0f"
    return f"{value:{form}}".replace("%", "\u00a0%").replace("-", "\u2212")


def went(what: str, steps: Array, values: Array, form: str, unit: str = "") -> str:
    """Say how a series went: `the mean length went from 812 at step 1 to 421 tokens at step 40`."""
    finite = np.isfinite(values)
    steps, values = steps[finite], values[finite]
    if not len(steps):
        return f"{what} was never a number"
    first, last = number(float(values[0]), form), number(float(values[-1]), form)
    if len(steps) == 1:
        return f"{what} was {first}{unit} at step {steps[0]}"
    return f"{what} went from {first} at step {steps[0]} to {last}{unit} at step {steps[-1]}"


def sentence(text: str) -> str:
    """Give a text a capital and a full stop."""
    return f"{text[0].upper()}{text[1:]}."


def label(name: str, most: int = 28) -> str:
    """Make a name of any kind fit into a figure: one line, and only the end of a long one.

    matplotlib leaves names with an underscore in front out of a legend.
    """
    text = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    text = text if len(text) <= most else f"…{text[1 - most :]}"
    return f" {text}" if text.startswith("_") else text or "?"


def look(index: int) -> tuple[str, str]:
    """Colour and marker of the i-th line: after the last colour, the same with other markers."""
    turn, colour = divmod(index, len(COLOURS))
    return COLOURS[colour], MARKERS[(colour + turn) % len(MARKERS)]


def file_name(name: str) -> str:
    """Turn any name into the name of a file."""
    return re.sub(r"[^A-Za-z0-9-]+", "_", name)
