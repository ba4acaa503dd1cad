"""Figures over the steps: of a run, of a pruning's rounds one behind the other, of several runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from megaprune import schema
from megaprune.report.figures import (
    BLACK,
    BLUE,
    GREY,
    LARGE,
    PERCENT,
    PINK,
    SKY,
    SMALL,
    TOKENS,
    VERMILION,
    Picture,
    error_bars,
    label,
    legend_above,
    look,
    marks_of,
    new_figure,
    sentence,
    step_axis,
    to_png,
    values_of,
    went,
)
from megaprune.report.published import PROTOCOLS, CurvePoint, PublishedCurve
from megaprune.report.run_records import Array, RunRecord
from megaprune.report.summary import AnswerMeans, Estimate


@dataclass(frozen=True)
class RunSegment:
    """A run's part of the axis of steps.

    Attributes:
        run: the run whose metrics are drawn.
        outcomes: the means of its validations.
        begin: how many steps the runs before it have.
        name: the name at its border; empty if it is the only one.
        short: another name, where there is no room for that one.
        chosen: the step whose model was taken, if not simply the last.
        published: others' run of the same model, to be drawn beside its validations.
    """

    run: RunRecord
    outcomes: tuple[AnswerMeans, ...]
    begin: int = 0
    name: str = ""
    short: str = ""
    chosen: int | None = None
    published: PublishedCurve | None = None

    @property
    def end(self) -> int:
        """How many steps are done when it ends, those of the runs before it included."""
        return self.begin + max(self.run.metrics)

    def series(self, name: str) -> tuple[Array, Array]:
        """Like `RunRecord.series`, on the axis of all segments."""
        steps, values = self.run.series(name)
        return steps + self.begin, values


def draw_curves(segments: Sequence[RunSegment]) -> list[Picture]:
    """Draw length and accuracy over the steps."""
    return [*_draw_length(segments), *_draw_accuracy(segments)]


def _draw_length(segments: Sequence[RunSegment]) -> list[Picture]:
    steps, mean = _joined(segments, schema.LENGTH_MEAN)
    outcomes = _outcomes(segments)
    if not len(steps) and not outcomes:
        return []
    sentences = []
    with new_figure(LARGE) as (figure, axes):
        if len(steps):
            _draw_band(segments, axes)
            _draw_series(segments, axes, schema.LENGTH_MEAN, color=BLUE, label="training, mean")
            sentences.append(
                f"In training {went('the mean length', steps, mean, ',.0f', ' tokens')}."
            )
        if outcomes:
            at, values = _draw_outcomes(axes, segments, lambda outcome: outcome.tokens)
            sentences.append(f"On validation {went('it', at, values, ',.0f', ' tokens')}.")
            sentences += _draw_published(axes, segments, lambda point: point.tokens)
        _draw_limits(segments, axes)
        axes.set(ylabel="tokens per answer")
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(TOKENS)
        _finish(segments, axes)
    return [Picture("length", to_png(figure), "Response length", " ".join(sentences))]


def _draw_band(segments: Sequence[RunSegment], axes: Axes) -> None:
    """Fill the band from the median to the 95th percentile of the length."""
    text = "median to 95th percentile"
    for segment in segments:
        low_steps, low = segment.series(schema.LENGTH_P50)
        high_steps, high = segment.series(schema.LENGTH_P95)
        both, at_low, at_high = np.intersect1d(low_steps, high_steps, return_indices=True)
        if (low[at_low] == high[at_high]).all():
            continue  # a band without a width is nothing to see
        if len(both) == 1:  # a band over one step is nothing to see
            axes.vlines(
                both, low[at_low], high[at_high], color=SKY, alpha=0.5, lw=9, label=text, zorder=1
            )
        elif len(both):
            axes.fill_between(
                both, low[at_low], high[at_high], color=SKY, alpha=0.3, lw=0, label=text
            )
        if len(both):
            text = "_"  # once in the legend


def _draw_published(
    axes: Axes, segments: Sequence[RunSegment], choose: Callable[[CurvePoint], float]
) -> list[str]:
    """Draw others' validations, up to the first one beyond the last step here; say whose."""
    sentences = []
    for segment in segments:
        if (curve := segment.published) is None:
            continue
        last = max(segment.run.metrics)
        passed = sum(point.step < last for point in curve.points)
        points = curve.points[: passed + 1]
        axes.plot(
            [segment.begin + point.step for point in points], [choose(point) for point in points],
            "D:", color=GREY, ms=4, lw=1, mfc="none", label=f"{curve.method}, published", zorder=2,
        )  # fmt: skip
        sentences.append(
            f"In grey, a published run of the same model on the same problems: {curve.method} "
            f"({curve.source}; {PROTOCOLS[curve.source]})."
        )
    return sentences


