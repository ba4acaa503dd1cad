"""Small figures of what tells whether a run is well; of those that it has measured."""

from __future__ import annotations

import numpy as np
from matplotlib.ticker import MaxNLocator

from megaprune.report.answers import Array
from megaprune.report.figures import (
    BLUE,
    COLOURS,
    GREY,
    PERCENT,
    SMALL,
    STEP,
    Picture,
    new_figure,
    number,
    sentence,
    to_png,
    went,
)
from megaprune.report.run import Run


def draw_diagnostics(run: Run) -> list[Picture]:
    """All of them."""
    pictures = []
    for name, key, title, unit in (
        ("cut_off", "truncated", "Answers cut off", "share of answers"),
        ("no_signal", "no_signal", "Groups without signal", "share of groups"),
        ("entropy", "entropy", "Entropy", "nats per token"),
        ("kl", "kl", "KL divergence from the reference", "nats per token"),
        ("grad_norm", "grad_norm", "Gradient norm", "norm before clipping"),
        ("mismatch", "mismatch", "Mismatch of rollout and actor", "log-prob difference, nats"),
        ("speed", "tokens_per_second", "Speed", "tokens per second"),
    ):
        steps, values = run.series(key)
        if np.isfinite(values).any():
            pictures.append(_draw_small(name, title, unit, steps, values))
    return [*pictures, *_draw_seconds(run)]


def _draw_small(name: str, title: str, unit: str, steps: Array, values: Array) -> Picture:
    with new_figure(SMALL) as (figure, axes):
        marks = {"marker": "o", "ms": 3} if len(steps) < 10 else {}
        axes.plot(steps, values, color=BLUE, **marks)
        axes.set(xlabel=STEP, ylabel=unit)
        if unit.startswith("share"):
            axes.set_ylim(0, max(1.05 * np.nanmax(values), 0.05))
            axes.yaxis.set_major_formatter(PERCENT)
        elif np.nanmin(values) >= 0:
            axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    form = ".1%" if unit.startswith("share") else ".3g"
    return Picture(name, to_png(figure), title, sentence(went("it", steps, values, form)))


def _draw_seconds(run: Run) -> list[Picture]:
    """Seconds of each step's phases, stacked; the many small ones together."""
    phases = _phases(run)
    if not phases:
        return []
    steps = np.array([*run.metrics])
    with new_figure(SMALL) as (figure, axes):
        bottom = np.zeros(len(steps))
        for index, (name, values) in enumerate(phases.items()):
            colour = COLOURS[index] if index < len(COLOURS) else GREY
            axes.bar(steps, values, 1.0, bottom, color=colour, label=name)
            bottom += values
        axes.set(xlabel=STEP, ylabel="seconds per step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        figure.legend(loc="outside upper center", ncols=3, fontsize=8.5, handlelength=1)
    total = float(bottom.sum()) or 1.0
    shares = (f"{name} {number(values.sum() / total, '.0%')}" for name, values in phases.items())
    says = f"Of all seconds: {', '.join(shares)}."
    return [Picture("seconds", to_png(figure), "Time of a step", says)]


def _phases(run: Run) -> dict[str, Array]:
    """Seconds of each phase at every step, the longest phases first, the rest as `other`."""
    prefix = "seconds/"
    names = dict.fromkeys(key for row in run.metrics.values() for key in row)
    seconds = {
        key.removeprefix(prefix): np.nan_to_num(
            np.array([row.get(key, 0.0) for row in run.metrics.values()]), posinf=0, neginf=0
        )
        for key in names
        if key.startswith(prefix) and key != "seconds/step"
    }
    longest = sorted(seconds, key=lambda name: -seconds[name].sum())
    kept, rest = longest[: len(COLOURS)], longest[len(COLOURS) :]
    phases = {name: seconds[name] for name in kept}
    if rest:
        phases["other"] = np.sum([seconds[name] for name in rest], axis=0)
    return phases
