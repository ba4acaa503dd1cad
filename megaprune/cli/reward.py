"""`megaprune reward`: what an algorithm makes of responses that are given as numbers."""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from megaprune.cli.train import add_field_arguments
from megaprune.errors import InputError

if TYPE_CHECKING:
    from megaprune.algorithms.algorithm import Algorithm
    from megaprune.algorithms.records import Group

_LISTS = {"correct": bool, "length": int, "finished": bool, "text": str, "answered": bool}
"""What a line may say of each of its K responses."""

_REQUIRED = ("correct", "length")

_WORDS = {bool: "true and false", int: "whole numbers", str: "texts"}

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
    from megaprune.config.field_docs import show_fields
    from megaprune.config.read import read_fields, to_yaml
    from megaprune.config.reward import RewardConfig

    if options.help_fields is not None:
        show_fields(RewardConfig, options.help_fields)
        return 0
    config = read_fields(RewardConfig, options.fields)
    if options.print_config:
        print(to_yaml(config), end="")
        return 0
    groups = list(_groups(options.input))
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
            [score for score, _ in batch], [group.length for _, group in batch]
        )
        for (score, _), row in zip(batch, advantages, strict=True):
            line: dict[str, Any] = {"rewards": score.rewards.tolist(), "advantages": row.tolist()}
            if len(score.parts) > 1:
                line["parts"] = {label: part.tolist() for label, part in score.parts.items()}
            if not score.kept.all():
                line["kept"] = score.kept.tolist()
            yield line


def _groups(name: str) -> Iterator[Group]:
    """The groups of a file of JSON lines; an InputError names the line."""
    source = nullcontext(sys.stdin) if name == "-" else open(name, encoding="utf-8")  # noqa: SIM115
    try:
        with source as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _group(line, f"{name}, line {number}")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not UTF-8 text ({error.reason})") from error


def _group(line: str, where: str) -> Group:
    """A group from a line."""
    import numpy as np

    from megaprune.algorithms.records import Group

    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error}); expected one object a line") from error
    if not isinstance(row, dict):
        raise InputError(f"{where}: {type(row).__name__}; expected an object with correct, length")
    lists = {key: _list(row, key, where) for key in _LISTS if key in row or key in _REQUIRED}
    count = len(lists["correct"])
    if wrong := [key for key, values in lists.items() if len(values) != count]:
        raise InputError(
            f"{where}: {len(lists[wrong[0]])} entries of {wrong[0]} and {count} of correct; "
            f"expected as many"
        )
    limit = row.get("limit", max([1, *lists["length"]]))
    if type(limit) is not int or limit < 1:
        raise InputError(f"{where}: limit is {limit!r}; expected a whole number, 1 or more")
    if min([1, *lists["length"]]) < 0:
        raise InputError(f"{where}: length is {min(lists['length'])}; expected 0 or more")
    return Group(
        np.array(lists["correct"], np.bool_),
        np.array(lists["length"], np.int64),
        np.array(lists.get("finished", [True] * count), np.bool_),
        limit,
        tuple(lists.get("text", ())),
        {key: value for key, value in row.items() if key not in _KEYS},
        str(row.get("name", where)),
        np.array(lists["answered"], np.bool_) if "answered" in lists else None,
    )


def _list(row: dict[str, Any], key: str, where: str) -> list[Any]:
    """A list of a line, its entries of the type that they must have."""
    if key not in row:
        near = difflib.get_close_matches(key, row, n=1)
        raise InputError(
            f"{where}: key {key!r} is missing" + (f"; there is {near[0]!r}" if near else "")
        )
    values, kind = row[key], _LISTS[key]
    if kind is bool and isinstance(values, list):  # 1 and 0, as tables have them
        values = [bool(v) if type(v) is int and v in (0, 1) else v for v in values]
    if not isinstance(values, list) or not all(type(value) is kind for value in values):
        raise InputError(f"{where}: {key} is {row[key]!r}; expected a list of {_WORDS[kind]}")
    return values
