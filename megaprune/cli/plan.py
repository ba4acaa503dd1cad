"""`megaprune plan`: what a run will need, before a GPU is asked for."""

from __future__ import annotations

import argparse
import gc
import json
import sys
from pathlib import Path
from typing import Any

from megaprune.cli.fields import add_field_arguments, read_or_print
from megaprune.planner.hardware import DEFAULT_GPU, GPU_TYPES, HardwareSpec

_MACHINES = {
    "gpus": "in all (default: the recipe's, else processes=, else 8)",
    "gpus_per_node": "on a host",
    "host_memory": "GB of a host; checked if given",
}
_GPU = {
    "gpu_memory": "GB of each GPU (default: as its type is sold)",
    "peak_tflops": "1e12 operations a second of a GPU (default: its type's)",
    "memory_bandwidth": "TB/s of a GPU's memory (default: its type's)",
    "bandwidth": "GB/s of a GPU to others (default: its type's)",
    "node_bandwidth": "GB/s of a GPU in collectives within its node (default: its type's)",
    "pinned_bandwidth": "GB/s of a GPU to its host's page-locked memory (default: its type's)",
}
_ASSUMED = {
    "reserve": "GB of each GPU to be kept free",
    "overhead": "GB of each GPU for CUDA contexts and NCCL",
    "graphs": "GB of each GPU for vLLM's CUDA graphs",
    "host_bandwidth": "GB/s between a GPU and ordinary memory of its host",
    "host_memory_bandwidth": "GB/s that a host's CPUs reach in Adam",
    "mfu": "share of the peak that training reaches while it computes",
    "forward_mfu": "the same of log-probs and prompts",
    "decode_efficiency": "share of the memory bandwidth that decoding reaches",
    "decode_overhead": "seconds of a decoding step besides",
    "all_reduce_seconds": "seconds of an all-reduce besides those of its bytes",
    "mean_length": "of responses, as a share of the limit",
    "mean_prompt": "of prompts, as a share of data.max_prompt_length",
    "validation_problems": "measured on in a validation",
    "training_problems": "that a harmonizing draws responses to",
    "process_memory": "GB of host memory of each process",
}
_WHOLE = ("gpus", "gpus_per_node", "validation_problems", "training_problems")
_MOST = 1e12  # what is more than this, or infinite, was not measured
_SHARES = ("mfu", "forward_mfu", "decode_efficiency", "mean_length", "mean_prompt")
_MAY_BE_ZERO = (
    "reserve", "overhead", "graphs", "decode_overhead", "all_reduce_seconds", "mean_prompt",
    "process_memory",
)  # fmt: skip


def add_parser(commands: Any) -> None:
    """Add `plan`."""
    command = commands.add_parser(
        "plan",
        usage="megaprune plan [key=value ...] [options]",
        help="say whether a run fits, what a step takes and what moves in a sync",
        description="What a run will need: memory of each GPU and host, traffic of a weight sync, "
        "time of a step, and the divisions that are fastest on these GPUs. From a recipe or "
        "from fields alone (model=QwQ-32B actor.tp=8 ...); needs neither weights nor data nor a "
        "GPU. Exit status: 0 it fits, 1 it does not, 2 wrong usage.",
    )
    add_field_arguments(command)
    machines = command.add_argument_group("machines")
    _add_options(machines, _MACHINES)
    gpu = command.add_argument_group("type of GPU, and what overrides its figures")
    gpu.add_argument(
        "--gpu",
        default=DEFAULT_GPU,
        metavar="TYPE",
        help=f"{', '.join(GPU_TYPES)} (default {DEFAULT_GPU})",
    )
    _add_options(gpu, _GPU)
    assumed = command.add_argument_group("assumptions")
    assumed.add_argument(
        "--measured",
        type=Path,
        metavar="FILE",
        help="JSON of these and of a GPU's figures, as they were measured: the plan.json that "
        "benchmarks/gpu_smoke.py writes. Options that are typed too replace them",
    )
    _add_options(assumed, _ASSUMED)
    command.add_argument("--json", action="store_true", help="print all figures as JSON")
    command.set_defaults(run=run_plan)


def _add_options(group: Any, options: dict[str, str]) -> None:
    defaults = HardwareSpec()
    for name, meaning in options.items():
        value = getattr(defaults, name)
        default = "" if value is None or "default" in meaning else f" (default {value:g})"
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=int if name in _WHOLE else float,
            metavar="N",
            help=meaning + default,
        )


def run_plan(options: argparse.Namespace) -> int:
    """Print a plan; 0 if it fits."""
    from megaprune.errors import InputError
    from megaprune.foreign_text import for_people
    from megaprune.planner.request import gpus_of_recipe, plan_kind, read_plan_config
    from megaprune.planner.run_plan import as_json, plan_run, print_plan

    try:
        config = read_or_print(options, plan_kind(options.fields), read_plan_config)
        if config is None:
            return 0
        given = {name: getattr(options, name) for name in (*_MACHINES, *_GPU, *_ASSUMED)}
        given = {name: value for name, value in given.items() if value is not None}
        _check(given)
        if options.measured is not None:
            given = {**_measured(options.measured), **given}
        if "gpus" not in given:
            one_node = given.get("gpus_per_node", HardwareSpec.gpus_per_node)
            given["gpus"] = gpus_of_recipe(options.fields) or config.processes or one_node
        hardware = HardwareSpec.of_type(options.gpu, **given)
        gc.disable()  # plans are many small tuples without cycles: looking for those takes longer
        try:
            plan = plan_run(config, hardware)
        finally:
            gc.enable()
    except InputError as error:  # of what was typed: wrong usage
        if options.json:
            print(json.dumps({"error": for_people(str(error))}))
        print(f"megaprune: error: {for_people(str(error))}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(as_json(plan)))
    else:
        print_plan(plan)
    return 0 if plan.fits else 1


def _measured(path: Path) -> dict[str, float]:
    """Read figures that were measured, by their names in `HardwareSpec`.

    Raises:
        InputError: the file is no JSON object of such figures.
    """
    from megaprune.config.fields import nearest
    from megaprune.errors import InputError
    from megaprune.weights.untrusted import named, read_json_object, shown

    known = [name for name in (*_GPU, *_ASSUMED) if name not in _WHOLE]
    figures = read_json_object(path)
    for name, value in figures.items():
        if name not in known:
            raise InputError(
                f"{path}: {named(name)} is no figure of a plan; {nearest(name, known)}"
            )
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or abs(value) > _MOST:
            raise InputError(f"{path}: {name} is {shown(value)}; expected a number")
    _check(figures, f"{path}: ")
    return figures


def _check(given: dict[str, Any], where: str = "") -> None:
    from megaprune.errors import InputError

    for name, value in given.items():
        flag = f"{where}{name}" if where else f"--{name.replace('_', '-')}"
        if value < 0 or (value == 0 and name not in _MAY_BE_ZERO):
            least = "0 or more" if name in _MAY_BE_ZERO else "more than 0"
            raise InputError(f"{flag} {value:g}; expected {least}")
        if name in _SHARES and value > 1:
            raise InputError(f"{flag} {value:g}; expected a share, 1 at most")
