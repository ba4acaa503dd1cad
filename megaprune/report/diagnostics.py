"""Small figures of the metrics that tell whether a run is well."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from megaprune import schema
from megaprune.report.figures import (
    BLUE,
    COLOURS,
    GREY,
    PERCENT,
    SMALL,
    Picture,
    marks_of,
    new_figure,
    number,
    sentence,
    step_axis,
    to_png,
    went,
)
from megaprune.report.run_records import Array, RunRecord


def draw_diagnostics(run: RunRecord) -> list[Picture]:
    """Draw small figures of the metrics that tell whether a run is well."""
    pictures = []
    for name, key, title, unit in (
        ("cut_off", schema.TRUNCATED, _cut_off_in_training(run), "share of answers"),
        ("no_signal", schema.NO_SIGNAL, "Groups without signal", "share of groups"),
        ("entropy", schema.ENTROPY, "Entropy", "nats per token"),
        ("kl", schema.KL, "KL divergence from the reference", "nats per token"),
        ("grad_norm", schema.GRAD_NORM, "Gradient norm", "norm before clipping"),
        ("mismatch", schema.MISMATCH, "Mismatch of rollout and actor", "log-prob difference, nats"),
        ("speed", schema.TOKENS_PER_SECOND, "Speed", "tokens per second"),
    ):
        steps, values = run.series(key)
        if np.isfinite(values).any():
            pictures.append(_draw_small(name, title, unit, steps, values))
    return [*pictures, *_draw_verdicts(run), *_draw_seconds(run)]


def _cut_off_in_training(run: RunRecord) -> str:
    limit = run.training_limit
    return "Training answers cut off" + (f" at {limit:,} tokens" if limit is not None else "")


def _draw_small(name: str, title: str, unit: str, steps: Array, values: Array) -> Picture:
    with new_figure(SMALL) as (figure, axes):
        axes.plot(steps, values, color=BLUE, **marks_of(steps))
        axes.set(ylabel=unit)
        if unit.startswith("share"):
            axes.set_ylim(0, max(1.1 * np.nanmax(values), 0.05))
            axes.yaxis.set_major_formatter(PERCENT)
        elif np.nanmin(values) >= 0:
            axes.set_ylim(0, 1.1 * np.nanmax(values) or 1)
        step_axis(axes, steps, ticks=6)
    form = ".1%" if unit.startswith("share") else ".3g"
    return Picture(name, to_png(figure), title, sentence(went("it", steps, values, form)))


def _draw_seconds(run: RunRecord) -> list[Picture]:
    """Draw the seconds of each step's phases, stacked."""
    phases = _phases(run)
    if not phases:
        return []
    image = _draw_stacked(phases, np.array([*run.metrics]), "seconds per step")
    total = float(sum(values.sum() for values in phases.values())) or 1.0
    shares = (f"{name} {number(values.sum() / total, '.0%')}" for name, values in phases.items())
    caption = f"Of all seconds: {', '.join(shares)}."
    return [Picture("seconds", image, "Time of a step", caption)]


def _draw_verdicts(run: RunRecord) -> list[Picture]:
    """Draw the shares of the grader's verdicts in each step, stacked."""
    prefix = schema.verdict_of("")
    names = dict.fromkeys(key for row in run.metrics.values() for key in row)
    shares = {
        key.removeprefix(prefix).replace("_", " "): _column(run, key)
        for key in names
        if key.startswith(prefix) and _column(run, key).any()
    }
    if not shares:
        return []
    image = _draw_stacked(shares, np.array([*run.metrics]), "share of answers", percent=True)
    last = (f"{name} {number(float(values[-1]), '.1%')}" for name, values in shares.items())
    caption = f"At the last step: {', '.join(last)}."
    return [Picture("verdicts", image, "What the grader says", caption)]


def _draw_stacked(
    parts: Mapping[str, Array], steps: Array, unit: str, percent: bool = False
) -> bytes:
    """Draw parts of each step on top of each other."""
    with new_figure(SMALL) as (figure, axes):
        bottom = np.zeros(len(steps))
        for index, (name, values) in enumerate(parts.items()):
            colour = COLOURS[index] if index < len(COLOURS) else GREY
            axes.bar(steps, values, 1.0, bottom, color=colour, label=name)
            bottom += values
        axes.set(ylabel=unit)
        if percent:
            axes.set_ylim(0, 1)
            axes.yaxis.set_major_formatter(PERCENT)
        step_axis(axes, steps, ticks=6)
        figure.legend(loc="outside upper center", ncols=3, fontsize=8.5, handlelength=1)
    return to_png(figure)


def _column(run: RunRecord, key: str) -> Array:
    """Return a metric of all steps, 0 where a step has none."""
    values = np.array([row.get(key, 0.0) for row in run.metrics.values()], dtype=float)
    finite: Array = np.nan_to_num(values, posinf=0, neginf=0)
    return finite


def _phases(run: RunRecord) -> dict[str, Array]:
    """Collect the seconds of each phase: the longest phases first, the rest together as `other`."""
    prefix = schema.seconds_of("")
    names = dict.fromkeys(key for row in run.metrics.values() for key in row)
    seconds = {
        key.removeprefix(prefix): _column(run, key)
        for key in names
        if key.startswith(prefix) and key != schema.SECONDS_STEP
    }
    longest = sorted(seconds, key=lambda name: -seconds[name].sum())
    kept, rest = longest[: len(COLOURS)], longest[len(COLOURS) :]
    phases = {name: seconds[name] for name in kept}
    if rest:
        phases["other"] = np.sum([seconds[name] for name in rest], axis=0)
    return phases
