"""`megaprune evaluate`."""

from __future__ import annotations

import argparse
from typing import Any

from megaprune.cli.fields import add_check, add_field_arguments, read_or_print
from megaprune.cli.train import with_found_model
from megaprune.distributed.process import importing
from megaprune.errors import InputError


def add_parser(commands: Any) -> None:
    """Add `evaluate`."""
    command = commands.add_parser(
        "evaluate",
        help="measure how right and how long a model's answers are",
        description="Measure a model on problem sets: model=DIR data=FILE.parquet,... out=DIR. The "
        "same command again goes on where it was. Under torchrun (torchrun ... -m megaprune.cli "
        "evaluate ...) its processes are used; otherwise they are started on this host.",
    )
    add_field_arguments(command)
    add_check(command)
    command.add_argument(
        "--exit-at",
        metavar="N,N,...",
        help="also close thoughts early, after so many tokens (exit_at=)",
    )
    command.add_argument("--budget", help=argparse.SUPPRESS)  # its name until it was --exit-at
    command.set_defaults(run=run_evaluate)


def run_evaluate(options: argparse.Namespace) -> int:
    """Evaluate, on the processes that there are or on new ones."""
    from megaprune.evaluation.config import EvaluateConfig, read_evaluate_config
    from megaprune.launch.torchrun import smallest_world, start
    from megaprune.rules import evaluate_problems

    if options.budget is not None:
        raise InputError(
            f"there is no option --budget; its name is --exit-at, as in --exit-at {options.budget}"
        )
    if options.exit_at:
        options.fields = [*options.fields, f"exit_at={options.exit_at}"]
    config = read_or_print(options, EvaluateConfig, read_evaluate_config, evaluate_problems)
    if config is None:
        return 0
    config, fields = with_found_model(config, options.fields)

    # torch takes seconds to import: a wrong field is refused before.
    def check(processes: int) -> None:
        from megaprune.validate import check_evaluation

        check_evaluation(config, processes)

    def job() -> None:
        with importing():
            from megaprune.evaluation.run import evaluate

        evaluate(config)

    return start(
        ["evaluate", *fields],
        lambda: config.processes or smallest_world(config.rollout.tp),
        check,
        job,
        options.check,
    )
