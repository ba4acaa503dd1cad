"""NeMo-Run: tasks, executors and chains of them, for whoever submits from a machine of their own.

NeMo-Run has an environment of its own (pip install 'megaprune[launch]': no torch, no vLLM). What it
submits are scripts: the nodes need megaprune, and no NeMo-Run.

    python recipes/qwq_32b.py rollout.n=8 --account me --partition gpu --dryrun
    nemorun megaprune launch --factory qwq_32b_prune run.executor=slurm run.executor.nodes=4
"""

# Annotations are read by NeMo-Run, which wants the types themselves: no `annotations` here.
import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fiddle
import nemo_run as run

from megaprune.config.read import read_recipe, to_yaml
from megaprune.config.run import Config, read_config
from megaprune.errors import InputError
from megaprune.evaluation.config import EvaluateConfig, read_evaluate_config
from megaprune.foreign_text import for_people
from megaprune.harmonizing.config import HarmonizeConfig, read_harmonize_config
from megaprune.planner.request import gpus_of_recipe
from megaprune.planner.search import check_parallelism
from megaprune.pruning.config import PruneConfig, read_prune_config
from megaprune.rules import (
    evaluate_problems,
    harmonize_problems,
    prune_problems,
    refuse,
    run_problems,
)

CONVERT = "convert"
"""The name of a conversion's job."""

_COMMANDS: dict[type, tuple[str, Any, Any]] = {
    Config: ("train", read_config, run_problems),
    PruneConfig: ("prune", read_prune_config, prune_problems),
    HarmonizeConfig: ("harmonize", read_harmonize_config, harmonize_problems),
    EvaluateConfig: ("evaluate", read_evaluate_config, evaluate_problems),
}
"""By the type of a recipe: its command, how its fields are read, and the rules that they obey."""

# Tasks: what a job does.


def task(
    recipe: str, fields: Sequence[str] = (), venv: str = ".venv", local: bool = False
) -> run.Script:
    """Make the script of a recipe: of its training, pruning, harmonizing or evaluation.

    Args:
        recipe: its name.
        fields: key=value, any that --print-config shows; they are checked here.
        venv: with megaprune in it, where the job runs; empty if that is in the PATH.
        local: the job begins on one host; else on each node of a Slurm job.

    Raises:
        InputError: a field is not known, or cannot be so.
    """
    words = [f"recipe={recipe}", *fields]
    command, _ = _checked(recipe, fields)
    return script(venv, "megaprune" if local else "megaprune-node", [command, *words])


def evaluation(fields: Sequence[str], venv: str = ".venv", local: bool = False) -> run.Script:
    """Make the script of an evaluation without a recipe, as `task` does."""
    refuse(evaluate_problems(read_evaluate_config(fields)))
    return script(venv, "megaprune" if local else "megaprune-node", ["evaluate", *fields])


def conversion(megatron: str, out: str, venv: str = ".venv") -> run.Script:
    """Make the script that converts a Megatron checkpoint, unless its output is there already.

    Args:
        megatron, out: the checkpoint, and the Hugging Face folder to write.
    """
    words = ["convert", "to-hf", "--megatron", megatron, "--out", out]
    return script(venv, "megaprune", words, f"[ -d {shlex.quote(out)} ] || ")


def _checked(recipe: str, fields: Sequence[str]) -> tuple[str, Any]:
    """Return the command of a recipe, and its configuration, whose fields obey the rules."""
    command, read, problems = _COMMANDS[type(read_recipe(recipe))]
    config = read([f"recipe={recipe}", *fields])
    refuse(problems(config))
    return command, config


def script(venv: str, program: str, words: Sequence[str], before: str = "") -> run.Script:
    """Make the script of a program with these words, in the folder of whoever submits it."""
    path = f"{Path(venv).absolute()}/bin/{program}" if venv else program
    # NeMo-Run begins in a folder of its own; relative paths are those of whoever submits.
    where = f"cd {shlex.quote(str(Path.cwd()))} || exit 1\n"
    return run.Script(inline=f"{where}{before}exec {shlex.join([path, *words])}\n")


# Executors: where jobs run. All that a site decides is an argument.


