"""A pruning's folder, read: its rounds, and the run of each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megaprune.errors import InputError
from megaprune.report.run import CONFIG, Run, read_config, read_run

ROUNDS = "rounds.json"
_LISTED: Any = (("round", int), ("limit", int), ("folder", str), ("step", int), ("model", str))
"""What is read of a round there."""


@dataclass(frozen=True)
class Round:
    """A round that has ended.

    Attributes:
        number: from 1.
        limit: tokens of a response in training.
        step: the one whose model was chosen.
        model: where that is, in the pruning's folder.
        run: the round's.
        answers: the chosen model's, on validation.
    """

    number: int
    limit: int
    step: int
    model: str
    run: Run
    answers: Path


@dataclass(frozen=True)
class Pruning:
    """What a pruning has written.

    Attributes:
        path: its folder.
        config: the resolved configuration, nested as in its file.
        config_text: that file's text.
        limits: of all rounds, also of those to come.
        start: answers on validation of the model that all rounds began with, if there are any.
        rounds: those that have ended.
        stopped: why the last round was the last and not taken; None if it was not so.
        final: number of the round whose model is the outcome; None for none.
        notes: what a reader must know about what was read.
    """

    path: Path
    config: dict[str, Any]
    config_text: str
    limits: tuple[int, ...]
    start: Path | None
    rounds: tuple[Round, ...]
    stopped: str | None
    final: int | None
    notes: tuple[str, ...]


def read_pruning(path: Path) -> Pruning:
    """Read a pruning's folder.

    Raises:
        InputError: it is not the folder of a pruning of which a round has ended, or misses a file.
    """
    file, notes = path / ROUNDS, list[str]()
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        limits = tuple(int(limit) for limit in said["limits"])
        listed = [{name: kind(one[name]) for name, kind in _LISTED} for one in said["rounds"]]
        stopped, final, base = said["stopped"], said["final"], said["base"]
        if [one["round"] for one in listed] != [*range(1, len(listed) + 1)]:
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
    rounds = tuple(_read_round(path, one, notes) for one in listed)
    config_text, config = read_config(path / CONFIG, notes)
    start = None if base is None else _validation(rounds[0].run, 0)
    return Pruning(path, config, config_text, limits, start, rounds, stopped, final, tuple(notes))


def _read_round(path: Path, listed: Mapping[str, Any], notes: list[str]) -> Round:
    number, step = listed["round"], listed["step"]
    run = read_run(path / listed["folder"])
    notes += [f"Round {number}: {note}" for note in run.notes]
    return Round(number, listed["limit"], step, listed["model"], run, _validation(run, step))


def _validation(run: Run, step: int) -> Path:
    if step not in run.validations:
        raise InputError(
            f"{run.path / 'validation' / f'step_{step:06}.parquet'}: is not there, or torn; the "
            f"round's run writes it when it validates, and {ROUNDS} says that it did"
        )
    return run.validations[step]
