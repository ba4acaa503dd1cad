"""How figures are drawn: sizes, colours, and a figure as the bytes of a PNG.

Sized to be read at the width of a phone; a page sets them side by side where there is room.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, StrMethodFormatter

from megaprune.report.answers import Array
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
TOKENS = StrMethodFormatter("{x:,.0f}")
PERCENT = FuncFormatter(lambda x, _: f"{100 * x:.3g} %")


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        name: of its file, without the suffix.
        png: the file's bytes.
        title: what is drawn.
        says: what is to be seen, in a sentence, for those who do not see it.
    """

    name: str
    png: bytes
    title: str
    says: str


@contextlib.contextmanager
def new_figure(size: tuple[float, float], rows: int = 1) -> Iterator[tuple[Figure, Any]]:
    """A figure and its axes, within the style; without pyplot, nothing is kept of it."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, figure.subplots(rows, sharex=True, sharey=rows > 1)


def to_png(figure: Figure) -> bytes:
    """The bytes of a file."""
    file = io.BytesIO()
    with mpl.rc_context(STYLE):
        # Without matplotlib's version in it: the same figure is the same bytes.
        figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def legend_above(axes: Axes) -> None:
    """A legend that hides nothing."""
    axes.figure.legend(loc="outside upper center", ncols=2, handlelength=1.6, columnspacing=1.4)


def error_bars(estimates: Sequence[Estimate]) -> Array:
    """Lengths of error bars, below and above: [2, points]."""
    low = [estimate.value - estimate.low for estimate in estimates]
    high = [estimate.high - estimate.value for estimate in estimates]
    errors: Array = np.maximum(np.array([low, high]), 0)
    return errors


def values_of(estimates: Sequence[Estimate]) -> Array:
    """Without their intervals."""
    values: Array = np.array([estimate.value for estimate in estimates])
    return values


def number(value: float, form: str) -> str:
    """A number for a caption."""
    if form.endswith("g") and abs(value) >= 1000:
        form = ",.0f"
    return f"{value:{form}}".replace("%", "\u00a0%").replace("-", "\u2212")


def went(what: str, steps: Array, values: Array, form: str, unit: str = "") -> str:
    """`the mean length went from 812 at step 1 to 421 tokens at step 40`."""
    finite = np.isfinite(values)
    steps, values = steps[finite], values[finite]
    if not len(steps):
        return f"{what} was never a number"
    first, last = number(float(values[0]), form), number(float(values[-1]), form)
    if len(steps) == 1:
        return f"{what} was {first}{unit} at step {steps[0]}"
    return f"{what} went from {first} at step {steps[0]} to {last}{unit} at step {steps[-1]}"


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    return f"{text[0].upper()}{text[1:]}."


def label(name: str, most: int = 28) -> str:
    """A name of any kind as text in a figure: one line, its end and not its middle if it is long.

    matplotlib leaves names with an underscore in front out of a legend.
    """
    text = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    text = text if len(text) <= most else f"…{text[1 - most :]}"
    return f" {text}" if text.startswith("_") else text or "?"


def look(index: int) -> tuple[str, str]:
    """Colour and marker: after as many as there are colours, the same with other markers."""
    turn, colour = divmod(index, len(COLOURS))
    return COLOURS[colour], MARKERS[(colour + turn) % len(MARKERS)]


def file_name(name: str) -> str:
    """A figure's file, named after anything."""
    return re.sub(r"[^A-Za-z0-9-]+", "_", name)