def _draw_limits(segments: Sequence[RunSegment], axes: Axes) -> None:
    """Draw the limits, unless they are so far off that lengths would be a line at the bottom."""
    limits = [segment.run.training_limit for segment in segments]
    drawn = [
        (segment, limit)
        for segment, limit in zip(segments, limits, strict=True)
        if limit is not None and axes.dataLim.ymax > limit / 2
    ]
    for index, (segment, limit) in enumerate(drawn):
        text = f"training limit, {limit:,} tokens" if len(segments) == 1 else "training limit"
        style: dict[str, Any] = {
            "color": BLACK,
            "lw": 1.1,
            "ls": ":",
            "label": "_" if index else text,
        }
        if len(segments) == 1:
            axes.axhline(limit, **style)
        else:
            axes.hlines(limit, segment.begin, segment.end, **style)


def _draw_accuracy(segments: Sequence[RunSegment]) -> list[Picture]:
    steps, accuracy = _joined(segments, schema.ACCURACY)
    reward_steps, reward = _joined(segments, schema.REWARD)
    outcomes = _outcomes(segments)
    if not (len(steps) or len(reward_steps) or outcomes):
        return []
    sentences = []
    with new_figure(LARGE) as (figure, axes):
        if len(steps):
            _draw_series(segments, axes, schema.ACCURACY, color=BLUE, label="training, accuracy")
            sentences.append(f"In training {went('accuracy', steps, accuracy, '.1%')}.")
            limits = dict.fromkeys(segment.run.training_limit for segment in segments)
            if None not in limits:
                of_rounds = ", in the order of the rounds" * (len(limits) > 1)
                tokens = " and ".join(f"{limit:,}" for limit in limits)
                sentences.append(
                    f"There, answers are cut off at {tokens} tokens{of_rounds}, and count as wrong."
                )
        if len(reward_steps):
            style = {"color": PINK, "ls": "--", "lw": 1.4, "label": "training, reward"}
            _draw_series(segments, axes, schema.REWARD, **style)
            sentences.append(sentence(went("the mean reward", reward_steps, reward, ".3g")))
        if outcomes:
            at, values = _draw_outcomes(axes, segments, lambda outcome: outcome.accuracy)
            sentences.append(f"On validation {went('accuracy', at, values, '.1%')}.")
            sentences += _draw_within(axes, segments)
            sentences += _draw_published(axes, segments, lambda point: point.accuracy)
        axes.set(ylabel="share right, mean reward")
        low, high = axes.get_ylim()
        if low >= 0 and high <= 1 and len({*steps, *reward_steps}) < 2 and not outcomes:
            axes.set_ylim(0, 1)  # one point has no range of its own
        _finish(segments, axes)
    return [Picture("accuracy", to_png(figure), "Accuracy and reward", " ".join(sentences))]


def _draw_within(axes: Axes, segments: Sequence[RunSegment]) -> list[str]:
    """Draw the accuracy of validations counted as in training, where that is another; say so."""
    counted: list[tuple[int, float]] = []
    text = "validation, within the training limit"
    for segment in segments:
        points = [
            (outcome.at, outcome.within, outcome.accuracy.value) for outcome in segment.outcomes
        ]
        if not any(
            within is not None and accuracy - within > 1e-9 for _, within, accuracy in points
        ):
            continue
        steps = [segment.begin + at for at, _, _ in points]
        values = [within for _, within, _ in points if within is not None]
        axes.plot(
            steps, values, color=VERMILION, marker="o", mfc="white", ms=5, lw=1, ls=":", label=text
        )
        counted += zip(steps, values, strict=True)
        text = "_"  # once in the legend
    if not counted:
        return []
    at, shares = (np.array(column) for column in zip(*counted, strict=True))
    return [
        "Hollow marks count validation as training does, answers beyond the training limit as "
        f"wrong: {went('that', at, shares, '.1%')}."
    ]


def _joined(segments: Sequence[RunSegment], name: str) -> tuple[Array, Array]:
    series = [segment.series(name) for segment in segments]
    steps, values = (np.concatenate(parts) for parts in zip(*series, strict=True))
    return steps, values


