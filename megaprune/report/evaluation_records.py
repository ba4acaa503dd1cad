"""Folders of evaluations, read, and evaluations side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megaprune import schema
from megaprune.config.fields import may_change
from megaprune.config.renamed import RENAMED
from megaprune.errors import InputError
from megaprune.evaluation.config import EvaluateConfig
from megaprune.evaluation.summary import COLUMNS
from megaprune.evaluation.summary import against as compare_rows
from megaprune.report.run_records import distinct_names, each_once, read_config, read_rows
from megaprune.report.summary import Estimate


@dataclass(frozen=True)
class BaselineChange:
    """How a set's answers differ from a baseline's, on the problems that both have.

    Attributes:
        problems: how many both have.
        accuracy: the difference of the shares of right answers.
        length_ratio: mean tokens divided by the baseline's.
        aes: the score, signed and absolute (`megaprune.evaluation.metrics.aes`); None where it
            cannot be computed.
    """

    problems: int
    accuracy: Estimate
    length_ratio: float
    aes: tuple[float, float] | None


@dataclass(frozen=True)
class SetRecord:
    """What an evaluation measured on one set; the numbers are those of summary.json.

    Attributes:
        name: the name of the set.
        files: the files with its answers.
        pass_at, majority_at: by the number of samples k, where they are known.
        at_budget: (accuracy, mean tokens) by budget.
        exit_at: accuracy by the number of tokens at which thoughts were closed.
        by_rank, by_width: accuracy by the number of an interval of lengths, from 1, the shortest
            (`megaprune.evaluation.length_intervals`).
        efficiency_gap: REG, in tokens; None without a frontier of the set.
        against: the change from the baseline; None without a baseline, or if it has none of the
            problems.
    """

    name: str
    files: tuple[Path, ...]
    problems: int
    samples: int
    accuracy: Estimate
    tokens: Estimate
    cut_off: float
    unparsable: float
    grading_failed: float
    pass_at: dict[int, float]
    majority_at: dict[int, float]
    at_budget: dict[int, tuple[float, float]]
    exit_at: dict[int, Estimate]
    by_rank: dict[int, float]
    by_width: dict[int, float]
    efficiency_gap: float | None
    against: BaselineChange | None


@dataclass(frozen=True)
class EvaluationRecord:
    """What an evaluation has written.

    Attributes:
        path: its folder.
        name: the name that the page gives it.
        model: the path or name of the model, as the user gave it.
        baseline: the folder that it was compared with, as the user gave it.
        settings: the configuration, by dotted names.
        sets: the sets by their names.
        config_text: the text of its config.yaml.
        notes: what a reader must know about what was read.
    """

    path: Path
    name: str
    model: str
    baseline: str | None
    settings: dict[str, Any]
    sets: dict[str, SetRecord]
    config_text: str
    notes: tuple[str, ...]


_OLD_NAMES = {"forced": "exit_at"}
"""Names that a set's summary may have instead: they are read as these."""


def read_evaluation(path: Path) -> EvaluationRecord:
    """Read an evaluation's folder, all but its answers; it is named after the folder.

    Raises:
        InputError: it is not the folder of an evaluation that has ended, or misses answers.
    """
    file, notes = path / schema.SUMMARY_FILE, list[str]()
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
        settings = {RENAMED.get(name, name): value for name, value in summary["settings"].items()}
        sets = {name: _read_set(path, name, numbers) for name, numbers in summary["sets"].items()}
        model, baseline = str(summary["model"]), summary["baseline"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file}: cannot be read as an evaluation's summary ({error!r}); `megaprune evaluate` "
            f"writes it when all answers are there: run the same command again"
        ) from error
    if not sets:
        raise InputError(f"{file}: has no set; expected the evaluation of one or more")
    for record in sets.values():
        _check_files(path, record)
    config_text, _ = read_config(path / schema.CONFIG_FILE, notes)
    return EvaluationRecord(
        path, path.resolve().name, model, baseline, settings, sets, config_text, tuple(notes)
    )


