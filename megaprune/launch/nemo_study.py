"""Studies with NeMo-Run: each run is a job, and begins when the evaluations before it are done.

python -m megaprune.launch.nemo_study recipe=study.yaml --account me --partition gpu --dryrun
"""

import argparse
import sys
from collections.abc import Sequence

import fiddle
import nemo_run as run

from megaprune.errors import InputError
from megaprune.foreign_text import for_people
from megaprune.launch.nemo import add_executor_options, local, script, slurm
from megaprune.study.config import StudyConfig, read_study_config
from megaprune.study.jobs import jobs_of


def study(
    config: StudyConfig, venv: str = ".venv", is_local: bool = False
) -> list[tuple[str, run.Script, tuple[str, ...]]]:
    """List the jobs of a study: their names, their scripts, and the names of those before them.

    Args:
        venv: with megaprune in it, where the jobs run.
        is_local: the jobs begin on one host; else on each node of a Slurm job.
    """
    program = "megaprune" if is_local else "megaprune-node"
    return [(job.name, script(venv, program, job.words), job.needs) for job in jobs_of(config)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Submit the jobs of a study; `megaprune study` with the same fields writes its page then."""
    parser = argparse.ArgumentParser(description="Submit the jobs of a study with NeMo-Run.")
    parser.add_argument("fields", nargs="*", metavar="key=value", help="of `megaprune study`")
    parser.add_argument("--dryrun", action="store_true", help="show what would be submitted")
    parser.add_argument("--local", action="store_true", help="on this host instead of Slurm")
    parser.add_argument("--venv", default=".venv", help="with megaprune, where jobs run")
    parser.add_argument("--nodes", type=int, default=1, help="of each job")
    add_executor_options(parser)
    options = vars(parser.parse_intermixed_args(arguments))
    dryrun, is_local, venv, fields = (
        options.pop(name) for name in ("dryrun", "local", "venv", "fields")
    )
    try:
        jobs = study(read_study_config(fields), venv, is_local)
        executor = fiddle.build(local() if is_local else slurm(**options))
    except InputError as error:
        print(f"megaprune: error: {for_people(str(error))}", file=sys.stderr)
        return 1
    with run.Experiment("study") as experiment:
        added: dict[str, str] = {}
        for name, task, needs in jobs:
            if dryrun:
                print(f"# {name}\n{task.inline}")
            after = [added[job] for job in needs]
            added[name] = experiment.add(task, executor.clone(), name, dependencies=after)
        if dryrun:
            experiment.dryrun()
        else:
            experiment.run(detach=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
