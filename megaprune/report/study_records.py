"""The folder of a study, read: what each run came to, and the mean of each variant's runs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from megaprune import schema
from megaprune.algorithms.rewards.history import DIFFICULTIES
from megaprune.errors import InputError
from megaprune.evaluation.metrics import (
    accuracy_at_budget,
    crossed_bootstrap,
    share_interval,
)
from megaprune.report.run_records import (
    AnswerTable,
    Array,
    RunRecord,
    find_setting,
    read_answers,
    read_config,
    read_run,
)
from megaprune.report.study_measures import (
    ByGroup,
    Groups,
    Measured,
    by_group_of,
    each_left_out,
    gaps_of,
    group_columns,
    group_order,
    groups_of,
    numbers_of,
)
from megaprune.report.summary import Estimate

SHAPING = (schema.REWARD_WIPED, schema.REWARD_ADJUSTED, schema.REWARD_UNSHAPED)
"""Metrics that say what a reward does to right answers."""


@dataclass(frozen=True, eq=False)
class StudyRun:
    """A run of a study that is done, or its start model.

    Attributes:
        by_group: accuracy, and tokens of right answers (None without any), by group of problems.
        numbers: columns of the table of runs.
    """

    measured: Measured
    by_group: ByGroup
    numbers: dict[str, Any]


@dataclass(frozen=True, eq=False)
class StudyVariant:
    """The runs of a variant, which differ by their seeds.

    Attributes:
        accuracy, tokens: means over seeds and problems, with intervals of both.
        change: of accuracy, on the same problems as the start model; None if that is not measured.
        saved: the share of the start model's tokens.
        by_group: accuracy, and tokens of right answers (None without any), by group of problems.
        at_budget: accuracy and tokens if answers were cut there.
        means: of the numbers of its runs.
        on_front: no other model is as right with fewer tokens, or more right with as many.
    """

    name: str
    runs: tuple[StudyRun, ...]
    accuracy: Estimate
    tokens: Estimate
    change: Estimate | None
    saved: float | None
    by_group: ByGroup
    at_budget: dict[int, tuple[float, float]]
    means: dict[str, float | None]
    on_front: bool


@dataclass(frozen=True, eq=False)
class StudyRecord:
    """What a study has come to.

    Attributes:
        start: the start model, as a variant of one run; None if it is not measured yet.
        variants: those with a run that is done, in the order of the study.
        groups: how many problems there are in each: their sets or, of a single set, what is easy,
            medium and hard for the start model.
        by_set: whether groups are sets.
        missing: names of runs that are not done.
        limit: tokens at which answers are cut off, as the runs say.
    """

    path: Path
    start: StudyVariant | None
    variants: tuple[StudyVariant, ...]
    groups: dict[str, int]
    by_set: bool
    missing: tuple[str, ...]
    limit: int | None
    budgets: tuple[int, ...]
    fields: dict[str, dict[str, Any]]
    config_text: str

    @property
    def models(self) -> tuple[StudyVariant, ...]:
        """The start model, if it is measured, and all variants."""
        return (*([self.start] if self.start else []), *self.variants)


START = "start"


def read_study(path: Path) -> StudyRecord:
    """Read a study's folder; runs that are not done are only named.

    Raises:
        InputError: it is not the folder of a study of which a run is done.
    """
    file = path / schema.STUDY_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        budgets = tuple(sorted(int(budget) for budget in content["budgets"]))
        start_folder, listed = path / content["start"], content["runs"]
        named = [(run["name"], run["variant"], run["seed"], run["fields"]) for run in listed]
        folders = [path / run["folder"] for run in listed]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file}: cannot be read as the runs of a study ({error!r}); `megaprune study` writes "
            f"it: run the same command again"
        ) from error
    start, jobs = _read_evaluation(start_folder), [_read_job(folder) for folder in folders]
    missing = [name for (name, *_), job in zip(named, jobs, strict=True) if job is None]
    runs = [job for job in jobs if job is not None]
    measured = [job.measured for job in runs]
    if not runs:
        raise InputError(f"{path}: no run of this study is done; run the same command again")
    groups = groups_of(start, measured)
    done = [
        _study_run({"name": name, "variant": variant, "seed": seed}, own, start, budgets, groups)
        for (name, variant, seed, _), own in zip(
            (entry for entry in named if entry[0] not in missing), measured, strict=True
        )
    ]
    for row, run in zip(done, runs, strict=True):
        row.numbers.update(_costs(run.trainings))
    by_variant = {row.numbers["variant"]: list[StudyRun]() for row in done}
    for row in done:
        by_variant[row.numbers["variant"]].append(row)
    if start is not None:
        by_variant = {START: [_start_run(start, groups, budgets)], **by_variant}
    _add_gaps(by_variant)
    models = with_front([_variant(name, rows, start, budgets) for name, rows in by_variant.items()])
    limits = {run.limit for run in runs}
    config = path / schema.CONFIG_FILE
    return StudyRecord(
        path=path,
        start=models[0] if start else None,
        variants=tuple(models[1:] if start else models),
        groups=Counter(sorted(groups.values(), key=group_order)),
        by_set=not {*groups.values()} <= {*DIFFICULTIES},
        missing=tuple(missing),
        limit=limits.pop() if len(limits) == 1 else None,
        budgets=budgets,
        fields={variant: fields for _, variant, _, fields in named},
        config_text=config.read_text(encoding="utf-8") if config.is_file() else "",
    )


def with_front(models: Sequence[StudyVariant]) -> list[StudyVariant]:
    """Mark the models of the Pareto front: no other is as good in both and better in one."""

    def beats(one: StudyVariant, other: StudyVariant) -> bool:
        more, fewer = (
            one.accuracy.value - other.accuracy.value,
            other.tokens.value - one.tokens.value,
        )
        return more >= 0 and fewer >= 0 and more + fewer > 0

    return [
        replace(model, on_front=not any(beats(other, model) for other in models))
        for model in models
    ]


@dataclass(frozen=True, eq=False)
class _DoneJob:
    """A job of a study that is done: how its model is measured, within which limit; its runs."""

    measured: Measured
    limit: int | None
    trainings: tuple[RunRecord, ...]


def _read_job(folder: Path) -> _DoneJob | None:
    """A run, a harmonizing or an evaluation; None if it is not done."""
    if (folder / schema.METRICS_FILE).is_file():
        run = read_run(folder)
        answers = _last_answers(run)
        if answers is None:
            return None
        return _DoneJob(Measured.of(answers), run.validation_limit, (run,))
    if not (file := folder / schema.HARMONIZE_FILE).is_file():
        evaluation, rounds = folder, list[dict[str, Any]]()
    else:
        evaluation = folder / schema.AFTER_FOLDER
        rounds = json.loads(file.read_text(encoding="utf-8"))["rounds"]
    measured = _read_evaluation(evaluation)
    if measured is None:
        return None
    _, settings = read_config(evaluation / schema.CONFIG_FILE, [])
    runs = [folder / schema.harmonize_round(r["round"]) / schema.TRAIN_FOLDER for r in rounds]
    return _DoneJob(
        measured, find_setting(settings, "max_response_length"), tuple(map(read_run, runs))
    )


def _read_evaluation(folder: Path) -> Measured | None:
    if not (folder / schema.SUMMARY_FILE).is_file():
        return None
    return Measured.of(read_answers(*sorted((folder / schema.SAMPLES_FOLDER).glob("*/*.parquet"))))


def _last_answers(run: RunRecord) -> AnswerTable | None:
    """The answers of the validation after a run's last step; None if it has not done that."""
    steps = run.setting("steps")
    if not isinstance(steps, int) or steps not in run.validations:
        return None
    if schema.VALIDATION + schema.ACCURACY not in run.metrics.get(steps, {}):
        return None
    return read_answers(run.validations[steps])


