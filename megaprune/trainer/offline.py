"""Rollouts from the files of an evaluation or a run, to be learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from megaprune import schema
from megaprune.data import Problem
from megaprune.errors import InputError
from megaprune.generation.worker import Rollout
from megaprune.grading import Verdict

_COLUMNS = [
    "problem", "number", "budget", "prompt", "response", "gold", "finish", "match", "extracted",
    "why", "detail", "policy_version", "tokens", "log_probs",
]  # fmt: skip


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
    files = sorted((folder / schema.SAMPLES_FOLDER).rglob("*.parquet"))
    if not files:
        raise InputError(
            f"data.rollouts={folder}: {folder / 'samples'} has no files of responses; expected the "
            f"folder of an evaluation or a run"
        )
    known = {problem.name: problem for problem in problems}
    rollouts: dict[str, dict[int, Rollout]] = {name: {} for name in known}
    for path in files:
        for row in _read(path):
            problem = known.get(row["problem"])
            if problem is None or row["budget"] is not None:
                continue
            if row["prompt"] != problem.prompt:
                raise InputError(
                    f"data.rollouts={folder}: {path} has responses to another prompt of problem "
                    f"{problem.name} than data.train has; they must be of the same data and "
                    f"chat template"
                )
            rollouts[problem.name].setdefault(row["number"], _rollout(row))
    complete = {
        name: [numbers[i] for i in sorted(numbers)[:n]]
        for name, numbers in rollouts.items()
        if len(numbers) >= n
    }
    if not complete:
        raise InputError(
            f"data.rollouts={folder}: no problem of data.train has rollout.n={n} responses there"
        )
    return [problem for problem in problems if problem.name in complete], complete


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = pq.read_table(path, columns=_COLUMNS).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} cannot be read ({' '.join(str(error).split())})") from error
    return rows


def _rollout(row: Mapping[str, Any]) -> Rollout:
    if row.get("log_probs") is None:
        raise InputError(
            f"the responses to {row['problem']} have no log-probs; draw them again with "
            f"`megaprune evaluate`, which keeps them"
        )
    return Rollout(
        request=0,
        number=row["number"],
        tokens=np.array(row["tokens"], np.int64),
        log_probs=np.array(row["log_probs"], np.float32),
        finish_reason=row["finish"],
        text=row["response"],
        verdict=Verdict(row["match"], row["extracted"], row["why"], row["detail"] or ""),
        policy_version=-1,
    )
