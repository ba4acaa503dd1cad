"""What an analysis came to: numbers of each input, a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from megaprune.analyze.judge import BEHAVIOURS
from megaprune.analyze.markers import MARKERS, count_markers
from megaprune.analyze.thoughts import Input, Key
from megaprune.evaluation.metrics import bootstrap

if TYPE_CHECKING:
    from rich.table import Table


def summarise(one: Input, behaviours: Mapping[Key, Counter[str]] | None) -> dict[str, Any]:
    """One input's numbers, as JSON takes them; means over its answers, null where it has none.

    Args:
        behaviours: steps of each behaviour, by problem; None without a judge.

    Returns:
        "problems" = "answers" + all of "left_out"; "tokens" of the response, "steps" of the
        thought, "tokens_per_step" the ratio of these means (the answer's tokens are among them);
        "right" the share; "lexical" means of markers, "lexical_interval" their 95 % intervals
        (bootstrap over problems); "behaviours" {name: {"steps": in all, "share": of all steps,
        "per_answer": mean, "interval": its own}}, {} without a judge.
    """
    thoughts = list(one.thoughts.values())
    counts = [count_markers(thought.text) for thought in thoughts]
    lexical = {kind: [count[kind] for count in counts] for kind in MARKERS}
    tokens = _mean([thought.length for thought in thoughts])
    steps = _mean([len(thought.steps) for thought in thoughts])
    return {
        "name": one.name,
        "path": one.path,
        "problems": one.problems,
        "answers": len(thoughts),
        "left_out": dict(one.left_out.most_common()),
        "tokens": tokens,
        "steps": steps,
        "tokens_per_step": tokens / steps if tokens is not None and steps else None,
        "right": _mean([thought.right for thought in thoughts]),
        "lexical": {kind: _mean(values) for kind, values in lexical.items()},
        "lexical_interval": {kind: _interval(values) for kind, values in lexical.items()},
        "behaviours": {} if behaviours is None else _behaviours([*behaviours.values()]),
    }


def _behaviours(answers: Sequence[Counter[str]]) -> dict[str, dict[str, Any]]:
    total = sum(answer.total() for answer in answers)
    found = {}
    for name in BEHAVIOURS:
        steps = [answer[name] for answer in answers]
        found[name] = {
            "steps": sum(steps),
            "share": sum(steps) / total if total else None,
            "per_answer": _mean(steps),
            "interval": _interval(steps),
        }
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def _interval(values: Sequence[float]) -> list[float] | None:
    return list(bootstrap(values)) if values else None


def table(analysis: Mapping[str, Any]) -> Table:
    """A row for each number, a column for each input."""
    from rich.table import Table

    inputs = analysis["inputs"]
    found = Table()
    found.add_column("mean of each answer", no_wrap=True)
    for one in inputs:
        found.add_column(one["name"], justify="right")

    def row(name: str, cells: Sequence[str]) -> None:
        found.add_row(name, *cells)

    row("answers", [f"{one['answers']} of {one['problems']}" for one in inputs])
    for key, form in (("tokens", ",.0f"), ("steps", ".1f"), ("tokens_per_step", ".1f")):
        row(key.replace("_", " "), [_shown(one[key], form) for one in inputs])
    row("right", [_shown(one["right"], ".1%") for one in inputs])
    found.add_section()
    for kind in MARKERS:
        cells = [_with(one["lexical"][kind], one["lexical_interval"][kind]) for one in inputs]
        row(kind, cells)
    if analysis["mode"] == "judge":
        found.add_section()
        for name in BEHAVIOURS:
            parts = [one["behaviours"][name] for one in inputs]
            row(
                name,
                [f"{_shown(p['share'], '.1%')}, {_shown(p['per_answer'], '.2f')}" for p in parts],
            )
    reasons = dict.fromkeys(reason for one in inputs for reason in one["left_out"])
    if reasons:
        found.add_section()
    for reason in reasons:
        row(f"left out: {reason}", [str(one["left_out"].get(reason, 0)) for one in inputs])
    return found


def _with(value: float | None, interval: Sequence[float] | None) -> str:
    return _shown(value, ".2f") + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"
