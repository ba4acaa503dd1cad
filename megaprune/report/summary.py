"""Means over problems with bootstrap intervals, and how they changed."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megaprune.evaluate.metrics import bootstrap
from megaprune.report.answers import Answers, Array, Key, read_answers
from megaprune.report.run import Run

RESAMPLES = 4000
TOKENS, RIGHT, CUT_OFF = range(3)  # columns of a problem's means


@dataclass(frozen=True)
class Estimate:
    """A mean over problems and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Outcome:
    """Means of one set of answers; accuracy and cut_off are shares.

    `at` is the step that the answers are of, or a pruning's round.
    """

    at: int
    problems: int
    answers: int
    tokens: Estimate
    accuracy: Estimate
    cut_off: Estimate


@dataclass(frozen=True)
class Change:
    """From `before` to `after`: tokens relative to before, the others as differences of shares."""

    before: Outcome
    after: Outcome
    tokens: Estimate
    accuracy: Estimate
    cut_off: Estimate


@dataclass(frozen=True)
class Summary:
    """What a report says.

    Attributes:
        held_out: whether the answers are of validations; else they are of training steps.
        outcomes: of every validation or round, or of the first and the last training step.
        change: from one of them to another; None if nothing is compared.
        by_source: the same for each data source, if there are several.
        first: the answers that are compared, or the first outcome's.
        last: those they are compared with; None if nothing is compared.
        notes: what a reader must know about the comparison.
    """

    held_out: bool
    outcomes: tuple[Outcome, ...]
    change: Change | None
    by_source: dict[str, Change]
    first: Answers | None
    last: Answers | None
    notes: tuple[str, ...]


def summarize(run: Run) -> Summary:
    """Count a run's answers: of its validations, or, without any, of its training steps."""
    held_out = bool(run.validations)
    files = run.validations if held_out else _ends(run.samples)
    sets = {step: read_answers(path) for step, path in files.items()}
    ends = (min(sets), max(sets)) if len(sets) > 1 else None
    return summarize_sets(sets, held_out, ends)


def summarize_sets(
    sets: Mapping[int, Answers], held_out: bool, ends: tuple[int, int] | None
) -> Summary:
    """Count sets of answers, by step or by round.

    Args:
        sets: in their order.
        held_out: whether all are to validation problems.
        ends: the two that are compared, if any.
    """
    outcomes = tuple(describe(at, answers) for at, answers in sets.items())
    if ends is None:
        first = next(iter(sets.values()), None)
        return Summary(held_out, outcomes, None, {}, first, None, ())
    before, after = ((at, sets[at]) for at in ends)
    notes: list[str] = []
    paired = held_out and bool(set(before[1].problems) & set(after[1].problems))
    if paired:
        before, after = _shared(before, after, notes)
    elif held_out:
        notes.append("The first and the last validation have no problem in common.")
    by_source = {}
    for source in sorted({key[0] for key in before[1].problems}):
        parts = (_of_source(before, source), _of_source(after, source))
        if parts[1][1].problems:
            by_source[source] = compare(*parts, paired=paired)
    return Summary(
        held_out=held_out,
        outcomes=outcomes,
        change=compare(before, after, paired=paired),
        by_source=by_source if len(by_source) > 1 else {},
        first=before[1],
        last=after[1],
        notes=tuple(notes),
    )


def describe(at: int, answers: Answers) -> Outcome:
    """Means of a set of answers, with intervals."""
    means = _means(answers)
    tokens, accuracy, cut_off = (
        Estimate(float(column.mean()), *bootstrap(column, draws=RESAMPLES)) for column in means.T
    )
    return Outcome(at, len(means), len(answers.problems), tokens, accuracy, cut_off)


def compare(before: tuple[int, Answers], after: tuple[int, Answers], *, paired: bool) -> Change:
    """How means changed between two sets of answers.

    Args:
        before: a step, or a round, and its answers.
        after: another.
        paired: both are of the same problems, which are then drawn together: what makes a problem
            long or hard is in both, and does not widen the interval of the change.
    """
    ends = []
    for seed, (_, answers) in enumerate((before, after)):
        means = _means(answers)
        counts = _resamples(len(means), 0 if paired else seed)
        ends.append((means.mean(axis=0), counts @ means / len(means)))
    (old, old_resampled), (new, new_resampled) = ends
    with np.errstate(divide="ignore", invalid="ignore"):  # no tokens before: no relative change
        relative = _estimate(
            new[TOKENS] / old[TOKENS] - 1, new_resampled[:, TOKENS] / old_resampled[:, TOKENS] - 1
        )
    accuracy, cut_off = (
        _estimate(new[column] - old[column], new_resampled[:, column] - old_resampled[:, column])
        for column in (RIGHT, CUT_OFF)
    )
    return Change(describe(*before), describe(*after), relative, accuracy, cut_off)


def select(answers: Answers, keys: set[Key]) -> Answers:
    """The answers to some of the problems."""
    chosen = np.array([key in keys for key in answers.problems], dtype=bool)
    return Answers(
        problems=[key for key in answers.problems if key in keys],
        lengths=answers.lengths[chosen],
        right=answers.right[chosen],
        cut_off=answers.cut_off[chosen],
    )


def _means(answers: Answers) -> Array:
    """A row for every problem, sorted by name: its answers' mean tokens, share right and cut off.

    Problems are what is drawn from a population; answers to one problem are alike.
    """
    rows = {key: row for row, key in enumerate(sorted(set(answers.problems)))}
    index = np.array([rows[key] for key in answers.problems])
    size = np.bincount(index)
    columns = (answers.lengths, answers.right, answers.cut_off)
    means: Array = np.stack([np.bincount(index, column) / size for column in columns], axis=1)
    return means


@functools.lru_cache(maxsize=4)
def _resamples(problems: int, seed: int) -> Array:
    """How often each problem is drawn, in each of RESAMPLES draws of as many with replacement."""
    drawn = np.random.default_rng(seed).integers(problems, size=(RESAMPLES, problems))
    drawn += np.arange(RESAMPLES)[:, None] * problems
    counts: Array = np.bincount(drawn.ravel(), minlength=RESAMPLES * problems)
    return counts.reshape(RESAMPLES, problems).astype(float)


def _estimate(value: float, resampled: Array) -> Estimate:
    low, high = (float(np.percentile(resampled, share)) for share in (2.5, 97.5))
    return Estimate(float(value), low, high)


def _ends(files: dict[int, Path]) -> dict[int, Path]:
    """The first and the last."""
    return {step: files[step] for step in [*files][:1] + [*files][1:][-1:]}


def _shared(
    before: tuple[int, Answers], after: tuple[int, Answers], notes: list[str]
) -> tuple[tuple[int, Answers], tuple[int, Answers]]:
    """Both without the problems that only one of them has."""
    keys = set(before[1].problems), set(after[1].problems)
    both = keys[0] & keys[1]
    if left := len(keys[0] ^ keys[1]):
        notes.append(
            f"{left} problems are in only one of the two validations that are compared; "
            "the comparison leaves them out."
        )
    return (before[0], select(before[1], both)), (after[0], select(after[1], both))


def _of_source(end: tuple[int, Answers], source: str) -> tuple[int, Answers]:
    at, answers = end
    return at, select(answers, {key for key in answers.problems if key[0] == source})