@run.cli.factory
def slurm(
    account: str = "",
    partition: str = "",
    nodes: int = 1,
    gpus_per_node: int = 8,
    time: str = "24:00:00",
    image: str = "",
    mounts: str = "",
    hf_home: str = "",
    interface: str = "",
    logs: str = "logs",
    restarts: int = 20,
) -> run.Config[run.SlurmExecutor]:
    """Run jobs on a Slurm cluster; submitted from a machine that has sbatch.

    Shortly before its time is up a job saves and goes back into the queue. A job that fails by
    itself does not.

    Args:
        account, partition: of the site; empty for its defaults.
        gpus_per_node: 0 on a cluster without any, where a node gets one process.
        time: limit of a job, as Slurm takes it; half an hour before, or when a quarter of it is
            left, the job is told.
        image: container (pyxis) with megaprune in it; empty: none.
        mounts: host:container,...
        hf_home: Hugging Face's cache, on a disk that all nodes see; empty: their own.
        interface: network that the nodes talk over, as `ip address` names it; empty: any.
        logs: a folder that all nodes see.
        restarts: how often a job may go back into the queue.

    Raises:
        InputError: Slurm takes no such time.
    """
    return run.Config(
        run.SlurmExecutor,
        account=account or None,
        job_name_prefix="megaprune.",
        partition=partition or None,
        nodes=nodes,
        ntasks_per_node=1,
        gpus_per_node=gpus_per_node or None,
        exclusive=True if gpus_per_node else None,
        mem="0" if gpus_per_node else None,
        time=time,
        # To the steps, not to the batch script: NeMo-Run's waits for them, and would not notice.
        signal=f"USR1@{_lead(time)}",
        additional_parameters={"requeue": True, "kill_on_invalid_dep": "yes"},
        container_image=image or None,
        container_mounts=mounts.split(",") if mounts else [],
        env_vars={
            "HF_HUB_OFFLINE": "1",
            **({"HF_HOME": hf_home} if hf_home else {}),
            **({"INTERFACE": interface} if interface else {}),
        },
        setup_lines=_setup_lines(logs, restarts),
        packager=run.Packager(),
        tunnel=run.LocalTunnel(job_dir=str(Path(run.config.get_nemorun_home()) / "experiments")),
    )


def _setup_lines(logs: str, restarts: int) -> str:
    """Return what a job's script begins with: a folder for logs, and what sends it back."""
    folder = f"{Path(logs).absolute()}/$SLURM_JOB_NAME-$SLURM_JOB_ID.${{SLURM_RESTART_COUNT:-0}}"
    again = (
        'status=$?; if [ $status -ne 0 ] && [ -e "$LOGS/told" ] && '
        f'[ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ]; '
        'then scontrol requeue "$SLURM_JOB_ID"; fi; exit $status'
    )
    return (
        f'export LOGS="{folder}"\n'
        'export NODES="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | paste -sd,)"\n'
        'export MEETING="$(od -An -N16 -tx1 /dev/urandom | tr -d "[:space:]")"\n'
        'mkdir -p "$LOGS" || exit 1\n'
        f"trap '{again}' EXIT"
    )


