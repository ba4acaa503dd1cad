"""What a job of a study does: a run, a harmonizing or an evaluation. It imports both engines."""

from __future__ import annotations

from megaprune.config.run import Config
from megaprune.evaluation.config import EvaluateConfig
from megaprune.evaluation.run import evaluate
from megaprune.harmonizing.config import HarmonizeConfig
from megaprune.harmonizing.run import harmonize
from megaprune.trainer.loop import train
from megaprune.validate import check_evaluation, check_harmonizing, check_run


def do(config: Config | EvaluateConfig) -> None:
    """Do a job, as the command of its name would. Collective.

    Raises:
        InputError: as there.
    """
    if isinstance(config, HarmonizeConfig):
        harmonize(config)
    elif isinstance(config, Config):
        train(config)
    else:
        evaluate(config)


def check(config: Config | EvaluateConfig, processes: int) -> None:
    """Check a job before its processes are started, as the command of its name would.

    Raises:
        InputError: as there.
    """
    if isinstance(config, HarmonizeConfig):
        check_harmonizing(config, processes)
    elif isinstance(config, Config):
        check_run(config, processes)
    else:
        check_evaluation(config, processes)
