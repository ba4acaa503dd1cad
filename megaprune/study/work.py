"""What a job of a study does: a run, a harmonizing or an evaluation."""

from __future__ import annotations

from collections.abc import Mapping

from megaprune.config.run import Config
from megaprune.errors import InputError
from megaprune.harmonizing.config import HarmonizeConfig
from megaprune.study.jobs import Job
from megaprune.validate import check_evaluation, check_harmonizing, check_run


def do(job: Job, jobs: Mapping[int, Job]) -> None:
    """Do a job, as the command of its name would. Collective.

    Args:
        jobs: all of the study's, by their numbers.

    Raises:
        InputError: as there; or another job must be done before.
    """
    _check_needs(job, jobs)
    # They import the engines, which a check has no need of.
    from megaprune.evaluation.run import evaluate
    from megaprune.harmonizing.run import harmonize
    from megaprune.trainer.loop import train

    if isinstance(job.config, HarmonizeConfig):
        harmonize(job.config)
    elif isinstance(job.config, Config):
        train(job.config)
    else:
        evaluate(job.config)


def check(job: Job, jobs: Mapping[int, Job], processes: int) -> None:
    """Check a job before its processes are started, as the command of its name would.

    Raises:
        InputError: as `do`.
    """
    _check_needs(job, jobs)
    if isinstance(job.config, HarmonizeConfig):
        check_harmonizing(job.config, processes)
    elif isinstance(job.config, Config):
        check_run(job.config, processes)
    else:
        check_evaluation(job.config, processes)


def _check_needs(job: Job, jobs: Mapping[int, Job]) -> None:
    missing = {
        str(number): other.name
        for number, other in jobs.items()
        if other.name in job.needs and not other.done
    }
    if missing:
        raise InputError(
            f"{job.name} needs {', '.join(missing.values())} first: do --index {','.join(missing)}"
        )
