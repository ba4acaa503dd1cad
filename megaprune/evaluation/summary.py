"""What an evaluation came to: a summary of each set's rows, their average, a table.

Rows have the columns of `schema.SAMPLE_COLUMNS`; only COLUMNS of them are needed. Rows with
an `exit_at`, whose thoughts were closed early, are told apart under that name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from megaprune import schema
from megaprune.evaluation import metrics
from megaprune.evaluation.frontier import (
    Frontier,
    accuracy_within,
    efficiency_gap,
    frontier_within,
)
from megaprune.evaluation.length_intervals import accuracy_by_rank, accuracy_by_width
from megaprune.grading.forms import normal_forms
from megaprune.grading.verdict import FAILURES

if TYPE_CHECKING:
    from rich.table import Table

Row: TypeAlias = Mapping[str, Any]

COLUMNS = (
    "problem", "number", "exit_at", "length", "injected", "finish", "match", "extracted", "why",
)  # fmt: skip

NO_ANSWER = frozenset({"thought not closed", "no answer", "unparsable"})
"""Of a response that ended by itself, reasons that count it as unparsable."""


class _Samples:
    """Graded responses by problem; those of a problem are in the order of their numbers."""

    def __init__(self, rows: Iterable[Row]):
        self.by_problem: dict[str, list[Row]] = {}
        for row in sorted(rows, key=lambda row: (row["problem"], row["number"])):
            self.by_problem.setdefault(row["problem"], []).append(row)

    def of(self, column: str, problems: Iterable[str] | None = None) -> list[list[Any]]:
        """A column's values, [problems][samples], of all problems or of some."""
        chosen = self.by_problem if problems is None else problems
        return [[row[column] for row in self.by_problem[name]] for name in chosen]

    def count(self) -> int:
        """The number of all samples."""
        return sum(map(len, self.by_problem.values()))

    def share(self, of: Callable[[Row], bool]) -> float:
        """Mean over problems of the share of samples for which a function is true."""
        flags = [[of(row) for row in rows] for rows in self.by_problem.values()]
        return float(metrics.problem_means(flags).mean())


def summarise(
    rows: Iterable[Row],
    budgets: Sequence[int],
    frontier: Frontier | None = None,
    limit: int = 0,
) -> dict[str, Any]:
    """Summarise one set.

    Args:
        rows: all rows of the set.
        budgets: numbers of tokens, for "at_budget".
        frontier: of the set, for "efficiency_gap"; None for none.
        limit: tokens of the longest response, up to which the gap is measured.

    Returns:
        As JSON takes it; the functions of `metrics` say what the fields mean. Shares, lengths and
        accuracies are means over problems; "lengths" are of all samples alike.
    """
    by_exit: dict[int | None, list[Row]] = {}
    for row in rows:
        by_exit.setdefault(row["exit_at"], []).append(row)
    own = _Samples(by_exit.pop(None, []))
    right, lengths, answers = own.of("match"), own.of("length"), _forms(own)
    powers = _powers(max(map(len, right), default=0))
    at_budget = metrics.accuracy_at_budget(right, lengths, budgets)
    means = _headline(own)
    return {
        "problems": len(right),
        "samples": own.count(),
        **means,
        "ock_score": metrics.ock_score(means["accuracy"], means["length"]),
        "budget_area": metrics.area_under_budgets({b: a for b, (a, _) in at_budget.items()}),
        **_gap(right, lengths, frontier, limit),
        "accuracy_by_length": {
            "rank": _numbered(accuracy_by_rank(right, lengths)),
            "width": _numbered(accuracy_by_width(right, lengths)),
        },
        "right_length": metrics.right_length_by_difficulty(right, lengths),
        "pass_at": {str(k): metrics.pass_at_k(right, k) for k in powers},
        "majority_at": {str(k): metrics.majority_at_k(answers, right, k) for k in powers},
        schema.TRUNCATED: own.share(_cut_off),
        "unparsable": own.share(lambda row: row["finish"] != "length" and row["why"] in NO_ANSWER),
        schema.GRADING_FAILED: own.share(lambda row: row["why"] in FAILURES),
        "lengths": _lengths(own),
        "at_budget": {
            str(budget): {"accuracy": accuracy, "length": length}
            for budget, (accuracy, length) in at_budget.items()
        },
        "exit_at": {
            str(exit_at): _early(_Samples(early_rows))
            for exit_at, early_rows in sorted(by_exit.items(), key=lambda item: item[0] or 0)
        },
    }


def _gap(
    right: metrics.Right, lengths: list[list[int]], frontier: Frontier | None, limit: int
) -> dict[str, float]:
    if frontier is None:
        return {}
    own = accuracy_within(right, lengths, limit)
    return {"efficiency_gap": efficiency_gap(frontier_within(frontier, limit), own)}


def headline(rows: Iterable[Row]) -> dict[str, Any]:
    """How right and how long the responses of a set are, with intervals.

    Args:
        rows: only `problem`, `number`, `match` and `length` are needed.

    Returns:
        "accuracy", "accuracy_interval", "length" and "length_interval", as `summarise` has them.
    """
    return _headline(_Samples(rows))


def truncated(rows: Iterable[Row]) -> float:
    """The share of a set's responses that the limit ended: mean over problems."""
    return _Samples(rows).share(_cut_off)


def _cut_off(row: Row) -> bool:
    return bool(row["finish"] == "length")


def _forms(samples: _Samples) -> list[list[str | None]]:
    """Return normal forms of what was extracted, [problems][samples]; None where nothing was."""
    extracted = samples.of("extracted")
    forms = normal_forms(text for texts in extracted for text in texts if text is not None)
    return [[None if text is None else forms[text] for text in texts] for texts in extracted]


