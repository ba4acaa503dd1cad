"""`megaprune study`."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megaprune.cli.fields import add_field_arguments, read_or_print
from megaprune.cli.train import processes_of
from megaprune.distributed.process import importing
from megaprune.errors import InputError, counted

if TYPE_CHECKING:
    from megaprune.study.config import StudyConfig
    from megaprune.study.jobs import Job

ARRAY_INDEX = "SLURM_ARRAY_TASK_ID"
"""In the environment of a job of a Slurm array: which one it is."""


def add_parser(commands: Any) -> None:
    """Add `study`."""
    command = commands.add_parser(
        "study",
        help="compare ways to prune a model: train each with several seeds, and measure all alike",
        description="Train a model in many ways, each with several seeds, and show on one page "
        "what each costs in accuracy and saves in tokens. What is done is kept: the same command "
        "again does what is left, and a run that fails does not stop the others.",
    )
    add_field_arguments(command)
    command.add_argument(
        "--check",
        nargs="?",
        type=int,
        const=0,
        metavar="PROCESSES",
        help="only list the jobs, with their states; or see whether so many processes can do those "
        "of --index",
    )
    command.add_argument(
        "--index",
        metavar="N,N,...",
        help="do only the jobs with these numbers, which --check lists, one after another (default "
        f"in a Slurm array: {ARRAY_INDEX})",
    )
    command.set_defaults(run=run_study)


def run_study(options: argparse.Namespace) -> int:
    """Do what is left of a study, and write its page."""
    from megaprune.study.config import StudyConfig, read_study_config

    config = read_or_print(options, StudyConfig, read_study_config)
    if config is None:
        return 0
    from megaprune.study.jobs import check_jobs, jobs_of

    jobs = dict(enumerate(jobs_of(config)))
    index = options.index or os.environ.get(ARRAY_INDEX)
    if index is not None:
        return _run_jobs(options, _numbers(index, len(jobs)), jobs)
    check_jobs([*jobs.values()])
    if options.check is not None:
        _show(jobs)
        return 0
    return _run_study(config, jobs, options.fields)


def _run_study(config: StudyConfig, jobs: Mapping[int, Job], words: Sequence[str]) -> int:
    """Do all jobs that are left, each in processes of its own or of several jobs."""
    from megaprune.config.read import to_yaml
    from megaprune.files import replace_text, writing
    from megaprune.lease import Lease
    from megaprune.report import write_report
    from megaprune.schema import CONFIG_FILE, LEASE_FILE, STUDY_FILE
    from megaprune.study.jobs import listing
    from megaprune.study.local import run_here

    folder = Path(config.out)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lease = Lease(folder / LEASE_FILE, folder)
        replace_text(folder / CONFIG_FILE, to_yaml(config))
        content = json.dumps(listing(config, [*jobs.values()]), indent=2) + "\n"
        replace_text(folder / STUDY_FILE, content)
    done = sum(job.done for job in jobs.values())
    print(f"{folder}: {counted(len(jobs), 'job')}, {done} of them done", flush=True)
    try:
        failed = run_here(
            folder,
            jobs,
            config.n_jobs,
            lambda numbers: ["study", *words, "--index", ",".join(map(str, numbers))],
        )
    finally:
        lease.close()
    if any(job.done for job in jobs.values() if job.variant is not None):
        print(f"report: {write_report(folder)}")
    if not failed:
        return 0
    names = "; ".join(f"{jobs[number].name}: {why}" for number, why in failed.items())
    raise InputError(
        f"{counted(len(failed), 'job')} of {len(jobs)} failed, and the same command tries again "
        f"with them: {names}"
    )


def _run_jobs(
    options: argparse.Namespace, numbers: Sequence[int], all_jobs: Mapping[int, Job]
) -> int:
    """Do jobs one after another in these processes, or in new ones for all of them."""
    from megaprune.config.run import Config
    from megaprune.launch.torchrun import smallest_world, start
    from megaprune.study.jobs import check_jobs

    jobs = [all_jobs[number] for number in numbers]
    check_jobs(jobs)
    # --check asks what is possible, also of jobs that are done.
    left = [job for job in jobs if options.check or not job.done]
    if not left:
        print(f"{', '.join(job.name for job in jobs)}: done")
        return 0
    first = left[0].config

    def processes() -> int:
        if isinstance(first, Config):
            return processes_of(first)
        return first.processes or smallest_world(first.rollout.tp)

    def job() -> None:
        import gc

        with importing():
            from megaprune.distributed import world
            from megaprune.harmonizing.run import harmonize  # noqa: F401 (what jobs import)
            from megaprune.study.work import do

        for each in left:
            do(each, all_jobs)
            world.say_when_interrupted(None)  # what it said was of this job
            gc.collect()  # both engines' memory, before the next job's are built

    def check(count: int) -> None:
        from megaprune.study.work import check

        check(left[0], all_jobs, count)

    words = ["study", *options.fields, "--index", ",".join(map(str, numbers))]
    deterministic = isinstance(first, Config) and first.deterministic
    return start(words, processes, check, job, options.check or None, deterministic)


def _numbers(text: str, count: int) -> list[int]:
    """The numbers of jobs; refuses those that there are not."""
    try:
        numbers = [int(word) for word in text.split(",")]
        if not all(0 <= number < count for number in numbers):
            raise ValueError
    except ValueError:
        raise InputError(
            f"--index {text}; the study has jobs 0 to {count - 1}, which --check lists"
        ) from None
    return numbers


def _show(jobs: Mapping[int, Job]) -> None:
    """List jobs with their states, the jobs that they need, and their folders."""
    from rich.table import Table

    from megaprune.config.run import Config
    from megaprune.foreign_text import terminal

    table = Table("index", "job", "state", box=None, pad_edge=False)
    table.add_column("needs")
    table.add_column("folder", overflow="fold")  # a path is to be copied
    by_name = {job.name: str(number) for number, job in jobs.items()}
    for number, job in jobs.items():
        needs = ",".join(by_name[name] for name in job.needs)
        table.add_row(str(number), job.name, job.state, needs, job.config.out)
    terminal(highlight=False, soft_wrap=True).print(table)
    runs = sum(isinstance(job.config, Config) for job in jobs.values())
    done = sum(job.done for job in jobs.values())
    print(
        f"{counted(runs, 'run')} and {counted(len(jobs) - runs, 'evaluation')}; {done} of them done"
    )
