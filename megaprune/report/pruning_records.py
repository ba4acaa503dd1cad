"""Folders of prunings, read: their rounds, each of which is a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megaprune import schema
from megaprune.errors import InputError
from megaprune.report.run_records import RunRecord, read_config, read_run

_ROUND_FIELDS: Any = (
    ("round", int),
    ("limit", int),
    ("folder", str),
    ("step", int),
    ("model", str),
)
"""The fields of a round in rounds.json that are read, and their types."""


@dataclass(frozen=True)
class RoundRecord:
    """A round that has ended.

    Attributes:
        number: its number, from 1.
        limit: the most tokens that a response could have in training.
        step: the step whose model was chosen.
        model: the chosen model's path in the pruning's folder.
        run: the run of the round.
        answers: the file with the chosen model's answers to the validation problems.
    """

    number: int
    limit: int
    step: int
    model: str
    run: RunRecord
    answers: Path


@dataclass(frozen=True)
class PruningRecord:
    """What a pruning has written.

    Attributes:
        path: its folder.
        config: the resolved configuration, nested as in its file.
        config_text: that file's text.
        limits: the limits of all rounds, also of those to come.
        start: the file with validation answers of the model that the first round began with;
            None if there is none.
        rounds: the rounds that have ended.
        stopped: why the last round ended the pruning and was not taken; None if it did not.
        final: the number of the round whose model is the outcome; None if no round was taken.
        notes: what a reader must know about what was read.
    """

    path: Path
    config: dict[str, Any]
    config_text: str
    limits: tuple[int, ...]
    start: Path | None
    rounds: tuple[RoundRecord, ...]
    stopped: str | None
    final: int | None
    notes: tuple[str, ...]


def read_pruning(path: Path) -> PruningRecord:
    """Read a pruning's folder.

    Raises:
        InputError: it is not the folder of a pruning of which a round has ended, or misses a file.
    """
    file, notes = path / schema.ROUNDS_FILE, list[str]()
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        limits = tuple(int(limit) for limit in content["limits"])
        listed = [
            {name: kind(entry[name]) for name, kind in _ROUND_FIELDS} for entry in content["rounds"]
        ]
        stopped, final, base = content["stopped"], content["final"], content["base"]
        if [entry["round"] for entry in listed] != [*range(1, len(listed) + 1)]:
            raise ValueError("the rounds are not numbered 1, 2, ...")
        if final is not None and not 1 <= final <= len(listed):
            raise ValueError(f"no round {final}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file}: cannot be read as what became of a pruning's rounds ({error!r}); `megaprune "
            f"prune` writes it: run the same command again"
        ) from error
    if not listed:
        raise InputError(
            f"{file}: no round has ended yet; `megaprune report` on the folder of the one under "
            f"way shows it"
        )
    rounds = tuple(_read_round(path, entry, notes) for entry in listed)
    config_text, config = read_config(path / schema.CONFIG_FILE, notes)
    start = None if base is None else _validation_file(rounds[0].run, 0)
    return PruningRecord(
        path, config, config_text, limits, start, rounds, stopped, final, tuple(notes)
    )


def _read_round(path: Path, entry: Mapping[str, Any], notes: list[str]) -> RoundRecord:
    number, step = entry["round"], entry["step"]
    run = read_run(path / entry["folder"])
    notes += [f"Round {number}: {note}" for note in run.notes]
    return RoundRecord(
        number, entry["limit"], step, entry["model"], run, _validation_file(run, step)
    )


def _validation_file(run: RunRecord, step: int) -> Path:
    if step not in run.validations:
        raise InputError(
            f"{run.path / schema.VALIDATION_FOLDER / schema.step_file(step)}: is not there, or "
            f"torn; the round's run writes it when it validates, and {schema.ROUNDS_FILE} "
            f"says that it did"
        )
    return run.validations[step]
