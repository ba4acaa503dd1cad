"""Evaluations side by side, all against one baseline if there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from megaprune.config.fields import may_change
from megaprune.evaluate.config import EvaluateConfig
from megaprune.report.evaluation import SUMMARY, Evaluation, compare, read_evaluation
from megaprune.report.inputs import each_once

# Settings that may differ between two evaluations without a word on the page.
_AS_IT_LIKES = {*may_change(EvaluateConfig), "model", "data", "seed"}


@dataclass(frozen=True)
class Comparison:
    """Evaluations on a page.

    Attributes:
        evaluations: the baseline first; each with a name of its own.
        baseline: what the others are compared with; None for nothing that is there.
        notes: what a reader must know about the comparison.
    """

    evaluations: tuple[Evaluation, ...]
    baseline: Evaluation | None
    notes: tuple[str, ...]

    @property
    def sets(self) -> tuple[str, ...]:
        """Names of all sets."""
        return tuple(dict.fromkeys(name for one in self.evaluations for name in one.sets))

    @property
    def shared(self) -> tuple[str, ...]:
        """Sets that all evaluations have."""
        return tuple(
            name for name in self.sets if all(name in one.sets for one in self.evaluations)
        )


def read_comparison(paths: Sequence[Path], baseline: Path | None) -> Comparison:
    """Read evaluations and compare them.

    Args:
        paths: their folders.
        baseline: the folder to compare with, if it is not the one that they name themselves.

    Raises:
        InputError: a folder is not that of an evaluation that has ended.
    """
    folders = each_once([*([baseline] if baseline else []), *paths])
    read, notes = [read_evaluation(path) for path in folders], list[str]()
    if baseline is None:
        baseline = _named_baseline(read, notes)
        if baseline is not None and baseline.resolve() not in {path.resolve() for path in folders}:
            read.insert(0, read_evaluation(baseline))
    read, base = _with_names(read), None
    if baseline is not None:
        known = next(one for one in read if one.path.resolve() == baseline.resolve())
        base = _without(known)
        read = [base, *(_against(one, base) for one in read if one is not known)]
    elif len({one.baseline for one in read if one.baseline}) > 1:
        read = [_without(one) for one in read]
    notes += [f"{one.name}: {note}" for one in read for note in one.notes]
    notes += [*_different(read), *_partial(read)]
    return Comparison(tuple(read), base, tuple(notes))


def _named_baseline(read: Sequence[Evaluation], notes: list[str]) -> Path | None:
    """The one folder that evaluations were compared with, if it is there."""
    named = sorted({one.baseline for one in read if one.baseline})
    if len(named) > 1:
        notes.append(
            f"The evaluations name different baselines ({', '.join(named)}): nothing is compared "
            "here. --baseline says with which."
        )
    if len(named) != 1:
        return None
    if (Path(named[0]) / SUMMARY).is_file():
        return Path(named[0])
    notes.append(
        f"{named[0]}, which the evaluations were compared with, is not to be found from here: the "
        "changes are as they were recorded. --baseline says where it is."
    )
    return None


def _with_names(read: Sequence[Evaluation]) -> list[Evaluation]:
    """Each with a name of its own: the last parts of its path, as many as tell all apart."""
    paths = [one.path.resolve() for one in read]
    for parts in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len({*names}) == len(names):
            break
    return [replace(one, name=name) for one, name in zip(read, names, strict=True)]


def _against(one: Evaluation, base: Evaluation) -> Evaluation:
    sets = {
        name: replace(
            measured,
            against=compare(measured, base.sets[name]) if name in base.sets else None,
        )
        for name, measured in one.sets.items()
    }
    return replace(one, sets=sets)


def _without(one: Evaluation) -> Evaluation:
    sets = {name: replace(measured, against=None) for name, measured in one.sets.items()}
    return replace(one, sets=sets)


def _different(read: Sequence[Evaluation]) -> list[str]:
    """Settings that make a comparison unfair."""
    notes = []
    for name in dict.fromkeys(name for one in read for name in one.settings):
        values = [one.settings.get(name) for one in read]
        if name not in _AS_IT_LIKES and any(value != values[0] for value in values):
            said = ", ".join(
                f"{value} for {one.name}" for one, value in zip(read, values, strict=True)
            )
            notes.append(f"The evaluations differ in {name}: {said}.")
    return notes


def _partial(read: Sequence[Evaluation]) -> list[str]:
    """Comparisons on a part of the problems."""
    return [
        f"{one.name} is compared on {measured.against.problems} of its {measured.problems} "
        f"problems of {name}: the baseline has no others of them."
        for one in read
        for name, measured in one.sets.items()
        if measured.against is not None and measured.against.problems < measured.problems
    ]
