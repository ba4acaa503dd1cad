"""Figures over the steps: of one run, or of a pruning's rounds one behind the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from megaprune.report.answers import Array
from megaprune.report.figures import (
    BLACK,
    BLUE,
    GREY,
    LARGE,
    PINK,
    SKY,
    STEP,
    TOKENS,
    VERMILION,
    Picture,
    error_bars,
    legend_above,
    new_figure,
    to_png,
    values_of,
    went,
)
from megaprune.report.run import Run
from megaprune.report.summary import Estimate, Outcome


@dataclass(frozen=True)
class Stretch:
    """A run's part of the axis of steps.

    Attributes:
        run: whose metrics are drawn.
        outcomes: of its validations.
        begin: steps of the runs before it.
        name: at its border; nothing if it is the only one.
        chosen: the step whose model was taken, if not simply the last.
    """

    run: Run
    outcomes: tuple[Outcome, ...]
    begin: int = 0
    name: str = ""
    chosen: int | None = None

    @property
    def end(self) -> int:
        """Steps done by then in all."""
        return self.begin + max(self.run.metrics)

    def series(self, name: str) -> tuple[Array, Array]:
        """As `Run.series`, on this axis."""
        steps, values = self.run.series(name)
        return steps + self.begin, values


def draw_curves(stretches: Sequence[Stretch]) -> list[Picture]:
    """Length and accuracy over the steps."""
    return [*_draw_length(stretches), *_draw_accuracy(stretches)]


def _draw_length(stretches: Sequence[Stretch]) -> list[Picture]:
    steps, mean = _joined(stretches, "response_length/mean")
    outcomes = _outcomes(stretches)
    if not len(steps) and not outcomes:
        return []
    says = []
    with new_figure(LARGE) as (figure, axes):
        if len(steps):
            _draw_band(stretches, axes)
            _draw_series(
                stretches, axes, "response_length/mean", color=BLUE, label="training, mean"
            )
            says.append(f"In training {went('the mean length', steps, mean, ',.0f', ' tokens')}.")
        if outcomes:
            at, values = _draw_outcomes(axes, stretches, lambda outcome: outcome.tokens)
            says.append(f"On validation {went('it', at, values, ',.0f', ' tokens')}.")
        _draw_limits(stretches, axes)
        axes.set(xlabel=STEP, ylabel="tokens per answer")
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(TOKENS)
        _finish(stretches, axes)
    return [Picture("length", to_png(figure), "Response length", " ".join(says))]


def _draw_band(stretches: Sequence[Stretch], axes: Axes) -> None:
    """From the median to the 95th percentile."""
    text = "median to 95th percentile"
    for one in stretches:
        low_steps, low = one.series("response_length/p50")
        high_steps, high = one.series("response_length/p95")
        both, at_low, at_high = np.intersect1d(low_steps, high_steps, return_indices=True)
        if len(both):
            axes.fill_between(
                both, low[at_low], high[at_high], color=SKY, alpha=0.3, lw=0, label=text
            )
            text = "_"  # once in the legend


def _draw_limits(stretches: Sequence[Stretch], axes: Axes) -> None:
    """The limits, unless they are so far off that lengths would be a line at the bottom."""
    limits = [one.run.setting("rollout.max_response_length") for one in stretches]
    drawn = [
        (one, limit)
        for one, limit in zip(stretches, limits, strict=True)
        if isinstance(limit, (int, float)) and axes.dataLim.ymax > limit / 2
    ]
    for index, (one, limit) in enumerate(drawn):
        text = f"training limit, {limit:,} tokens" if len(stretches) == 1 else "training limit"
        style: dict[str, Any] = {
            "color": BLACK,
            "lw": 1.1,
            "ls": ":",
            "label": "_" if index else text,
        }
        if len(stretches) == 1:
            axes.axhline(limit, **style)
        else:
            axes.hlines(limit, one.begin, one.end, **style)


def _draw_accuracy(stretches: Sequence[Stretch]) -> list[Picture]:
    steps, accuracy = _joined(stretches, "accuracy")
    reward_steps, reward = _joined(stretches, "reward")
    outcomes = _outcomes(stretches)
    if not (len(steps) or len(reward_steps) or outcomes):
        return []
    says = []
    with new_figure(LARGE) as (figure, axes):
        if len(steps):
            _draw_series(stretches, axes, "accuracy", color=BLUE, label="training, accuracy")
            says.append(f"In training {went('accuracy', steps, accuracy, '.1%')}.")
        if len(reward_steps):
            style = {"color": PINK, "ls": "--", "lw": 1.4, "label": "training, reward"}
            _draw_series(stretches, axes, "reward", **style)
            says.append(f"There {went('the mean reward', reward_steps, reward, '.3g')}.")
        if outcomes:
            at, values = _draw_outcomes(axes, stretches, lambda outcome: outcome.accuracy)
            says.append(f"On validation {went('accuracy', at, values, '.1%')}.")
        axes.set(xlabel=STEP, ylabel="share right, mean reward")
        _finish(stretches, axes)
    return [Picture("accuracy", to_png(figure), "Accuracy and reward", " ".join(says))]


def _joined(stretches: Sequence[Stretch], name: str) -> tuple[Array, Array]:
    series = [one.series(name) for one in stretches]
    steps, values = (np.concatenate(parts) for parts in zip(*series, strict=True))
    return steps, values


def _draw_series(stretches: Sequence[Stretch], axes: Axes, name: str, **style: Any) -> None:
    """A line for each stretch: between two of them the model may go back to an earlier step."""
    for one in stretches:
        steps, values = one.series(name)
        # A line through few points is nothing to see.
        marks: dict[str, Any] = {"marker": "o", "ms": 3} if len(steps) < 10 else {}
        axes.plot(steps, values, **style, **marks)
        style["label"] = "_"  # once in the legend


def _outcomes(stretches: Sequence[Stretch]) -> list[tuple[int, Outcome]]:
    return [(one.begin + outcome.at, outcome) for one in stretches for outcome in one.outcomes]


def _draw_outcomes(
    axes: Axes, stretches: Sequence[Stretch], choose: Callable[[Outcome], Estimate]
) -> tuple[Array, Array]:
    text = "validation, 95 % interval"
    for one in stretches:
        estimates = [choose(outcome) for outcome in one.outcomes]
        at = [one.begin + outcome.at for outcome in one.outcomes]
        if estimates:
            axes.errorbar(
                at, values_of(estimates), error_bars(estimates), color=VERMILION, fmt="o-", ms=5,
                lw=1, elinewidth=1.4, capsize=3, label=text, zorder=3,
            )  # fmt: skip
            text = "_"  # once in the legend
    drawn = [(step, choose(outcome).value) for step, outcome in _outcomes(stretches)]
    taken = [
        (one.begin + outcome.at, choose(outcome).value)
        for one in stretches
        for outcome in one.outcomes
        if outcome.at == one.chosen
    ]
    if taken:
        ring: dict[str, Any] = {"s": 90, "facecolors": "none", "edgecolors": BLACK, "zorder": 4}
        axes.scatter(*zip(*taken, strict=True), label="model taken", **ring)
    steps, values = zip(*drawn, strict=True)
    return np.array(steps), np.array(values)


def _finish(stretches: Sequence[Stretch], axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_above(axes)
    if len(stretches) == 1:
        return
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.1 * (high - low))  # room for the names
    for one in stretches:
        axes.axvline(one.begin, color=GREY, lw=0.9, zorder=1)
        axes.annotate(
            one.name,
            (one.begin, 1),
            xycoords=axes.get_xaxis_transform(),
            xytext=(3, -2),
            textcoords="offset points",
            va="top",
            fontsize=9,
        )
