"""The table of weights of a round: what each response weighs, and which are learned from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from megaprune import schema
from megaprune.algorithms.filters import RightPair, ShortestRight
from megaprune.algorithms.records import Group, Vector
from megaprune.algorithms.sample_weights import Mask, ProblemResponses, SampleWeights
from megaprune.data import Problem
from megaprune.errors import InputError, counted
from megaprune.files import new_file, replace_text, writing
from megaprune.grading.verdict import WHY, WITHOUT_ANSWER
from megaprune.trainer.failing_steps import REMEDIES
from megaprune.trainer.offline import stored_responses

_COLUMNS = ("problem", "exit_at", "prompt", "number", "length", "finish", "match", "why")


def write_weights(
    folder: Path,
    rollouts: Path,
    problems: Sequence[Problem],
    n: int,
    method: str,
    weights: SampleWeights,
    seed: int,
) -> dict[str, Any]:
    """Weigh the stored responses to problems; write the table of weights and its statistics.

    Args:
        folder: of the round.
        rollouts: folder of the evaluation that has the responses.
        problems: those of the training data.
        n: responses to each, K; the first ones are taken.
        method: of the harmonizing.
        weights: how responses are weighed.
        seed: of the choice among the responses to a problem.

    Returns:
        The statistics, which are also in statistics.json.

    Raises:
        InputError: a problem has too few responses, all responses fail for one reason, or none is
            chosen.
    """
    rows = _read(rollouts, problems, n)
    responses = [_of_problem(name, of_problem, weights) for name, of_problem in rows.items()]
    chosen, values = choose(method, responses, weights, seed)
    among = weights.of_difficulty(responses)
    chosen = [mask & of_slice for mask, of_slice in zip(chosen, among, strict=True)]
    raw = [weighted.raw for weighted in weights.weigh(responses)]
    table = _table(rows, responses, raw, values, chosen, pairs=method in ("dpo", "simpo"))
    if not any(mask.any() for mask in chosen):
        raise InputError(
            f"none of the responses in {rollouts} is chosen by method={method}: "
            f"{counted(sum(map(len, responses)), 'response')} to "
            f"{counted(len(responses), 'problem')}, "
            f"{sum(int(p.correct.sum()) for p in responses)} of them right; "
            f"harmonize.difficulty={weights.difficulty}, harmonize.all_wrong={weights.all_wrong}"
        )
    statistics = statistics_of(responses, raw, values, chosen, weights)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(folder / schema.STATISTICS_FILE, json.dumps(statistics, indent=2) + "\n")
        # Last: a round that has its table has its statistics.
        with new_file(folder / schema.WEIGHTS_FILE) as new:
            pq.write_table(table, new, compression="zstd")
    return statistics


def choose(
    method: str, responses: Sequence[ProblemResponses], weights: SampleWeights, seed: int
) -> tuple[list[Mask], list[Vector]]:
    """Which responses [K] of each problem are learned from, and their weights [K].

    Args:
        method: o1_pruner has the weights of `SampleWeights`, of responses that a seed chooses. sft
            has 1, of the shortest right ones. dpo and simpo have 1 for the shortest right one, and
            -1 for the longest; problems without two right ones of different lengths have none.

    Raises:
        InputError: a problem has too few responses.
    """
    if method == "o1_pruner":
        masks = weights.select(responses, seed)
        weighted = weights.weigh(responses, masks)
        chosen = [mask & result.kept for mask, result in zip(masks, weighted, strict=True)]
        return chosen, [result.weight for result in weighted]
    if method == "sft":
        keep: ShortestRight | RightPair = ShortestRight(
            max(map(len, responses)) if weights.responses == "all" else weights.responses
        )
    else:
        keep = RightPair()
    masks = [_kept(keep, problem) for problem in responses]
    if method == "sft":
        return masks, [mask.astype(np.float64) for mask in masks]
    signs = []
    for problem, mask in zip(responses, masks, strict=True):
        shortest = problem.length == problem.length[mask].min(initial=np.iinfo(np.int64).max)
        signs.append(np.where(mask, np.where(shortest, 1.0, -1.0), 0.0))
    return masks, signs


def statistics_of(
    responses: Sequence[ProblemResponses],
    raw: Sequence[Vector],
    values: Sequence[Vector],
    chosen: Sequence[Mask],
    weights: SampleWeights,
) -> dict[str, Any]:
    """Numbers of the responses and of the weights that are learned from; shares are of 1.

    Returns:
        `problems`, `responses`; of all responses `accuracy`, `length`, `answered` and `clipped`,
        the share whose raw weight was beyond the bounds; and of the `chosen` ones their number,
        that of their problems, mean and deviation of their `weight`, their `accuracy` and `length`,
        the share of right ones that become unlikelier, and of wrong ones that become likelier.
    """
    masks = np.concatenate(chosen)
    weight = np.concatenate(values)[masks]
    correct, length = (
        np.concatenate([getattr(p, name) for p in responses]) for name in ("correct", "length")
    )
    answered = np.concatenate([_answered(p) for p in responses])
    before = np.concatenate(raw)
    clipped = (before < weights.clip_low) | (before > weights.clip_high)
    right = correct[masks]
    return {
        "problems": len(responses),
        "responses": len(correct),
        "accuracy": float(correct.mean()),
        "length": float(length.mean()),
        "answered": float(answered.mean()),
        "clipped": float(clipped.mean()),
        "chosen": int(masks.sum()),
        "chosen_problems": sum(bool(mask.any()) for mask in chosen),
        "chosen_accuracy": float(right.mean()),
        "chosen_length": float(length[masks].mean()),
        "weight_mean": float(weight.mean()),
        "weight_deviation": float(weight.std()),
        "right_unlikelier": _share(weight[right] < 0),
        "wrong_likelier": _share(weight[~right] > 0),
    }


def _share(flags: Mask) -> float | None:
    """The share of true ones; None of none."""
    return float(flags.mean()) if len(flags) else None


def _read(
    rollouts: Path, problems: Sequence[Problem], n: int
) -> dict[str, list[Mapping[str, Any]]]:
    """The first n rows of each problem by number, in the order of the problems."""
    responses: dict[str, dict[int, Mapping[str, Any]]] = {problem.name: {} for problem in problems}
    for _, row in stored_responses("presample.folder", rollouts, problems, _COLUMNS):
        responses[row["problem"]].setdefault(row["number"], row)
    short = {name: len(rows) for name, rows in responses.items() if len(rows) < n}
    if short:
        name, count = next(iter(short.items()))
        raise InputError(
            f"{rollouts}: {len(short)} of {counted(len(responses), 'problem')} of data.train have "
            f"fewer than presample.n={n} responses, such as {name} with {count}; give "
            f"presample.n={min(short.values())} or less, or have more drawn"
        )
    rows = {name: [of[number] for number in sorted(of)[:n]] for name, of in responses.items()}
    _check_verdicts(rollouts, Counter(row["why"] for of in rows.values() for row in of))
    return rows


def _check_verdicts(rollouts: Path, verdicts: Counter[str]) -> None:
    """Refuse responses that all fail for one reason: nothing can be learned from them."""
    if len(verdicts) == 1 and not verdicts.keys() & {"right", "wrong"}:
        (why,) = verdicts
        raise InputError(
            f"all {counted(verdicts[why], 'response')} in {rollouts} have the verdict {why!r} "
            f"({WHY[why]}), so that nothing can be learned from them: "
            f"{REMEDIES[why].replace('rollout.max', 'presample.max')}"
        )


def _of_problem(
    name: str, rows: Sequence[Mapping[str, Any]], weights: SampleWeights
) -> ProblemResponses:
    finished = np.array([row["finish"] == "stop" for row in rows])
    tokens = np.array([row["length"] for row in rows], np.int64)
    answered = finished & np.array([row["why"] not in WITHOUT_ANSWER for row in rows])
    correct = np.array([row["match"] for row in rows], np.bool_)
    return ProblemResponses(correct, weights.count_tokens(tokens, finished), answered, name)


def _answered(problem: ProblemResponses) -> Mask:
    return np.ones(len(problem), np.bool_) if problem.answered is None else problem.answered


def _kept(keep: ShortestRight | RightPair, problem: ProblemResponses) -> Mask:
    """What a filter keeps of a problem's responses."""
    limit = max(int(problem.length.max()), 1)
    group = Group(problem.correct, problem.length, np.ones(len(problem), np.bool_), limit)
    return keep(group, problem.correct.astype(np.float64))


def _table(
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    responses: Sequence[ProblemResponses],
    raw: Sequence[Vector],
    values: Sequence[Vector],
    chosen: Sequence[Mask],
    pairs: bool,
) -> pa.Table:
    lines, group = [], 0
    for place, (name, of_problem) in enumerate(rows.items()):
        problem = responses[place]
        for number, row in enumerate(of_problem):
            selected = bool(chosen[place][number])
            lines.append(
                {
                    "problem": name,
                    "number": row["number"],
                    "length": int(problem.length[number]),
                    "correct": bool(problem.correct[number]),
                    "answered": bool(_answered(problem)[number]),
                    "raw": float(raw[place][number]),
                    "weight": float(values[place][number]) if selected else 0.0,
                    "selected": selected,
                    "group": group if selected else None,
                }
            )
            group += selected and not pairs
        group += pairs and bool(chosen[place].any())
    return pa.Table.from_pylist(lines, schema=schema.weights_schema())