def _headline(samples: _Samples) -> dict[str, Any]:
    right = metrics.problem_means(samples.of("match"))
    lengths = metrics.problem_means(samples.of("length"))
    return {
        "accuracy": float(right.mean()),
        "accuracy_interval": list(metrics.share_interval(right)),
        "length": float(lengths.mean()),
        "length_interval": list(metrics.bootstrap(lengths)),
    }


def _numbered(values: Sequence[float | None] | None) -> dict[str, float | None]:
    return {str(place): value for place, value in enumerate(values or (), 1)}


def _powers(n: int) -> list[int]:
    """List the powers of two up to n."""
    return [1 << power for power in range(n.bit_length())]


def _lengths(samples: _Samples) -> dict[str, dict[str, float] | None]:
    rows = [row for of_problem in samples.by_problem.values() for row in of_problem]
    return {
        "all": metrics.percentiles([row["length"] for row in rows]),
        "right": metrics.percentiles([row["length"] for row in rows if row["match"]]),
        "wrong": metrics.percentiles([row["length"] for row in rows if not row["match"]]),
    }


def _early(samples: _Samples) -> dict[str, Any]:
    injected = metrics.problem_means(samples.of("injected")).mean()
    return {
        **_headline(samples),
        "injected": float(injected),
        "samples": samples.count(),
    }


def against(rows: Iterable[Row], baseline: Iterable[Row]) -> dict[str, Any] | None:
    """Compare a set with a baseline on the problems that both have; None if there are none.

    Returns:
        "problems": how many both have, "accuracy_difference", its paired "interval", "length_ratio"
        and "aes": {"signed", "absolute"}, or None where `metrics.aes` is.
    """
    ours, theirs = (
        _Samples(row for row in table_rows if row["exit_at"] is None)
        for table_rows in (rows, baseline)
    )
    both = [name for name in ours.by_problem if name in theirs.by_problem]
    if not both:
        return None
    right, length, base_right, base_length = (
        metrics.problem_means(samples.of(column, both))
        for samples in (ours, theirs)
        for column in ("match", "length")
    )
    score = metrics.aes(right.mean(), length.mean(), base_right.mean(), base_length.mean())
    return {
        "problems": len(both),
        "accuracy_difference": float(right.mean() - base_right.mean()),
        "interval": list(metrics.difference_interval(right, base_right)),
        "length_ratio": float(length.mean() / base_length.mean()),
        "aes": score and {"signed": float(score[0]), "absolute": float(score[1])},
    }


def averages(sets: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Plain means over sets of all numbers that every set has; problems and samples are summed.

    Intervals and the distribution of lengths are a set's own. So the average AES is the mean of the
    sets' scores, as in the table of O1-Pruner (2501.12570), not that of the average set.
    """
    return _mean(list(sets.values()))


_SUMMED = ("problems", "samples")


def _mean(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    means: dict[str, Any] = {}
    for key in parts[0] if parts else ():
        values = [part.get(key) for part in parts]
        if key == "lengths":
            continue
        if all(isinstance(value, Mapping) for value in values):
            means[key] = _mean([value for value in values if value is not None])
        elif all(isinstance(value, int | float) for value in values):
            total = sum(value for value in values if value is not None)
            means[key] = total if key in _SUMMED else total / len(values)
    return means


def table(sets: Mapping[str, Mapping[str, Any]]) -> Table:
    """Make a table with a row for each set, and for their average if there are several.

    Below right and points stand their intervals. Points and more tokens are the change from the
    baseline, where there is one; AES is the signed one. It fits into 80 columns, or 90 if grading
    failed.
    """
    from rich.table import Table

    rows = [*sets.items(), *[("average", averages(sets))] * (len(sets) > 1)]
    compared = any("against" in row for row in sets.values())
    failed = any(row[schema.GRADING_FAILED] for row in sets.values())
    grid = Table(box=None, padding=(0, 1), collapse_padding=True, pad_edge=False)
    grid.add_column("set", overflow="fold")
    columns = ["samples", "right", "tokens", "cut\noff", "unparsable"]
    columns += ["grading\nfailed"] * failed + ["points", "more\ntokens", "AES"] * compared
    for column in columns:
        grid.add_column(column, justify="right", no_wrap=True)
    for place, (name, row) in enumerate(rows):
        cells = [name, str(row["samples"]), *_measured(row)]
        cells += [f"{row[schema.GRADING_FAILED]:.1%}"] * failed
        cells += _compared(row.get("against")) if compared else []
        grid.add_row(*cells, style="bold" if place == len(sets) else None)
    return grid


def _measured(row: Mapping[str, Any]) -> list[str]:
    return [
        f"{row['accuracy']:.1%}" + _below(row.get("accuracy_interval"), ".1f"),
        f"{row['length']:.0f}",
        f"{row[schema.TRUNCATED]:.1%}",
        f"{row['unparsable']:.1%}",
    ]


def _compared(change: Mapping[str, Any] | None) -> list[str]:
    if not change:
        return ["", "", ""]
    score = change.get("aes")
    points = _signed(100 * change["accuracy_difference"])
    return [
        points + _below(change.get("interval"), "+.1f"),
        f"{_signed(100 * (change['length_ratio'] - 1))}%",
        f"{score['signed']:.2f}" if score else "",
    ]


def _signed(value: float) -> str:
    """Format a change; none has no sign."""
    text = f"{value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def _below(interval: Sequence[float] | None, form: str) -> str:
    """Format an interval in percent as a line of its own; empty if there is none."""
    if interval is None:
        return ""
    low, high = interval
    return f"\n{100 * low:{form}}..{100 * high:{form}}"
