"""`megaprune harmonize`: start it; or show what O1-Pruner makes of responses given as numbers."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from megaprune.cli.fields import add_check, add_field_arguments, read_or_print
from megaprune.cli.json_lines import lists_of_responses, objects_of, open_input
from megaprune.cli.train import processes_of, with_found_model
from megaprune.distributed.process import importing
from megaprune.errors import InputError

if TYPE_CHECKING:
    from megaprune.algorithms.sample_weights import ProblemResponses, SampleWeights
    from megaprune.harmonizing.config import HarmonizeConfig

_LISTS = {"correct": bool, "length": int, "finished": bool, "answered": bool}
"""What a line may say of each of its K responses."""


def add_parser(commands: Any) -> None:
    """Add `harmonize`."""
    job = commands.add_parser(
        "harmonize",
        help="learn from weighed responses of the model itself (O1-Pruner), or weigh some",
        description="Draw responses to the training problems, weigh them by their length and their "
        "correctness, learn from them, and measure the model before and after. The same command "
        "again goes on where it was. With --weights, nothing is trained: read a reference model's "
        "responses to problems as JSON lines, each "
        '{"problem": "a", "length": [800, 1000], "correct": [true, false]} with a list of K '
        "entries, and print a line with the weights of each: `raw`, before clipping, and `weight`, "
        "as it is learned from. All lines are one data set, and all K responses count in its mean. "
        "A line may also have the lists `finished` and `answered`.",
    )
    job.add_argument("--weights", metavar="FILE", help="JSON lines; - is stdin")
    add_field_arguments(job)
    add_check(job)
    job.set_defaults(run=run_harmonize)


def run_harmonize(options: argparse.Namespace) -> int:
    """Weigh the responses of a file; or show the fields of a harmonizing."""
    from megaprune.harmonizing.config import HarmonizeConfig, read_harmonize_config
    from megaprune.rules import harmonize_problems

    if options.weights is not None:
        return _show_weights(options)
    config = read_or_print(options, HarmonizeConfig, read_harmonize_config, harmonize_problems)
    return 0 if config is None else _start(config, options)


def _start(config: HarmonizeConfig, options: argparse.Namespace) -> int:
    """Harmonize, on the processes that there are or on new ones."""
    from megaprune.launch.torchrun import start

    config, words = with_found_model(config, options.fields)

    # torch takes seconds to import: a wrong field is refused before.
    def check(processes: int) -> None:
        from megaprune.validate import check_harmonizing

        check_harmonizing(config, processes)

    def job() -> None:
        with importing():
            from megaprune.harmonizing.run import harmonize

        harmonize(config)

    return start(
        ["harmonize", *words],
        lambda: processes_of(config),
        check,
        job,
        options.check,
        config.deterministic,
    )


def _show_weights(options: argparse.Namespace) -> int:
    """Print a line of JSON for each problem, in the input's order."""
    from megaprune.config.read import read_fields
    from megaprune.config.weights import WeightsConfig

    config = read_or_print(options, WeightsConfig, partial(read_fields, WeightsConfig))
    if config is None:
        return 0
    for line in _weigh_file(config.harmonize, options.weights):
        print(json.dumps(line))
    return 0


def _weigh_file(weights: SampleWeights, name: str) -> Iterator[dict[str, Any]]:
    """What is printed of each problem of a file."""
    with open_input(name) as lines:
        rows = list(objects_of(lines, name, "problem, length, correct"))
    problems = [_responses(row, where) for where, row in rows]
    for (_, row), result in zip(rows, weights.weigh(problems), strict=True):
        line = {"problem": row["problem"]} if "problem" in row else {}
        line |= {"raw": result.raw.tolist(), "weight": result.weight.tolist()}
        yield line | ({} if result.kept else {"kept": False})


def _responses(row: dict[str, Any], where: str) -> ProblemResponses:
    """The responses in the object of a line."""
    import numpy as np

    from megaprune.algorithms.sample_weights import ProblemResponses

    lists = lists_of_responses(row, where, _LISTS)
    count = len(lists["correct"])
    if not count:
        raise InputError(f"{where}: no response; expected lists of one or more")
    answered, finished = (
        np.array(lists.get(key, [True] * count), np.bool_) for key in ("answered", "finished")
    )
    return ProblemResponses(
        np.array(lists["correct"], np.bool_),
        np.array(lists["length"], np.int64),
        answered & finished,
        f"{row['problem']} ({where})" if "problem" in row else f"of {where}",
    )
