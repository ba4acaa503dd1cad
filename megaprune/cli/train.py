"""`megaprune train` and `megaprune prune`: read what is wanted, check it, start it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from megaprune.cli.fields import add_check, add_field_arguments, read_or_print
from megaprune.distributed.process import importing

if TYPE_CHECKING:
    from megaprune.config.run import Config
    from megaprune.evaluation.config import EvaluateConfig
    from megaprune.harmonizing.config import HarmonizeConfig
    from megaprune.pruning.config import PruneConfig

AnyConfig = TypeVar("AnyConfig", "Config", "PruneConfig", "EvaluateConfig", "HarmonizeConfig")

_TORCHRUN = (
    "The same command again goes on where a run was. Under torchrun (torchrun ... -m megaprune.cli "
    "{} ...) its processes are used; otherwise they are started on this host."
)


def add_parser(commands: Any) -> None:
    """Add `train` and `prune`."""
    train = commands.add_parser(
        "train",
        help="prune a model's thinking with length-limited GRPO",
        description="Prune a model, from a recipe or from fields alone. "
        + _TORCHRUN.format("train"),
    )
    prune = commands.add_parser(
        "prune",
        help="prune in rounds, each under a lower limit, from the best model of the one before",
        description="Prune a model in rounds, each under a lower limit: limits=4000,3000,2000. A "
        "round begins with the model that validation found best in the one before. A {limit} in "
        "data.train and data.validation stands for the round's. " + _TORCHRUN.format("prune"),
    )
    for command, run in ((train, run_train), (prune, run_prune)):
        add_field_arguments(command)
        add_check(command)
        command.set_defaults(run=run)


def with_found_model(config: AnyConfig, words: Sequence[str]) -> tuple[AnyConfig, list[str]]:
    """Put a folder in the place of a model that is named as on the hub.

    Args:
        words: of the command line, which other processes are started with.
    """
    from megaprune.hub import find_model

    folder = find_model(config.model)
    if folder == config.model:
        return config, list(words)
    return replace(config, model=folder), [*words, f"model={folder}"]


def run_train(options: argparse.Namespace) -> int:
    """Train, on the processes that there are or on new ones."""
    from megaprune.config.run import Config, read_config
    from megaprune.launch.torchrun import start
    from megaprune.rules import run_problems

    config = read_or_print(options, Config, read_config, run_problems)
    if config is None:
        return 0
    config, words = with_found_model(config, options.fields)

    # torch takes seconds to import: a wrong field is refused before.
    def check(processes: int) -> None:
        from megaprune.validate import check_run

        check_run(config, processes)

    def job() -> None:
        with importing():
            from megaprune.trainer.loop import train

        train(config)

    return start(
        ["train", *words],
        lambda: processes_of(config),
        check,
        job,
        options.check,
        config.deterministic,
    )


def run_prune(options: argparse.Namespace) -> int:
    """Prune in rounds, on the processes that there are or on new ones."""
    from megaprune.launch.torchrun import start
    from megaprune.pruning.config import PruneConfig, read_prune_config
    from megaprune.rules import prune_problems

    config = read_or_print(options, PruneConfig, read_prune_config, prune_problems)
    if config is None:
        return 0
    config, words = with_found_model(config, options.fields)

    def check(processes: int) -> None:
        from megaprune.validate import check_pruning

        check_pruning(config, processes)

    def job() -> None:
        with importing():
            from megaprune.pruning.rounds import prune

        prune(config)

    return start(
        ["prune", *words],
        lambda: processes_of(config),
        check,
        job,
        options.check,
        config.deterministic,
    )


def processes_of(config: Config) -> int:
    """How many processes of this host a run wants, where torchrun has not said it."""
    from megaprune.launch.torchrun import smallest_world

    return config.processes or smallest_world(config.actor.tp * config.actor.pp, config.rollout.tp)
