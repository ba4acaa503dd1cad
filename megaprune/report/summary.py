"""Means over problems with bootstrap intervals, how they changed, and answers that show it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from megaprune.evaluation.metrics import (
    bootstrap,
    difference_interval,
    independent_interval,
    share_interval,
)
from megaprune.report.run_records import (
    AnswerTable,
    Array,
    ProblemKey,
    RunRecord,
    SampleRow,
    read_answers,
    read_first_answers,
    read_texts,
)

RESAMPLES = 4000
TOKENS, RIGHT, CUT_OFF = range(3)  # columns of a problem's means


@dataclass(frozen=True)
class Estimate:
    """A mean over problems and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class AnswerMeans:
    """The means of one set of answers; accuracy and cut_off are shares.

    Attributes:
        at: the step, or the round of a pruning, that the answers are of.
        limit: the tokens at which answers were cut off; None if none was.
        within: accuracy if answers longer than the training limit were wrong, as they are in
            training; None if that limit is not known.
    """

    at: int
    problems: int
    answers: int
    tokens: Estimate
    accuracy: Estimate
    cut_off: Estimate
    limit: int | None
    within: float | None


@dataclass(frozen=True)
class MeansChange:
    """The change from `before` to `after`: tokens relative to before, the others as differences."""

    before: AnswerMeans
    after: AnswerMeans
    tokens: Estimate
    accuracy: Estimate
    cut_off: Estimate


@dataclass(frozen=True)
class AnswerSummary:
    """What the answers of a run or a pruning came to.

    Attributes:
        held_out: whether they answer validation problems; otherwise training problems.
        outcomes: the means of every validation or round, or of the first and last training step.
        change: the change from one of them to another; None if nothing is compared.
        by_source: the change in each data source, if there are several.
        first: the answers that are compared, or those of the first outcome.
        last: the answers that they are compared with; None if nothing is compared.
        notes: what a reader must know about the comparison.
    """

    held_out: bool
    outcomes: tuple[AnswerMeans, ...]
    change: MeansChange | None
    by_source: dict[str, MeansChange]
    first: AnswerTable | None
    last: AnswerTable | None
    notes: tuple[str, ...]

    @property
    def sources(self) -> tuple[str, ...]:
        """The data sources of the problems that are compared."""
        problems = self.first.problems if self.first is not None else []
        return tuple(sorted({source for source, _ in problems}))


def summarize(run: RunRecord) -> AnswerSummary:
    """Count a run's answers: those of its validations or, without any, of its training steps."""
    held_out = bool(run.validations)
    files = run.validations if held_out else _ends(run.samples)
    sets = {step: read_answers(path) for step, path in files.items()}
    ends = (min(sets), max(sets)) if len(sets) > 1 else None
    return summarize_sets(sets, held_out, ends, run.training_limit)


def summarize_sets(
    sets: Mapping[int, AnswerTable],
    held_out: bool,
    ends: tuple[int, int] | None,
    training_limit: int | None = None,
) -> AnswerSummary:
    """Count sets of answers, by step or by round.

    Args:
        sets: the sets in their order.
        held_out: whether all of them answer validation problems.
        ends: the two that are compared, if any.
        training_limit: the most tokens of an answer in training, if it is known.
    """
    outcomes = tuple(describe(at, answers, training_limit) for at, answers in sets.items())
    if ends is None:
        first = next(iter(sets.values()), None)
        return AnswerSummary(held_out, outcomes, None, {}, first, None, ())
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
    return AnswerSummary(
        held_out=held_out,
        outcomes=outcomes,
        change=compare(before, after, paired=paired),
        by_source=by_source if len(by_source) > 1 else {},
        first=before[1],
        last=after[1],
        notes=tuple(notes),
    )


def describe(at: int, answers: AnswerTable, training_limit: int | None = None) -> AnswerMeans:
    """Compute the means of a set of answers, with intervals."""
    means = _means(answers)
    length = means[:, TOKENS]
    tokens = Estimate(float(length.mean()), *bootstrap(length, draws=RESAMPLES))
    accuracy, cut_off = (
        Estimate(float(share.mean()), *share_interval(share, draws=RESAMPLES))
        for share in (means[:, RIGHT], means[:, CUT_OFF])
    )
    cut = answers.lengths[answers.cut_off > 0]
    within = None
    if training_limit is not None:
        in_time = replace(answers, right=answers.right * (answers.lengths <= training_limit))
        within = float(_means(in_time)[:, RIGHT].mean())
    return AnswerMeans(
        at=at,
        problems=len(means),
        answers=len(answers.problems),
        tokens=tokens,
        accuracy=accuracy,
        cut_off=cut_off,
        limit=int(cut.max()) if len(cut) else None,
        within=within,
    )


def compare(
    before: tuple[int, AnswerTable], after: tuple[int, AnswerTable], *, paired: bool
) -> MeansChange:
    """Compute how means changed between two sets of answers.

    Args:
        before: a step or a round, and its answers.
        after: another.
        paired: both answer the same problems, which are then drawn together: what makes a problem
            long or hard is in both, and does not widen the interval of the change.
    """
    ends = []
    for seed, (_, answers) in enumerate((before, after)):
        means = _means(answers)
        counts = _resamples(len(means), 0 if paired else seed)
        ends.append((means, means.mean(axis=0), counts @ means / len(means)))
    (old_means, old, old_resampled), (new_means, new, new_resampled) = ends
    with np.errstate(divide="ignore", invalid="ignore"):  # no tokens before: no relative change
        relative = _estimate(
            new[TOKENS] / old[TOKENS] - 1, new_resampled[:, TOKENS] / old_resampled[:, TOKENS] - 1
        )
    interval_of = difference_interval if paired else independent_interval
    accuracy, cut_off = (
        Estimate(
            float(new[column] - old[column]),
            *interval_of(new_means[:, column], old_means[:, column], draws=RESAMPLES),
        )
        for column in (RIGHT, CUT_OFF)
    )
    return MeansChange(describe(*before), describe(*after), relative, accuracy, cut_off)


