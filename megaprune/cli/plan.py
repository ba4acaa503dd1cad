"""`megaprune plan`."""

from __future__ import annotations

import argparse
import gc
import json
import sys
from dataclasses import fields
from typing import Any

from megaprune.planner.machine import Machine

_OPTIONS = {
    "gpus": "in all (default: the recipe's, else processes=, else 8)",
    "gpus_per_node": "on a host",
    "gpu_memory": "GB of each GPU",
    "reserve": "GB of each GPU to be kept free",
    "overhead": "GB of each GPU for CUDA contexts and NCCL",
    "graphs": "GB of each GPU for vLLM's CUDA graphs",
    "host_memory": "GB of a host; checked if given",
    "bandwidth": "GB/s of a GPU to others",
    "host_bandwidth": "GB/s between a GPU and its host",
    "peak_tflops": "of a GPU (default: an H100's)",
    "memory_bandwidth": "TB/s of a GPU's memory",
    "mfu": "share of the peak that training reaches",
    "forward_mfu": "the same of log-probs and prompts",
    "decode_efficiency": "share of the memory bandwidth that decoding reaches",
    "decode_overhead": "seconds of a decoding step besides",
    "mean_length": "of responses, as a share of the limit",
    "mean_prompt": "of prompts, as a share of data.max_prompt_length",
    "validation_problems": "measured on in a validation",
    "process_memory": "GB of host memory of each process",
}
_SHARES = ("mfu", "forward_mfu", "decode_efficiency", "mean_length", "mean_prompt")
_MAY_BE_ZERO = ("reserve", "overhead", "graphs", "decode_overhead", "mean_prompt", "process_memory")


def add_parser(commands: Any) -> None:
    """Add `plan`."""
    command = commands.add_parser(
        "plan",
        help="say whether a run fits, what a step takes and what moves in a sync",
        description="What a run will need: memory of each GPU and host, traffic of a weight sync, "
        "time of a step; if it does not fit, the nearest division that does. From a recipe or "
        "from fields alone (model=QwQ-32B actor.tp=8 ...); needs neither weights nor data nor a "
        "GPU. Exit status: 0 it fits, 1 it does not, 2 wrong usage.",
    )
    command.add_argument(
        "fields",
        nargs="*",
        metavar="key=value",
        help="recipe=NAME (or a YAML file), then any field that --print-config shows",
    )
    command.add_argument(
        "--print-config", action="store_true", help="print the fields as YAML, and end"
    )
    blank = Machine()
    for name, said in _OPTIONS.items():
        value = getattr(blank, name)
        default = "" if value is None or "default" in said else f" (default {value:g})"
        whole = name in ("gpus", "gpus_per_node", "validation_problems")
        command.add_argument(
            f"--{name.replace('_', '-')}",
            type=int if whole else float,
            metavar="N",
            help=said + default,
        )
    command.add_argument("--json", action="store_true", help="print all figures as JSON")
    command.set_defaults(run=run_plan)


def run_plan(options: argparse.Namespace) -> int:
    """Print a plan; 0 if it fits."""
    from megaprune.config.read import to_yaml
    from megaprune.errors import InputError
    from megaprune.planner.outcome import as_json, outcome_of
    from megaprune.planner.show import show
    from megaprune.planner.subject import gpus_of_recipe, read_plan_config

    try:
        config = read_plan_config(options.fields)
        if options.print_config:
            print(to_yaml(config), end="")
            return 0
        given = {name: getattr(options, name) for name in _OPTIONS}
        given = {name: value for name, value in given.items() if value is not None}
        if "gpus" not in given:
            here = given.get("gpus_per_node", Machine.gpus_per_node)
            given["gpus"] = gpus_of_recipe(options.fields) or config.processes or here
        _check(given)
        gc.disable()  # plans are many small tuples without cycles: looking for those takes longer
        try:
            outcome = outcome_of(config, Machine(**given))
        finally:
            gc.enable()
    except InputError as error:  # of what was typed: wrong usage
        if options.json:
            print(json.dumps({"error": str(error)}))
        print(f"megaprune: error: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(as_json(outcome)))
    else:
        show(outcome)
    return 0 if outcome.fits else 1


def _check(given: dict[str, Any]) -> None:
    from megaprune.errors import InputError

    for one in fields(Machine):
        value = given.get(one.name)
        if value is None:
            continue
        flag = f"--{one.name.replace('_', '-')}"
        if value < 0 or (value == 0 and one.name not in _MAY_BE_ZERO):
            least = "0 or more" if one.name in _MAY_BE_ZERO else "more than 0"
            raise InputError(f"{flag} {value:g}; expected {least}")
        if one.name in _SHARES and value > 1:
            raise InputError(f"{flag} {value:g}; expected a share, 1 at most")
