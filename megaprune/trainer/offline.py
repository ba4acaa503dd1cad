"""Rollouts from the files of an evaluation or a run, to be learned from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from megaprune import schema
from megaprune.data import Problem
from megaprune.data.parquet import shown
from megaprune.data.parquet_rows import read_parquet_rows
from megaprune.errors import InputError
from megaprune.generation.worker import Rollout
from megaprune.grading import Verdict
from megaprune.grading.verdict import WHY

ROLLOUT_COLUMNS = (
    "problem", "number", "exit_at", "prompt", "response", "gold", "finish", "match", "extracted",
    "why", "detail", "policy_version", "tokens", "log_probs", "thought_length",
)  # fmt: skip
_REFERENCE_COLUMNS = ("problem", "exit_at", "prompt", "match")
_LENGTH_COLUMNS = {"response": "length", "thought": "thought_length"}
_NEEDED = ("number", "response", "finish", "match", "why", "tokens")
_ROWS = 256
"""How many rows are Python objects at once: responses are long."""


def read_rollouts(
    folder: Path, problems: Sequence[Problem], n: int
) -> tuple[list[Problem], dict[str, list[Rollout]]]:
    """Read the first n stored responses to each problem.

    Args:
        folder: of an evaluation (its responses without an early exit), or of a run.
        problems: those of the training data.
        n: responses to each; problems with fewer are left out.

    Returns:
        The problems that have n responses, in their order, and the responses by problem.

    Raises:
        InputError: there are no files of responses; they are to other prompts; or no problem has n.
    """
    places = {problem.name: place for place, problem in enumerate(problems)}
    rollouts: dict[str, dict[int, Rollout]] = {}
    for where, row in stored_responses("data.rollouts", folder, problems, ROLLOUT_COLUMNS):
        rollouts.setdefault(row["problem"], {}).setdefault(row["number"], rollout_of(row, where))
    complete = {
        name: [numbers[i] for i in sorted(numbers)[:n]]
        for name, numbers in rollouts.items()
        if len(numbers) >= n
    }
    if not complete:
        raise InputError(
            f"data.rollouts={folder}: no problem of data.train has rollout.n={n} responses there"
        )
    return [problems[places[name]] for name in places if name in complete], complete


def read_references(
    folder: Path, problems: Sequence[Problem], measured: str = "response"
) -> dict[str, dict[str, list[Any]]]:
    """Read how long and how right the reference model's responses to each problem are.

    Args:
        folder: of an evaluation, whose responses without an early exit are read.
        problems: those of the training data.
        measured: what lengths are of: the whole "response", or its "thought".

    Returns:
        By the problem's name, of each response: its `length` in tokens, and in `accuracy` whether
        it is right.

    Raises:
        InputError: there are no files of responses; they are to other prompts; or a problem has
            none.
    """
    references: dict[str, dict[str, list[Any]]] = {}
    column = _LENGTH_COLUMNS[measured]
    columns = (*_REFERENCE_COLUMNS, column)
    for where, row in stored_responses("data.references", folder, problems, columns):
        if row.get(column) is None and measured == "thought":
            raise InputError(
                f"data.references={folder}: {where} has no thought_length, which "
                f"algorithm.length=thought compares with; evaluate the reference model again"
            )
        if row[column] is None or row["match"] is None:
            raise InputError(f"{where}: null as {column} or match; remove the row")
        reference = references.setdefault(row["problem"], {"length": [], "accuracy": []})
        reference["length"].append(row[column])
        reference["accuracy"].append(row["match"])
    if missing := [problem.name for problem in problems if problem.name not in references]:
        raise InputError(
            f"data.references={folder}: {len(missing)} of {len(problems)} problems of data.train "
            f"have no response there, such as {missing[0]}; evaluate the reference model on "
            f"data.train"
        )
    return references


def stored_responses(
    field: str, folder: Path, problems: Sequence[Problem], columns: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The stored responses to problems, without early exits: where each stands, and its row."""
    files = sorted((folder / schema.SAMPLES_FOLDER).rglob("*.parquet"))
    if not files:
        raise InputError(
            f"{field}={folder}: {folder / 'samples'} has no files of responses; expected the "
            f"folder of an evaluation or a run"
        )
    prompts = {problem.name: problem.prompt for problem in problems}
    for path in files:
        wanted = partial(_columns_of, path=path, wanted=columns)
        for where, stored in read_parquet_rows(path, wanted, _ROWS):
            row = schema.renamed(stored)
            name = row["problem"]
            if name not in prompts or row["exit_at"] is not None:
                continue
            if row["prompt"] != prompts[name]:
                raise InputError(
                    f"{field}={folder}: {path} has responses to another prompt of problem {name} "
                    f"than data.train has; they must be of the same data and chat template"
                )
            yield where, row


def _columns_of(found: pa.Schema, path: Path, wanted: Sequence[str] = ROLLOUT_COLUMNS) -> list[str]:
    """Return the columns that are read; they have the types that the program gives them."""
    stored = schema.stored_columns(wanted, found.names)
    missing = sorted(set(wanted) - set(stored) - set(schema.OPTIONAL_COLUMNS))
    if missing:
        raise InputError(
            f"{path} lacks the columns {missing}; expected responses as `megaprune evaluate` or "
            f"`megaprune train` write them"
        )
    for name, in_file in stored.items():
        kind, expected = found.field(in_file).type, schema.samples_schema().field(name).type
        if kind != expected:
            raise InputError(f"{path}, column {name}: of type {kind}; expected {expected}")
    return [*stored.values()]


def rollout_of(row: Mapping[str, Any], where: str) -> Rollout:
    """The rollout in a row that has `ROLLOUT_COLUMNS`.

    Args:
        where: the row stands.

    Raises:
        InputError: it has no log-probs, or lacks something else.
    """
    if row.get("log_probs") is None:
        raise InputError(
            f"the responses to {row['problem']} have no log-probs; draw them again with "
            f"`megaprune evaluate`, which keeps them"
        )
    for name in _NEEDED:
        if row[name] is None:
            raise InputError(f"{where}, column {name}: null; remove the row")
    if not row["tokens"] or len(row["tokens"]) != len(row["log_probs"]):
        raise InputError(
            f"{where}: {len(row['tokens'])} tokens and {len(row['log_probs'])} log-probs; expected "
            f"one for each of one or more"
        )
    if row["why"] not in WHY:
        raise InputError(f"{where}, column why: {shown(row['why'])}; expected a grader's reason")
    if None in row["tokens"] or None in row["log_probs"]:
        raise InputError(f"{where}: null among its tokens or log-probs; remove the row")
    return Rollout(
        request=0,
        number=row["number"],
        tokens=np.array(row["tokens"], np.int64),
        log_probs=np.array(row["log_probs"], np.float32),
        finish_reason=row["finish"],
        text=row["response"],
        verdict=Verdict(row["match"], row["extracted"], row["why"], row["detail"] or ""),
        policy_version=-1,
        thought_length=row.get("thought_length"),
    )