def _lead(time: str) -> int:
    """Return how many seconds before its end a job is told that its time is nearly up."""
    days, dash, clock = time.rpartition("-")
    # Seconds of each part: DAYS-HH[:MM[:SS]], or MM[:SS], or HH:MM:SS.
    units = (3600, 60, 1) if dash or clock.count(":") == 2 else (60, 1)
    try:
        parts = [int(part) for part in clock.split(":")]
        whole = 86400 * int(days or 0) + sum(
            n * unit for n, unit in zip(parts, units[: len(parts)], strict=True)
        )
    except ValueError as error:
        raise InputError(
            f"time={time} is no time that Slurm takes; expected HH:MM:SS, DAYS-HH or minutes"
        ) from error
    return min(1800, whole // 4)


@run.cli.factory
def local() -> run.Config[run.LocalExecutor]:
    """Run jobs on this host, on all of its GPUs."""
    return run.Config(run.LocalExecutor)


# Experiments: jobs that wait for each other.


def rounds(
    recipe: str,
    fields: Sequence[str] = (),
    test: Sequence[str] = (),
    checkpoint: str = "",
    venv: str = ".venv",
    local: bool = False,
) -> list[tuple[str, run.Script]]:
    """List the jobs of a pruning in order: conversion, then each round and its evaluation.

    Args:
        recipe: the name of a pruning's recipe.
        test: fields of the evaluations, without model and out; empty: nothing is evaluated.
        checkpoint: in Megatron's format, converted to the model's folder first; empty: that is
            there.

    Returns:
        Names and tasks.
    """
    config = read_prune_config([f"recipe={recipe}", *fields])
    jobs = [(CONVERT, conversion(checkpoint, config.model, venv))] if checkpoint else []
    for number, limit in enumerate(config.limits, 1):
        upto = ",".join(map(str, config.limits[:number]))
        # The same folder again, with one more limit: what is done there stays.
        words = [*(f for f in fields if not f.startswith("limits=")), f"limits={upto}"]
        jobs.append((f"round_{number}_limit_{limit}", task(recipe, words, venv, local)))
        if test:
            own = [f"model={config.out}/model", f"out={config.out}-test/round_{number}"]
            jobs.append((f"evaluate_{number}", evaluation([*test, *own], venv, local)))
    return jobs


# Commands: `nemorun megaprune ...`, and the files recipes/MODEL.py.


@run.cli.entrypoint(namespace="megaprune", type="experiment")
def launch(
    ctx: run.cli.RunContext,
    recipe: str = "qwq_32b",
    fields: str = "",
    test: str = "",
    checkpoint: str = "",
    venv: str = ".venv",
):
    """Submit a recipe; a pruning is one job, or with `test` a chain of jobs, one a round.

    Args:
        ctx: NeMo-Run's, of this command.
        recipe: its name.
        fields: key=value of it, with spaces between them.
        test: fields of evaluations after each round.
        checkpoint: to convert first.
        venv: with megaprune in it, where the jobs run.
    """
    ctx.executor = ctx.executor or fiddle.build(local())
    here = not isinstance(ctx.executor, run.SlurmExecutor)
    if not here:
        check_parallelism(
            recipe, fields.split(), ctx.executor.nodes, ctx.executor.gpus_per_node or 0
        )
    jobs = jobs_of(recipe, fields.split(), test.split(), checkpoint, venv, here)
    with run.Experiment(recipe) as experiment:
        add(experiment, jobs, ctx.executor, ctx.dryrun)
        ctx.launch(experiment)


@run.cli.factory(target=launch)
def qwq_32b_prune() -> run.Partial:
    """Prune QwQ-32B on 4 x 8 GPUs."""
    return run.Partial(launch, recipe="qwq_32b")


@run.cli.factory(target=launch)
def r1_distill_qwen_1_5b_prune() -> run.Partial:
    """Prune DeepSeek-R1-Distill-Qwen-1.5B on 2 x 8 GPUs."""
    return run.Partial(launch, recipe="r1_distill_qwen_1_5b")


@run.cli.factory(target=launch)
def deepscaler_1_5b_prune() -> run.Partial:
    """Prune DeepScaleR-1.5B-Preview on 2 x 8 GPUs."""
    return run.Partial(launch, recipe="deepscaler_1_5b")


@run.cli.factory(target=launch)
def qwq_32b_evaluate() -> run.Partial:
    """Evaluate the pruned QwQ-32B on AIME 2024."""
    return run.Partial(launch, recipe="qwq_32b_test")


@run.cli.factory(target=launch)
def r1_distill_qwen_1_5b_evaluate() -> run.Partial:
    """Evaluate the pruned DeepSeek-R1-Distill-Qwen-1.5B on AIME 2024."""
    return run.Partial(launch, recipe="r1_distill_qwen_1_5b_test")


@run.cli.factory(target=launch)
def marco_o1_7b_harmonize() -> run.Partial:
    """Harmonize Marco-o1 on 8 GPUs."""
    return run.Partial(launch, recipe="marco_o1_7b_harmonize")


@run.cli.factory(target=launch)
def qwq_32b_preview_harmonize() -> run.Partial:
    """Harmonize QwQ-32B-Preview on 8 GPUs, whose last 48 layers are trained."""
    return run.Partial(launch, recipe="qwq_32b_preview_harmonize")


@run.cli.factory(target=launch)
def tiny_overthinker() -> run.Partial:
    """Prune the tiny overthinker, on any laptop or node."""
    return run.Partial(launch, recipe="tiny_overthinker")


@run.cli.entrypoint(namespace="megaprune", type="experiment")
def convert(ctx: run.cli.RunContext, megatron: str, out: str, venv: str = ".venv"):
    """Make a Hugging Face folder of a Megatron checkpoint.

    Args:
        ctx: NeMo-Run's, of this command.
        megatron, out: folders.
        venv: with megaprune in it, where the job runs.
    """
    ctx.executor = ctx.executor or fiddle.build(local())
    with run.Experiment("convert") as experiment:
        jobs = [(CONVERT, conversion(megatron, out, venv))]
        add(experiment, jobs, ctx.executor, ctx.dryrun)
        ctx.launch(experiment)


def jobs_of(
    recipe: str, fields: Sequence[str], test: Sequence[str], checkpoint: str, venv: str, local: bool
) -> list[tuple[str, run.Script]]:
    """List one job, or those of `rounds` where something comes before or between.

    Raises:
        InputError: something is to come between the rounds of what is no pruning.
    """
    if (test or checkpoint) and isinstance(read_recipe(recipe), PruneConfig):
        return rounds(recipe, fields, test, checkpoint, venv, local)
    if test:
        raise InputError(
            f"evaluations between rounds (test) are of a pruning, and {recipe} is none; a "
            f"harmonizing measures its model itself, on the sets of test.data"
        )
    _, config = _checked(recipe, fields)
    before = [(CONVERT, conversion(checkpoint, config.model, venv))] if checkpoint else []
    return [*before, (recipe, task(recipe, fields, venv, local))]


def nodes_of(recipe: str, per_node: int) -> int:
    """Return how many nodes of so many GPUs a recipe is for; 1 if it does not say."""
    return -(-(gpus_of_recipe([f"recipe={recipe}"]) or 1) // max(per_node, 1))


def add(
    experiment: run.Experiment,
    jobs: Sequence[tuple[str, run.Script]],
    executor: run.Executor,
    show: bool = False,
) -> None:
    """Add jobs of which each begins when the one before has done well.

    Args:
        show: print their scripts: of a dry run NeMo-Run shows only what starts them.
    """
    before: list[str] = []
    for name, job in jobs:
        if show:
            print(f"# {name}\n{job.inline}")
        own = executor.clone()
        if name == CONVERT:
            own.nodes = 1  # once, not on each node
        before = [experiment.add(job, own, name, dependencies=before)]


def add_executor_options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `slurm`, but for its nodes, as options."""
    for name, kind, default in (
        ("account", str, ""), ("partition", str, ""), ("gpus-per-node", int, 8),
        ("time", str, "24:00:00"), ("image", str, ""), ("mounts", str, ""), ("hf-home", str, ""),
        ("logs", str, "logs"), ("restarts", int, 20),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=kind, default=default, help="of slurm()")


def main(recipe: str, arguments: Sequence[str] | None = None) -> int:
    """Submit a recipe; the exit status is 0 if all jobs did well, or were only to be submitted."""
    parser = argparse.ArgumentParser(description=f"Submit {recipe} with NeMo-Run.")
    parser.add_argument("fields", nargs="*", metavar="key=value", help="fields of the recipe")
    parser.add_argument("--dryrun", action="store_true", help="show what would be submitted")
    parser.add_argument("--detach", action="store_true", help="do not wait for the jobs")
    parser.add_argument("--local", action="store_true", help="on this host instead of Slurm")
    parser.add_argument("--test", default="", metavar="FIELDS", help="evaluate after each round")
    parser.add_argument("--checkpoint", default="", metavar="DIR", help="convert this first")
    parser.add_argument("--venv", default=".venv", help="with megaprune, where jobs run")
    parser.add_argument("--nodes", type=int, help="default: the recipe's GPUs, 8 on a node")
    add_executor_options(parser)
    options = vars(parser.parse_intermixed_args(arguments))
    dryrun, detach, is_local = (options.pop(name) for name in ("dryrun", "detach", "local"))
    fields, test = options.pop("fields"), options.pop("test").split()
    checkpoint, venv = options.pop("checkpoint"), options.pop("venv")
    per_node = options["gpus_per_node"]
    options["nodes"] = options["nodes"] or nodes_of(recipe, per_node)
    try:
        _, config = _checked(recipe, fields)
        jobs = jobs_of(recipe, fields, test, checkpoint, venv, is_local)
        if not is_local:
            check_parallelism(recipe, fields, options["nodes"], per_node)
        executor = fiddle.build(local() if is_local else slurm(**options))
    except InputError as error:
        print(f"megaprune: error: {for_people(str(error))}", file=sys.stderr)
        return 1
    with run.Experiment(recipe) as experiment:
        if dryrun:
            print(to_yaml(config))
        add(experiment, jobs, executor, dryrun)
        if dryrun:
            experiment.dryrun()
            return 0
        experiment.run(detach=detach, tail_logs=False)
    if detach:
        return 0
    states = experiment.status(return_dict=True)
    return 0 if all(str(s["status"]) == "SUCCEEDED" for s in states.values()) else 1


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit("expected: python -m megaprune.launch.nemo RECIPE [key=value ...] [--help]")
    sys.exit(main(sys.argv[1], sys.argv[2:]))