def select(answers: AnswerTable, keys: set[ProblemKey]) -> AnswerTable:
    """Keep the answers to some of the problems."""
    chosen = np.array([key in keys for key in answers.problems], dtype=bool)
    return AnswerTable(
        problems=[key for key in answers.problems if key in keys],
        lengths=answers.lengths[chosen],
        right=answers.right[chosen],
        cut_off=answers.cut_off[chosen],
    )


def _means(answers: AnswerTable) -> Array:
    """A row for every problem, sorted by name: mean tokens, share right, share cut off.

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
    """How often each problem is drawn, in each of RESAMPLES draws with replacement."""
    drawn = np.random.default_rng(seed).integers(problems, size=(RESAMPLES, problems))
    drawn += np.arange(RESAMPLES)[:, None] * problems
    counts: Array = np.bincount(drawn.ravel(), minlength=RESAMPLES * problems)
    return counts.reshape(RESAMPLES, problems).astype(float)


def _estimate(value: float, resampled: Array) -> Estimate:
    low, high = (float(np.percentile(resampled, share)) for share in (2.5, 97.5))
    return Estimate(float(value), low, high)


def _ends(files: dict[int, Path]) -> dict[int, Path]:
    """Keep the first and the last."""
    return {step: files[step] for step in [*files][:1] + [*files][1:][-1:]}


def _shared(
    before: tuple[int, AnswerTable], after: tuple[int, AnswerTable], notes: list[str]
) -> tuple[tuple[int, AnswerTable], tuple[int, AnswerTable]]:
    """Leave out the problems that only one of the two has."""
    keys = set(before[1].problems), set(after[1].problems)
    both = keys[0] & keys[1]
    if left := len(keys[0] ^ keys[1]):
        notes.append(
            f"{left} problems are in only one of the two validations that are compared; "
            "the comparison leaves them out."
        )
    return (before[0], select(before[1], both)), (after[0], select(after[1], both))


def _of_source(end: tuple[int, AnswerTable], source: str) -> tuple[int, AnswerTable]:
    at, answers = end
    return at, select(answers, {key for key in answers.problems if key[0] == source})


RULE = (
    "Chosen by rule, from each problem's first answer on both sides: the problem whose answer "
    "shortened by the median number of tokens, the one whose answer shortened most, the first by "
    "name whose answer was right and became wrong, and the first by name the other way round. "
    "A problem is shown once."
)
RULE_OF_ONE = (
    "Chosen by rule, from each problem's first answer: that of median length, and the longest."
)


@dataclass(frozen=True)
class AnswerExample:
    """Answers to one problem, each with the name of its side."""

    why: str
    sides: tuple[tuple[str, SampleRow], ...]


def choose_pairs(
    before: Sequence[Path], after: Sequence[Path], names: tuple[str, str]
) -> list[AnswerExample]:
    """Choose answers to the same problems, with the same number, by RULE.

    Args:
        before: files of answers.
        after: files of other answers.
        names: the names of both sides.
    """
    sides = read_first_answers(*before), read_first_answers(*after)
    return [
        AnswerExample(
            why,
            tuple((name, read_texts(side[key])) for name, side in zip(names, sides, strict=True)),
        )
        for why, key in _pick(*sides)
    ]


def choose_some(files: Sequence[Path], name: str) -> list[AnswerExample]:
    """Choose answers of one side, by RULE_OF_ONE."""
    answers = read_first_answers(*files)
    by_length = sorted(sorted(answers), key=lambda key: answers[key]["length"])
    picked = [("median length", by_length[(len(by_length) - 1) // 2]), ("longest", by_length[-1])]
    if len(by_length) == 1:
        picked = picked[:1]
    return [AnswerExample(why, ((name, read_texts(answers[key])),)) for why, key in picked]


def _pick(
    before: dict[ProblemKey, SampleRow], after: dict[ProblemKey, SampleRow]
) -> list[tuple[str, ProblemKey]]:
    shared = sorted(
        key for key in before.keys() & after.keys() if before[key]["number"] == after[key]["number"]
    )

    def shortening(key: ProblemKey) -> int:
        return int(before[key]["length"] - after[key]["length"])

    by_shortening = sorted(shared, key=shortening)
    middle = (len(shared) - 1) // 2
    picked: dict[ProblemKey, str] = {}

    def first(
        why: str, keys: list[ProblemKey], fits: Callable[[ProblemKey], bool] = lambda _: True
    ) -> None:
        key = next((key for key in keys if key not in picked and fits(key)), None)
        if key is not None:
            picked[key] = why

    first("median shortening", by_shortening[middle:])
    first("largest shortening", by_shortening[::-1])
    first(
        "right before, wrong after",
        shared,
        lambda key: before[key]["match"] and not after[key]["match"],
    )
    first(
        "wrong before, right after",
        shared,
        lambda key: after[key]["match"] and not before[key]["match"],
    )
    return [(why, key) for key, why in picked.items()]