def compare(measured: SetRecord, baseline: SetRecord) -> BaselineChange | None:
    """How a set's answers differ from a baseline's; None if the two share no problem."""
    change = compare_rows(read_rows(measured.files, COLUMNS), read_rows(baseline.files, COLUMNS))
    return None if change is None else _read_change(change)


def _read_set(path: Path, name: str, summary: Mapping[str, Any]) -> SetRecord:
    numbers = {
        schema.metric_name(_OLD_NAMES.get(key, key)): value for key, value in summary.items()
    }
    files = [*(path / schema.SAMPLES_FOLDER).glob("*/*.parquet")]
    return SetRecord(
        name=name,
        files=tuple(sorted(file for file in files if file.parent.name == name)),
        problems=int(numbers["problems"]),
        samples=int(numbers["samples"]),
        accuracy=_estimate(numbers, "accuracy"),
        tokens=_estimate(numbers, "length"),
        cut_off=float(numbers[schema.TRUNCATED]),
        unparsable=float(numbers["unparsable"]),
        grading_failed=float(numbers[schema.GRADING_FAILED]),
        pass_at=_by_number(numbers["pass_at"]),
        majority_at=_by_number(numbers["majority_at"]),
        at_budget={
            int(at): (float(means["accuracy"]), float(means["length"]))
            for at, means in numbers["at_budget"].items()
        },
        exit_at={int(at): _estimate(early, "accuracy") for at, early in numbers["exit_at"].items()},
        by_rank=_by_interval(numbers, "rank"),
        by_width=_by_interval(numbers, "width"),
        efficiency_gap=numbers.get("efficiency_gap"),
        against=_read_change(numbers["against"]) if numbers.get("against") else None,
    )


def _check_files(path: Path, record: SetRecord) -> None:
    answers = len(read_rows(record.files, ["number"]))
    if answers != record.samples:
        raise InputError(
            f"{path / schema.SAMPLES_FOLDER / record.name}: has {answers:,} answers, but "
            f"{path / schema.SUMMARY_FILE} is of {record.samples:,}; `megaprune evaluate` writes "
            f"both: run the same command again"
        )


def _estimate(numbers: Mapping[str, Any], name: str) -> Estimate:
    low, high = numbers[f"{name}_interval"]
    return Estimate(float(numbers[name]), float(low), float(high))


def _by_number(values: Mapping[str, Any]) -> dict[int, float]:
    return {int(k): float(value) for k, value in values.items() if value is not None}


def _by_interval(numbers: Mapping[str, Any], kind: str) -> dict[int, float]:
    """Accuracies by the number of an interval; none of an evaluation before there were any."""
    return _by_number(numbers.get("accuracy_by_length", {}).get(kind, {}))


def _read_change(change: Mapping[str, Any]) -> BaselineChange:
    low, high = change["interval"]
    accuracy = Estimate(float(change["accuracy_difference"]), float(low), float(high))
    aes = change["aes"] and (float(change["aes"]["signed"]), float(change["aes"]["absolute"]))
    return BaselineChange(
        int(change["problems"]), accuracy, float(change["length_ratio"]), aes or None
    )


_NOT_TOLD = {*may_change(EvaluateConfig), "model", "data", "seed"}
"""Settings that may differ between two evaluations without a note on the page."""


@dataclass(frozen=True)
class EvaluationComparison:
    """Evaluations side by side.

    Attributes:
        evaluations: the baseline comes first; each has a name of its own.
        baseline: the one that the others are compared with; None if there is none.
        notes: what a reader must know about the comparison.
    """

    evaluations: tuple[EvaluationRecord, ...]
    baseline: EvaluationRecord | None
    notes: tuple[str, ...]

    @property
    def sets(self) -> tuple[str, ...]:
        """The names of all sets."""
        return tuple(
            dict.fromkeys(name for evaluation in self.evaluations for name in evaluation.sets)
        )

    @property
    def shared(self) -> tuple[str, ...]:
        """The names of the sets that all evaluations have."""
        return tuple(
            name
            for name in self.sets
            if all(name in evaluation.sets for evaluation in self.evaluations)
        )


