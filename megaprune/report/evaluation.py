"""An evaluation's folder, read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megaprune import schema
from megaprune.errors import InputError
from megaprune.evaluate.summary import COLUMNS
from megaprune.evaluate.summary import against as compare_rows
from megaprune.report.answers import read_rows
from megaprune.report.run import CONFIG, read_config
from megaprune.report.summary import Estimate

SUMMARY = "summary.json"


@dataclass(frozen=True)
class Against:
    """A set's change from a baseline, on the problems that both have.

    Attributes:
        problems: how many these are.
        accuracy: difference of shares, with its interval.
        length_ratio: mean tokens, relative to the baseline's.
        aes: signed and absolute, see `megaprune.evaluate.metrics.aes`; None where that is.
    """

    problems: int
    accuracy: Estimate
    length_ratio: float
    aes: tuple[float, float] | None


@dataclass(frozen=True)
class Measured:
    """What an evaluation found on one set; shares and means as in `megaprune.evaluate.summary`.

    Attributes:
        name: the set's.
        files: its answers.
        pass_at, majority_at: by the number of samples; only what is known.
        at_budget: (accuracy, mean tokens), by budget.
        forced: accuracy when a thought is closed at so many tokens.
        against: the baseline; None without one, or if it has none of the problems.
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
    forced: dict[int, Estimate]
    against: Against | None


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation has written.

    Attributes:
        path: its folder.
        name: of the evaluation among others on a page.
        model: as it was given.
        baseline: folder that it was compared with, as it was given.
        settings: by dotted name.
        sets: by their names.
        config_text: of its config.yaml.
        notes: what a reader must know about what was read.
    """

    path: Path
    name: str
    model: str
    baseline: str | None
    settings: dict[str, Any]
    sets: dict[str, Measured]
    config_text: str
    notes: tuple[str, ...]


def read_evaluation(path: Path) -> Evaluation:
    """Read an evaluation's folder, all but its answers; it is named after the folder.

    Raises:
        InputError: it is not the folder of an evaluation that has ended, or misses answers.
    """
    file, notes = path / SUMMARY, list[str]()
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        settings = dict(said["settings"])
        sets = {one: _read_set(path, one, found) for one, found in said["sets"].items()}
        model, baseline = str(said["model"]), said["baseline"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file}: cannot be read as an evaluation's summary ({error!r}); `megaprune evaluate` "
            f"writes it when all answers are there: run the same command again"
        ) from error
    if not sets:
        raise InputError(f"{file}: has no set; expected the evaluation of one or more")
    for one in sets.values():
        _check_files(path, one)
    config_text, _ = read_config(path / CONFIG, notes)
    return Evaluation(
        path, path.resolve().name, model, baseline, settings, sets, config_text, tuple(notes)
    )


def compare(one: Measured, baseline: Measured) -> Against | None:
    """Change of a set's answers; None if the two share no problem."""
    found = compare_rows(read_rows(one.files, COLUMNS), read_rows(baseline.files, COLUMNS))
    return None if found is None else _against(found)


def _read_set(path: Path, name: str, summary: Mapping[str, Any]) -> Measured:
    said = {schema.metric_name(key): value for key, value in summary.items()}
    files = [*(path / "samples").glob("*/*.parquet")]
    return Measured(
        name=name,
        files=tuple(sorted(file for file in files if file.parent.name == name)),
        problems=int(said["problems"]),
        samples=int(said["samples"]),
        accuracy=_estimate(said, "accuracy"),
        tokens=_estimate(said, "length"),
        cut_off=float(said[schema.TRUNCATED]),
        unparsable=float(said["unparsable"]),
        grading_failed=float(said["grading_failed"]),
        pass_at=_by_number(said["pass_at"]),
        majority_at=_by_number(said["majority_at"]),
        at_budget={
            int(budget): (float(found["accuracy"]), float(found["length"]))
            for budget, found in said["at_budget"].items()
        },
        forced={int(at): _estimate(found, "accuracy") for at, found in said["forced"].items()},
        against=_against(said["against"]) if said.get("against") else None,
    )


def _check_files(path: Path, one: Measured) -> None:
    found = len(read_rows(one.files, ["number"]))
    if found != one.samples:
        raise InputError(
            f"{path / 'samples' / one.name}: has {found:,} answers, but {path / SUMMARY} is of "
            f"{one.samples:,}; `megaprune evaluate` writes both: run the same command again"
        )


def _estimate(said: Mapping[str, Any], name: str) -> Estimate:
    low, high = said[f"{name}_interval"]
    return Estimate(float(said[name]), float(low), float(high))


def _by_number(said: Mapping[str, Any]) -> dict[int, float]:
    return {int(k): float(value) for k, value in said.items() if value is not None}


def _against(said: Mapping[str, Any]) -> Against:
    low, high = said["interval"]
    accuracy = Estimate(float(said["accuracy_difference"]), float(low), float(high))
    aes = said["aes"] and (float(said["aes"]["signed"]), float(said["aes"]["absolute"]))
    return Against(int(said["problems"]), accuracy, float(said["length_ratio"]), aes or None)