def _draw_series(segments: Sequence[RunSegment], axes: Axes, name: str, **style: Any) -> None:
    """Draw a line for each segment: between two of them the model may go back some steps."""
    for segment in segments:
        steps, values = segment.series(name)
        if not np.isfinite(values).any():
            continue  # the legend names what is drawn
        axes.plot(steps, values, **style, **marks_of(steps))
        style["label"] = "_"  # once in the legend


def _outcomes(segments: Sequence[RunSegment]) -> list[tuple[int, AnswerMeans]]:
    return [
        (segment.begin + outcome.at, outcome)
        for segment in segments
        for outcome in segment.outcomes
    ]


def _draw_outcomes(
    axes: Axes, segments: Sequence[RunSegment], choose: Callable[[AnswerMeans], Estimate]
) -> tuple[Array, Array]:
    text = "validation, 95 % interval"
    for segment in segments:
        estimates = [choose(outcome) for outcome in segment.outcomes]
        at = [segment.begin + outcome.at for outcome in segment.outcomes]
        if estimates:
            axes.errorbar(
                at, values_of(estimates), error_bars(estimates), color=VERMILION, fmt="o-", ms=5,
                lw=1, elinewidth=1.4, capsize=3, label=text, zorder=3,
            )  # fmt: skip
            text = "_"  # once in the legend
    drawn = [(step, choose(outcome).value) for step, outcome in _outcomes(segments)]
    taken = [
        (segment.begin + outcome.at, choose(outcome).value)
        for segment in segments
        for outcome in segment.outcomes
        if outcome.at == segment.chosen
    ]
    if taken:
        ring: dict[str, Any] = {"s": 90, "facecolors": "none", "edgecolors": BLACK, "zorder": 4}
        axes.scatter(*zip(*taken, strict=True), label="model taken", **ring)
    steps, values = zip(*drawn, strict=True)
    return np.array(steps), np.array(values)


def _finish(segments: Sequence[RunSegment], axes: Axes) -> None:
    steps = [step + segment.begin for segment in segments for step in segment.run.metrics]
    step_axis(axes, [*steps, *(step for step, _ in _outcomes(segments))])
    legend_above(axes)
    if len(segments) == 1:
        return
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.1 * (high - low))  # room for the names
    figure: Any = axes.figure
    figure.draw_without_rendering()  # now the axis has the length that it will have
    for segment in segments:
        axes.axvline(segment.begin, color=GREY, lw=0.9, zorder=1)
        text = axes.annotate(
            segment.name,
            (segment.begin, 1),
            xycoords=axes.get_xaxis_transform(),
            xytext=(3, -2),
            textcoords="offset points",
            va="top",
            fontsize=9,
        )
        text.set_in_layout(False)
        end = axes.transData.transform((segment.end, 0))[0]
        if text.get_window_extent().x1 > end:  # the next border would strike it
            text.set_text(segment.short)


def draw_overlaid(
    name: str,
    title: str,
    unit: str,
    series: Mapping[str, tuple[Sequence[int] | Array, Sequence[float] | Array]],
    *,
    large: bool = False,
) -> Picture | None:
    """Draw one metric of several runs over their steps; None if no run has a number of it.

    Args:
        name: the name of the file.
        title: what is drawn.
        unit: the label of the axis.
        series: steps and values of each run, by its name.
        large: draw it large, with a mark at each value.
    """
    arrays = {
        run: (np.asarray(steps), np.asarray(values, dtype=float))
        for run, (steps, values) in series.items()
    }
    drawn = {run: pair for run, pair in arrays.items() if np.isfinite(pair[1]).any()}
    if not drawn:
        return None
    is_share = unit.startswith("share")
    with new_figure(LARGE if large else SMALL) as (figure, axes):
        for index, run in enumerate(arrays):
            if run not in drawn:
                continue
            colour, marker = look(index)
            steps, values = drawn[run]
            marks = {"ms": 4, "marker": marker} if large else marks_of(steps, marker)
            axes.plot(steps, values, color=colour, label=label(run), lw=1.5, **marks)
        axes.set(ylabel=unit)
        if is_share or "tokens" in unit:
            axes.yaxis.set_major_formatter(PERCENT if is_share else TOKENS)
        step_axis(axes, np.concatenate([steps for steps, _ in drawn.values()]), ticks=6)
        if large:
            legend_above(axes)
        else:
            figure.legend(loc="outside upper center", ncols=2, fontsize=8.5, handlelength=1.2)
    form = ".1%" if is_share else ",.0f" if "tokens" in unit else ".3g"
    ends = "; ".join(went(run, steps, values, form) for run, (steps, values) in drawn.items())
    return Picture(name, to_png(figure), title, f"{ends}.")
