"""`megaprune reward`: what an algorithm makes of responses that are given as numbers."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from megaprune.cli.fields import add_field_arguments, read_or_print
from megaprune.cli.json_lines import lists_of_responses, objects_of, open_input
from megaprune.errors import InputError

if TYPE_CHECKING:
    from megaprune.algorithms.algorithm import Algorithm
    from megaprune.algorithms.records import Group

_LISTS = {
    "correct": bool, "length": int, "finished": bool, "text": str, "answered": bool,
    "thought_length": int,
}  # fmt: skip
"""What a line may say of each of its K responses."""

_KEYS = (*_LISTS, "limit", "name")


def add_parser(commands: Any) -> None:
    """Add `reward`."""
    job = commands.add_parser(
        "reward",
        help="show what rewards and advantages an algorithm gives to groups of responses",
        description="Read groups of responses as JSON lines, each "
        '{"correct": [true, false], "length": [900, 4000], "finished": [true, false], '
        '"limit": 4000}, and print a line with the rewards and the advantages of each. All lines '
        "are one batch. A reward that remembers takes each line for a step. Everything else in a "
        "line is what the problem carries, such as `reference`.",
    )
    job.add_argument("--input", required=True, metavar="FILE", help="JSON lines; - is stdin")
    add_field_arguments(job)
    job.set_defaults(run=run_reward)


def run_reward(options: argparse.Namespace) -> int:
    """Print a line of JSON for each group, in the input's order."""
    from megaprune.config.read import read_fields
    from megaprune.config.reward import RewardConfig

    config = read_or_print(options, RewardConfig, partial(read_fields, RewardConfig))
    if config is None:
        return 0
    with open_input(options.input) as lines:
        groups = [
            _group(row, where, config.algorithm.length)
            for where, row in objects_of(lines, options.input, "correct, length")
        ]
    for line in _lines(config.algorithm, groups):
        print(json.dumps(line))
    return 0


def _lines(algorithm: Algorithm, groups: Sequence[Group]) -> Iterator[dict[str, Any]]:
    """What is printed of each group."""
    memory = algorithm.start_memory()
    scores = []
    for group in groups:
        scores.append(algorithm.score(group, memory))
        memory = algorithm.observe(memory, [group])
    sizes = {len(score.rewards) for score in scores}
    if len(sizes) > 1 and not getattr(algorithm.advantage, "within_group", False):
        raise InputError(
            f"groups of {', '.join(map(str, sorted(sizes)))} responses; expected all of one size, "
            f"since the advantage compares groups with each other"
        )
    pairs = list(zip(scores, groups, strict=True))
    for batch in [pairs] if len(sizes) == 1 else [[pair] for pair in pairs]:
        advantages = algorithm.advantages_of(
            [score for score, _ in batch], [group.response_length for _, group in batch]
        )
        for (score, _), row in zip(batch, advantages, strict=True):
            line: dict[str, Any] = {"rewards": score.rewards.tolist(), "advantages": row.tolist()}
            if len(score.parts) > 1:
                line["parts"] = {label: part.tolist() for label, part in score.parts.items()}
            if not score.kept.all():
                line["kept"] = score.kept.tolist()
            yield line


def _group(row: dict[str, Any], where: str, measured: str) -> Group:
    """A group from the object of a line, measured by response or by thought."""
    import numpy as np

    from megaprune.algorithms.records import Group

    key = "thought_length" if measured == "thought" else "length"
    lists = lists_of_responses(row, where, _LISTS, ("correct", "length", key))
    count = len(lists["correct"])
    limit = row.get("limit", max([1, *lists["length"]]))
    if type(limit) is not int or limit < 1:
        raise InputError(f"{where}: limit is {limit!r}; expected a whole number, 1 or more")
    return Group(
        np.array(lists["correct"], np.bool_),
        np.array(lists[key], np.int64),
        np.array(lists.get("finished", [True] * count), np.bool_),
        limit,
        tuple(lists.get("text", ())),
        {key: value for key, value in row.items() if key not in _KEYS},
        str(row.get("name", where)),
        np.array(lists["answered"], np.bool_) if "answered" in lists else None,
        response_length=np.array(lists["length"], np.int64),
    )
