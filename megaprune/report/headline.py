"""What answers came to, in a sentence, in tiles and in a table's cells."""

from __future__ import annotations

from megaprune.report.markup import (
    SHORT,
    TIGHT,
    escape,
    interval,
    percent,
    points,
    shorten,
    signed_percent,
    table,
    tokens,
)
from megaprune.report.summary import RESAMPLES, Change, Estimate, Outcome, Summary

ARROW = "<i>→</i>"
METHOD = (
    "Means over problems, of each problem's mean over its answers. Intervals: bootstrap over "
    f"problems, {RESAMPLES:,} resamples."
)


def claim(lines: list[str]) -> str:
    """A page's first sentences, each on a line of its own."""
    return f'<p class="claim">{" ".join(f"<span>{line}</span>" for line in lines)}</p>'


def facts(found: list[str]) -> str:
    """What was done, in a line."""
    return f'<p class="soft">{" · ".join(shorten(fact, *SHORT) for fact in found)}</p>'


def claim_change(change: Change) -> str:
    """Of answers that were before and after."""
    old, new = change.before, change.after
    return claim(
        [
            f"Answers are {longer_or_shorter(change.tokens.value)}: "
            f"{tokens(old.tokens.value)} → {tokens(new.tokens.value)} tokens.",
            f"Accuracy: {percent(old.accuracy.value)} → {percent(new.accuracy.value)}, "
            f"{points(change.accuracy.value)}.",
        ]
    )


def claim_one(outcome: Outcome, unit: str) -> str:
    """Of answers with nothing to compare them with."""
    return claim(
        [
            f"At {unit} {outcome.at} answers have {tokens(outcome.tokens.value)} tokens and "
            f"{percent(outcome.accuracy.value)} of them are right."
        ]
    )


def longer_or_shorter(change: float) -> str:
    """`40.0 % shorter`, of a relative change of length."""
    return f"{percent(abs(change))} {'shorter' if change < 0 else 'longer'}"


def tiles_of_change(change: Change) -> str:
    """From before to after, with intervals of the changes."""
    old, new = change.before, change.after
    return _tiles(
        (
            "Mean tokens per answer",
            f"{tokens(old.tokens.value)} {ARROW} {tokens(new.tokens.value)}",
            _with_interval(signed_percent(change.tokens.value), change.tokens, "%"),
        ),
        (
            "Accuracy",
            f"{percent(old.accuracy.value)} {ARROW} {percent(new.accuracy.value)}",
            _with_interval(points(change.accuracy.value), change.accuracy, "points"),
        ),
        (
            "Answers cut off at the limit",
            f"{percent(old.cut_off.value)} {ARROW} {percent(new.cut_off.value)}",
            _with_interval(points(change.cut_off.value), change.cut_off, "points"),
        ),
        _tile_of_problems(old, new),
    )


def tiles_of_one(outcome: Outcome) -> str:
    """Of one set of answers, with intervals."""
    shares = (
        ("Accuracy", outcome.accuracy),
        ("Answers cut off at the limit", outcome.cut_off),
    )
    return _tiles(
        (
            "Mean tokens per answer",
            tokens(outcome.tokens.value),
            _bounds(interval(outcome.tokens, "tokens")),
        ),
        *(
            (name, percent(share.value), _bounds(interval(share, "share"), "%"))
            for name, share in shares
        ),
        _tile_of_problems(outcome, outcome),
    )


def cell(estimate: Estimate, kind: str) -> str:
    """A table's cell: tokens or a share, and the interval in small."""
    value = tokens(estimate.value) if kind == "tokens" else percent(estimate.value)
    return f"{value}<small>{interval(estimate, kind)}</small>"


def table_by_source(summary: Summary) -> str:
    """Changes of each data source; nothing if there is one only."""
    if not summary.by_source:
        return ""
    rows = [_source_row(source, change) for source, change in summary.by_source.items()]
    head = ["data source", "problems", "tokens", "accuracy"]
    return table(head, rows, "By data source, with 95 % intervals of the changes")


def _source_row(source: str, change: Change) -> list[str]:
    old, new = change.before, change.after
    return [
        escape(source),
        f"{new.problems:,}",
        f"{tokens(old.tokens.value)} {ARROW} {tokens(new.tokens.value)}"
        f"<small>{signed_percent(change.tokens.value)}</small>"
        f"<small>{interval(change.tokens, 'change')}</small>",
        f"{percent(old.accuracy.value)} {ARROW} {percent(new.accuracy.value)}"
        f"<small>{points(change.accuracy.value)}</small>"
        f"<small>{interval(change.accuracy, 'change')}</small>",
    ]


def _tile_of_problems(old: Outcome, new: Outcome) -> tuple[str, str, str]:
    problems = [f"{outcome.problems:,}" for outcome in (old, new)]
    answers = [f"{outcome.answers:,}" for outcome in (old, new)]
    return (
        "Problems",
        problems[0] if old.problems == new.problems else f" {ARROW} ".join(problems),
        f"{answers[0] if old.answers == new.answers else ' and '.join(answers)} answers"
        + (" each time" if old is not new and old.answers == new.answers else ""),
    )


def _tiles(*tiles: tuple[str, str, str]) -> str:
    cells = "".join(
        f'<div class="tile"><dt>{name}</dt><dd class="value">{value}</dd>'
        f'<dd class="less">{less}</dd></div>'
        for name, value, less in tiles
    )
    return f'<dl class="tiles">{cells}</dl>'


def _with_interval(text: str, estimate: Estimate, unit: str) -> str:
    return f"<b>{text}</b><br>{_bounds(interval(estimate, 'change'), unit)}"


def _bounds(bounds: str, unit: str = "") -> str:
    unit = unit and TIGHT + unit
    return (
        f'<span class="soft">95{TIGHT}% interval <span class="bounds">{bounds}{unit}</span></span>'
    )
