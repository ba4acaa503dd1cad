"""Responses that have weights: their tables, and the source of a run that learns from them.

A harmonizing draws and weighs responses before it trains. The folder of its round has
weights.parquet, with the weight of each and which of them are chosen, and if the loss needs them in
reference/ the reference model's log-probs of the chosen ones. A batch is `data.train_batch_size`
groups, of one response each, or of two for a loss of pairs; a weight is an advantage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from megaprune import schema
from megaprune.algorithms.algorithm import Algorithm, GroupScore
from megaprune.config.run import Config
from megaprune.data import Problem
from megaprune.data.order import ProblemOrder, make_order, take_problems
from megaprune.data.parquet_rows import read_parquet_rows
from megaprune.errors import InputError
from megaprune.generation.worker import Rollout
from megaprune.trainer.batch import RolloutBatch, RolloutGroup
from megaprune.trainer.offline import ROLLOUT_COLUMNS, rollout_of, stored_responses

ResponseKey = tuple[str, int]
"""A response: the name of its problem, and its number."""


@dataclass(frozen=True, eq=False)
class ChosenResponse:
    """A stored response that is learned from.

    Args:
        group: responses of one number are learned from together.
        raw: its weight before it was clipped and normalised.
        weight: its advantage.
        prompt_is_whole: whether it is learned from with the prompt that it was drawn with.
    """

    problem: Problem
    rollout: Rollout
    group: int
    raw: float
    weight: float
    prompt_is_whole: bool = True

    @property
    def key(self) -> ResponseKey:
        """Which response it is."""
        return self.problem.name, self.rollout.number


def cut_lengths(prompt: int, response: int, cutoff: int) -> tuple[int, int]:
    """How many tokens of a prompt and of a response are left, of `cutoff` at most.

    The longer of the two is cut if the other one has less than half of the room, else both in
    proportion: the rule of LLaMA-Factory, with which O1-Pruner (2501.12570) was trained. Of a
    response at least one token is left.
    """
    if 2 * response < cutoff:
        most = cutoff
    elif 2 * prompt < cutoff:
        most = cutoff - prompt
    else:
        most = max(1, cutoff * response // (prompt + response))
    left = min(most, response)
    return min(cutoff - left, prompt), left


def read_chosen(
    rollouts: Path, weights: Path, problems: Sequence[Problem], cutoff: int | None = None
) -> list[ChosenResponse]:
    """Read the responses that are learned from, in the order of their table.

    Args:
        rollouts: folder of the evaluation that has the responses.
        weights: folder with weights.parquet.
        problems: those of the training data.
        cutoff: see `data.cutoff`. What is learned from together has one prompt, which is cut as
            the longest of the responses wants it.

    Raises:
        InputError: a file cannot be read, or a chosen response is not there.
    """
    table = weights / schema.WEIGHTS_FILE
    rows = {
        (row["problem"], row["number"]): row
        for _, row in read_parquet_rows(table, lambda found: _check(found, table))
        if row["selected"]
    }
    by_name = {problem.name: problem for problem in problems}
    found: dict[ResponseKey, Rollout] = {}
    for where, row in stored_responses("data.rollouts", rollouts, problems, ROLLOUT_COLUMNS):
        key = row["problem"], row["number"]
        if key in rows and key not in found:
            found[key] = rollout_of(row, where)
    if missing := [key for key in rows if key not in found]:
        name, number = missing[0]
        raise InputError(
            f"data.rollouts={rollouts}: {len(missing)} of {len(rows)} responses that {table} "
            f"chooses are not there, such as number {number} to problem {name}"
        )
    chosen = [
        ChosenResponse(by_name[key[0]], found[key], row["group"], row["raw"], row["weight"])
        for key, row in rows.items()
    ]
    return chosen if cutoff is None else _cut(chosen, cutoff)


def _cut(chosen: Sequence[ChosenResponse], cutoff: int) -> list[ChosenResponse]:
    """The same responses, and their prompts, within so many tokens."""
    longest: dict[int, int] = {}
    for response in chosen:
        longest[response.group] = max(longest.get(response.group, 0), response.rollout.length)
    result = []
    for response in chosen:
        problem, rollout = response.problem, response.rollout
        prompt, left = cut_lengths(len(problem.tokens), longest[response.group], cutoff)
        whole = len(problem.tokens) <= prompt
        if not whole:
            problem = replace(problem, tokens=problem.tokens[:prompt])
        if rollout.length > left:
            rollout = replace(
                rollout, tokens=rollout.tokens[:left], log_probs=rollout.log_probs[:left]
            )
        result.append(replace(response, problem=problem, rollout=rollout, prompt_is_whole=whole))
    return result


def read_reference(folder: Path) -> dict[ResponseKey, np.ndarray]:
    """Read the reference model's log-probs [L] of responses, from the files in a folder.

    Raises:
        InputError: a file cannot be read.
    """
    found: dict[ResponseKey, np.ndarray] = {}
    for path in sorted(folder.glob(schema.REFERENCE_FILES)):
        for _, row in read_parquet_rows(path, lambda _: schema.reference_schema().names):
            found[row["problem"], row["number"]] = np.array(row["log_probs"], np.float32)
    return found


def make_weighted_source(
    config: Config, problems: Sequence[Problem], algorithm: Algorithm
) -> WeightedSource:
    """The source of a run with `data.weights`.

    Raises:
        InputError: the folders cannot be used, or log-probs of the reference model are missing.
    """
    data = config.data
    weights, rollouts = data.weights, data.rollouts
    assert weights is not None, "the run learns from other batches"
    assert rollouts is not None, "megaprune.rules refuses this"
    chosen = read_chosen(Path(rollouts), Path(weights), problems, data.cutoff)
    if "reference" in algorithm.needs:
        folder = Path(weights) / schema.REFERENCE_FOLDER
        chosen = _with_reference(chosen, read_reference(folder), folder)
    groups = _groups(chosen)
    if not any(any(values) for _, values in groups):
        raise InputError(
            f"data.weights={weights}: no response is chosen, or all weights are 0; nothing can be "
            f"learned"
        )
    order = make_order(data.order, len(groups), config.seed)
    return WeightedSource(data.train_batch_size, groups, order)


class WeightedSource:
    """Gives stored responses with their weights, epoch after epoch.

    Args:
        size: groups of a batch.
        groups: each with the weights of its responses.
        order: in which they come.
    """

    def __init__(
        self,
        size: int,
        groups: Sequence[tuple[RolloutGroup, Sequence[float]]],
        order: ProblemOrder,
    ):
        self._size, self._groups, self._order = size, groups, order

    def next(self, step: int) -> RolloutBatch:
        """The next groups in the order, whose advantages are their weights."""
        places = take_problems(self._order, self._size, len(self._groups))
        taken = [self._groups[place] for place in places]
        groups = [group for group, _ in taken]
        self._order.observe([group.result() for group in groups])
        return RolloutBatch(groups, np.array([weights for _, weights in taken], np.float64))

    def state_dict(self) -> dict[str, Any]:
        """The order's state."""
        return {"order": self._order.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind the batch at which the state was saved."""
        self._order.load_state_dict(state["order"])


def _groups(chosen: Sequence[ChosenResponse]) -> list[tuple[RolloutGroup, list[float]]]:
    """What is learned from together, in the order of its first response, and the weights."""
    by_group: dict[int, list[ChosenResponse]] = {}
    for response in chosen:
        by_group.setdefault(response.group, []).append(response)
    groups = []
    for place, together in enumerate(by_group.values()):
        raw = np.array([response.raw for response in together])
        score = GroupScore(raw, {}, np.ones(len(together), np.bool_))
        rollouts = [response.rollout for response in together]
        group = RolloutGroup(place, together[0].problem, rollouts, score)
        groups.append((group, [response.weight for response in together]))
    return groups


def _with_reference(
    chosen: Sequence[ChosenResponse], reference: Mapping[ResponseKey, np.ndarray], folder: Path
) -> list[ChosenResponse]:
    wrong = [
        response
        for response in chosen
        if len(reference.get(response.key, ())) != response.rollout.length
    ]
    if wrong:
        raise InputError(
            f"{folder} lacks the reference model's log-probs of {len(wrong)} of {len(chosen)} "
            f"chosen responses; `megaprune harmonize` computes them"
        )
    return [
        replace(
            response, rollout=replace(response.rollout, reference_log_probs=reference[response.key])
        )
        for response in chosen
    ]


def _check(found: pa.Schema, table: Path) -> list[str]:
    """The columns of a table of weights.

    Raises:
        InputError: it has others.
    """
    expected = schema.weights_schema()
    for field in expected:
        if field.name not in found.names or found.field(field.name).type != field.type:
            raise InputError(
                f"{table} has no column {field.name} of type {field.type}; expected the table of "
                f"weights that `megaprune harmonize` writes"
            )
    return [*expected.names]