def _study_run(
    names: Mapping[str, Any],
    measured: Measured,
    start: Measured | None,
    budgets: Sequence[int],
    groups: Groups,
) -> StudyRun:
    by_group = by_group_of(measured, groups)
    return StudyRun(measured, by_group, {**names, **numbers_of(measured, start, budgets, by_group)})


def _start_run(start: Measured, groups: Groups, budgets: Sequence[int]) -> StudyRun:
    run = _study_run({"name": START, "variant": START, "seed": None}, start, start, budgets, groups)
    if {*groups.values()} <= {*DIFFICULTIES}:
        by_group = by_group_of(*each_left_out(start))
        return StudyRun(start, by_group, run.numbers | group_columns(by_group))
    return run


def _add_gaps(by_variant: Mapping[str, Sequence[StudyRun]]) -> None:
    """Give every run its distance from the frontier of all models of the study."""
    measured = [[run.measured for run in runs] for runs in by_variant.values()]
    longest = max(max(map(max, evaluation.lengths)) for runs in measured for evaluation in runs)
    for runs, gaps in zip(by_variant.values(), gaps_of(measured, longest), strict=True):
        for run, gap in zip(runs, gaps, strict=True):
            run.numbers["efficiency_gap"] = gap


def _costs(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """What training took in all, and what a reward did to right answers, mean over steps."""

    def series(name: str) -> Array:
        values: Array = np.concatenate([np.zeros(0), *(run.series(name)[1] for run in runs)])
        return values

    seconds, tokens = series(schema.SECONDS_STEP), series(schema.TOKENS)
    measuring = series(schema.VALIDATION_SECONDS)
    costs: dict[str, Any] = {
        "steps": len(seconds),
        "training_seconds": float(seconds.sum()),
        "training_tokens": float(tokens.sum()),
        "validation_seconds": float(measuring.sum()),
    }
    for name in SHAPING:
        values = series(name)
        known = values[np.isfinite(values)]
        costs[name] = float(known.mean()) if len(known) else None
    return costs


def _variant(
    name: str, runs: Sequence[StudyRun], start: Measured | None, budgets: Sequence[int]
) -> StudyVariant:
    shared = set.intersection(*({*run.measured.problems} for run in runs))
    measured = [run.measured.among(shared) for run in runs]
    right = np.stack([evaluation.accuracies for evaluation in measured])
    tokens = np.stack([evaluation.tokens for evaluation in measured])
    change = None
    if start is not None and (both := shared & {*start.problems}):
        base = start.among(both).accuracies
        ours = np.stack([evaluation.among(both).accuracies for evaluation in measured])
        change = _estimate(ours - base)
    accuracy = _estimate(right)
    if np.ptp(right) == 0:  # draws cannot differ
        accuracy = Estimate(accuracy.value, *share_interval(right[0]))
    at_budgets = [
        accuracy_at_budget(evaluation.right, evaluation.lengths, budgets) for evaluation in measured
    ]
    columns = [
        key for key, value in runs[0].numbers.items() if isinstance(value, int | float | None)
    ]
    means = {
        key: _mean([run.numbers.get(key) for run in runs])
        for key in columns
        if key not in ("seed", "name", "variant")
    }
    ratio = means["length_ratio"]
    return StudyVariant(
        name=name,
        runs=tuple(runs),
        accuracy=accuracy,
        tokens=_estimate(tokens),
        change=change,
        saved=None if ratio is None else 1 - ratio,
        by_group={
            group: (
                float(np.mean([run.by_group[group][0] for run in runs])),
                _mean([run.by_group[group][1] for run in runs]),
            )
            for group in runs[0].by_group
            if all(group in run.by_group for run in runs)
        },
        at_budget={
            at: (
                float(np.mean([shares[at][0] for shares in at_budgets])),
                float(np.mean([shares[at][1] for shares in at_budgets])),
            )
            for at in budgets
        },
        means=means,
        on_front=False,
    )


def _estimate(values: Array) -> Estimate:
    return Estimate(float(values.mean()), *crossed_bootstrap(values))


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean of the numbers that there are; None if there are none."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
