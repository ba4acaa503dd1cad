"""What a model's answers come to in a study: in all, by groups of problems, within budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from megaprune import schema
from megaprune.algorithms.rewards.history import DIFFICULTIES, difficulty
from megaprune.evaluation.frontier import accuracy_within, efficiency_gap
from megaprune.evaluation.metrics import (
    accuracy_at_budget,
    aes,
    area_under_budgets,
    ock_score,
    problem_means,
)
from megaprune.report.run_records import AnswerTable, Array, ProblemKey

Groups = Mapping[ProblemKey, str]
"""The group that each problem is in."""

ByGroup = Mapping[str, tuple[float, float | None]]
"""Accuracy, and mean tokens of right answers (None without any), by group of problems."""


@dataclass(frozen=True, eq=False)
class Measured:
    """A model's answers to the test problems, problem by problem in the order of their names.

    Attributes:
        right, lengths: of each problem's answers.
        cut_off: the share of answers that the limit ended.
    """

    problems: tuple[ProblemKey, ...]
    right: tuple[tuple[bool, ...], ...]
    lengths: tuple[tuple[int, ...], ...]
    cut_off: float

    @classmethod
    def of(cls, answers: AnswerTable) -> Measured:
        """Sort answers by their problems."""
        rows: dict[ProblemKey, list[int]] = {}
        for row, problem in enumerate(answers.problems):
            rows.setdefault(problem, []).append(row)
        problems = tuple(sorted(rows))
        return cls(
            problems,
            tuple(tuple(bool(answers.right[row]) for row in rows[name]) for name in problems),
            tuple(tuple(int(answers.lengths[row]) for row in rows[name]) for name in problems),
            float(answers.cut_off.mean()),
        )

    def among(self, problems: set[ProblemKey]) -> Measured:
        """The answers to some of the problems."""
        chosen = [i for i, name in enumerate(self.problems) if name in problems]
        return Measured(
            tuple(self.problems[i] for i in chosen),
            tuple(self.right[i] for i in chosen),
            tuple(self.lengths[i] for i in chosen),
            self.cut_off,
        )

    @cached_property
    def accuracies(self) -> Array:
        """The share of right answers to each problem."""
        means: Array = problem_means(self.right)
        return means

    @cached_property
    def tokens(self) -> Array:
        """The mean tokens of the answers to each problem."""
        means: Array = problem_means(self.lengths)
        return means


def groups_of(start: Measured | None, measured: Sequence[Measured]) -> dict[ProblemKey, str]:
    """The group of each problem: its set, or of a single set its difficulty, if that is known."""
    problems = {key for own in (start, *measured) if own for key in own.problems}
    if len({source for source, _ in problems}) > 1:
        return {key: key[0] for key in problems}
    if start is None:
        return {}
    return {key: difficulty(right) for key, right in zip(start.problems, start.right, strict=True)}


def gaps_of(models: Sequence[Sequence[Measured]], limit: int) -> list[list[float]]:
    """REG of every run, from the frontier of all models together: the best mean accuracy of any.

    Args:
        models: the runs of each model.
        limit: tokens of the longest response.
    """
    curves = [[accuracy_within(run.right, run.lengths, limit) for run in runs] for runs in models]
    frontier = np.max([np.mean(of_model, axis=0) for of_model in curves], axis=0)
    return [[efficiency_gap(frontier, own) for own in of_model] for of_model in curves]


def group_order(group: str) -> tuple[int, str]:
    """Where a group stands among others."""
    return (DIFFICULTIES.index(group) if group in DIFFICULTIES else 0), group


def numbers_of(
    measured: Measured,
    start: Measured | None,
    budgets: Sequence[int],
    by_group: ByGroup,
) -> dict[str, Any]:
    """What a model's answers come to, by the names of the table's columns."""
    accuracy, length = float(measured.accuracies.mean()), float(measured.tokens.mean())
    at_budget = accuracy_at_budget(measured.right, measured.lengths, budgets)
    numbers: dict[str, Any] = {
        "problems": len(measured.problems),
        "answers": sum(map(len, measured.right)),
        "accuracy": accuracy,
        "length": length,
        schema.TRUNCATED: measured.cut_off,
        "accuracy_change": None,
        "length_ratio": None,
        "aes_signed": None,
        "aes_absolute": None,
        "ock_score": ock_score(accuracy, length),
        "budget_area": area_under_budgets({at: share for at, (share, _) in at_budget.items()}),
    }
    if start is not None and (both := {*start.problems} & {*measured.problems}):
        ours, theirs = measured.among(both), start.among(both)
        base, own = (
            (float(evaluation.accuracies.mean()), float(evaluation.tokens.mean()))
            for evaluation in (theirs, ours)
        )
        score = aes(*own, *base)
        numbers["accuracy_change"] = own[0] - base[0]
        numbers["length_ratio"] = own[1] / base[1] if base[1] else None
        numbers["aes_signed"], numbers["aes_absolute"] = score or (None, None)
    for budget, (share, _) in at_budget.items():
        numbers[f"accuracy_at/{budget}"] = share
    return numbers | group_columns(by_group)


def group_columns(by_group: ByGroup) -> dict[str, Any]:
    """Accuracy and tokens of right answers of each group, by the names of the table's columns."""
    return {
        f"{what}/{group}": value
        for group, values in by_group.items()
        for what, value in zip(("accuracy", "right_length"), values, strict=True)
    }


def by_group_of(measured: Measured, groups: Groups) -> dict[str, tuple[float, float | None]]:
    """Accuracy, and mean tokens of right answers (mean over the problems that have one)."""
    result: dict[str, tuple[float, float | None]] = {}
    for name in sorted({*groups.values()}, key=group_order):
        chosen = measured.among({key for key, group in groups.items() if group == name})
        if not chosen.problems:
            continue
        lengths = [
            np.mean([n for n, is_right in zip(counts, right, strict=True) if is_right])
            for counts, right in zip(chosen.lengths, chosen.right, strict=True)
            if any(right)
        ]
        result[name] = float(chosen.accuracies.mean()), float(np.mean(lengths)) if lengths else None
    return result


def each_left_out(start: Measured) -> tuple[Measured, dict[ProblemKey, str]]:
    """Each answer of the start model as a problem of its own, as hard as the others find it.

    Sorted by themselves, its answers would look better on easy problems than they are, and worse
    on hard ones: luck would be part of the difficulty.
    """
    keys: list[ProblemKey] = []
    right, lengths, kinds = [], [], {}
    for (source, name), verdicts, counts in zip(
        start.problems, start.right, start.lengths, strict=True
    ):
        for place in range(len(verdicts) if len(verdicts) > 1 else 0):
            keys.append(key := (source, f"{name}/{place}"))
            right.append((verdicts[place],))
            lengths.append((counts[place],))
            kinds[key] = difficulty(verdicts[:place] + verdicts[place + 1 :])
    return Measured(tuple(keys), tuple(right), tuple(lengths), start.cut_off), kinds
