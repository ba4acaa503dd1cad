"""`megaprune evaluate`."""

from __future__ import annotations

import argparse
from typing import Any

from megaprune.cli.train import add_fields, with_found_model
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
    add_fields(command)
    command.add_argument(
        "--exit-at",
        metavar="N,N,...",
        help="also close thoughts early, after so many tokens (exit_at=)",
    )
    command.add_argument("--budget", help=argparse.SUPPRESS)  # its name until it was --exit-at
    command.set_defaults(run=run_evaluate)


def run_evaluate(options: argparse.Namespace) -> int:
    """Evaluate, on the processes that there are or on new ones."""
    from megaprune.config.field_docs import show_fields
    from megaprune.config.read import to_yaml
    from megaprune.evaluation.config import EvaluateConfig, read_evaluate_config
    from megaprune.launch.torchrun import smallest_world, start
    from megaprune.rules import evaluate_problems, refuse

    if options.budget is not None:
        raise InputError(
            f"there is no option --budget; its name is --exit-at, as in --exit-at {options.budget}"
        )
    fields = [*options.fields, *([f"exit_at={options.exit_at}"] if options.exit_at else [])]
    if options.help_fields is not None:
        show_fields(EvaluateConfig, options.help_fields)
        return 0
    config = read_evaluate_config(fields)
    refuse(evaluate_problems(config))
    if options.print_config:
        print(to_yaml(config), end="")
        return 0
    config, fields = with_found_model(config, fields)

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