def read_comparison(paths: Sequence[Path], baseline: Path | None) -> EvaluationComparison:
    """Read evaluations and compare them.

    Args:
        paths: their folders.
        baseline: the folder to compare with, if it is not the one that they name themselves.

    Raises:
        InputError: a folder is not that of an evaluation that has ended.
    """
    folders = each_once([*([baseline] if baseline else []), *paths])
    evaluations, notes = [read_evaluation(path) for path in folders], list[str]()
    if baseline is None:
        baseline = _named_baseline(evaluations, notes)
        if baseline is not None and baseline.resolve() not in {path.resolve() for path in folders}:
            evaluations.insert(0, read_evaluation(baseline))
    evaluations, base = _with_names(evaluations), None
    if baseline is not None:
        known = next(
            evaluation
            for evaluation in evaluations
            if evaluation.path.resolve() == baseline.resolve()
        )
        base = _compared_with_nothing(known)
        evaluations = [
            base,
            *(
                _compared_with(evaluation, base)
                for evaluation in evaluations
                if evaluation is not known
            ),
        ]
    elif len({evaluation.baseline for evaluation in evaluations if evaluation.baseline}) > 1:
        evaluations = [_compared_with_nothing(evaluation) for evaluation in evaluations]
    notes += [
        f"{evaluation.name}: {note}" for evaluation in evaluations for note in evaluation.notes
    ]
    notes += [*_different(evaluations), *_partial(evaluations)]
    return EvaluationComparison(tuple(evaluations), base, tuple(notes))


def _named_baseline(evaluations: Sequence[EvaluationRecord], notes: list[str]) -> Path | None:
    """The baseline that all evaluations name, if its folder is there."""
    named = sorted({evaluation.baseline for evaluation in evaluations if evaluation.baseline})
    if len(named) > 1:
        notes.append(
            f"The evaluations name different baselines ({', '.join(named)}): nothing is compared "
            "here. --baseline says with which."
        )
    if len(named) != 1:
        return None
    if (Path(named[0]) / schema.SUMMARY_FILE).is_file():
        return Path(named[0])
    notes.append(
        f"{named[0]}, which the evaluations were compared with, is not to be found from here: the "
        "changes are as they were recorded. --baseline says where it is."
    )
    return None


def _with_names(evaluations: Sequence[EvaluationRecord]) -> list[EvaluationRecord]:
    """Name each evaluation after its folder, so that no two have the same name."""
    names = distinct_names([evaluation.path for evaluation in evaluations])
    return [
        replace(evaluation, name=name) for evaluation, name in zip(evaluations, names, strict=True)
    ]


def _compared_with(evaluation: EvaluationRecord, base: EvaluationRecord) -> EvaluationRecord:
    sets = {
        name: replace(
            measured,
            against=compare(measured, base.sets[name]) if name in base.sets else None,
        )
        for name, measured in evaluation.sets.items()
    }
    return replace(evaluation, sets=sets)


def _compared_with_nothing(evaluation: EvaluationRecord) -> EvaluationRecord:
    sets = {name: replace(measured, against=None) for name, measured in evaluation.sets.items()}
    return replace(evaluation, sets=sets)


def _different(evaluations: Sequence[EvaluationRecord]) -> list[str]:
    """Notes on settings that make the comparison unfair."""
    notes = []
    for name in dict.fromkeys(name for evaluation in evaluations for name in evaluation.settings):
        values = [evaluation.settings.get(name) for evaluation in evaluations]
        if name not in _NOT_TOLD and any(value != values[0] for value in values):
            settings = ", ".join(
                f"{value} for {evaluation.name}"
                for evaluation, value in zip(evaluations, values, strict=True)
            )
            notes.append(f"The evaluations differ in {name}: {settings}.")
    return notes


def _partial(evaluations: Sequence[EvaluationRecord]) -> list[str]:
    """Notes on comparisons that cover only a part of the problems."""
    return [
        f"{evaluation.name} is compared on {measured.against.problems} of its {measured.problems} "
        f"problems of {name}: the baseline has no others of them."
        for evaluation in evaluations
        for name, measured in evaluation.sets.items()
        if measured.against is not None and measured.against.problems < measured.problems
    ]
