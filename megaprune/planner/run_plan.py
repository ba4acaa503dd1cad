"""A whole plan: figures, problems, what would do instead; on the terminal, and for programs."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from rich.table import Table
from rich.text import Text

from megaprune.errors import InputError
from megaprune.foreign_text import terminal
from megaprune.planner.division_table import division_table, figures_table, why_fastest
from megaprune.planner.hardware import ELEMENT_BYTES, GB, HardwareSpec
from megaprune.planner.request import AnyPlan, ModelShape, PlanConfig, find_shape, with_steps
from megaprune.planner.search import Division, fastest_divisions, fastest_on_more, problems_of
from megaprune.planner.speed import RoundTime, SyncTraffic, gpu_hours, round_time, sync_traffic
from megaprune.planner.total_memory import (
    EngineMemory,
    GpuMemory,
    engine_memory,
    gpu_memory,
    host_memory,
)
from megaprune.rules import parallelism_problems


@dataclass(frozen=True)
class RunPlan:
    """What a run will need. Figures are None where the ranks do not divide the model.

    Without an engine beside the model, as in a harmonizing that does not validate, `traffic` is
    None, and `gpu` has nothing in the phases "generate" and "sync". `engine` is then the one that
    draws the responses before, or None if they are stored already.

    Args:
        problems: what keeps it from these GPUs; none if it fits.
        notes: what is possible and wastes something.
        host: bytes of the fullest host, by part.
        fastest: the fastest divisions that fit, best first; of more GPUs if none of these does.
    """

    config: AnyPlan
    shape: ModelShape
    hardware: HardwareSpec
    problems: list[str]
    notes: list[str]
    gpu: GpuMemory | None
    engine: EngineMemory | None
    host: dict[str, int] | None
    traffic: SyncTraffic | None
    rounds: list[RoundTime]
    fastest: list[Division]

    @property
    def fits(self) -> bool:
        """Whether it can be run so."""
        return not self.problems

    @property
    def gpu_hours(self) -> float:
        """GPU-hours of all rounds with their validations."""
        return gpu_hours(self.hardware.gpus, self.rounds)

    @property
    def replicas(self) -> int | None:
        """Data-parallel replicas of the actor; None if its ranks do not divide the GPUs."""
        size = self.config.actor.tp * self.config.actor.pp
        return None if self.hardware.gpus % size else self.hardware.gpus // size

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights in the run's dtype."""
        return self.shape.parameters * ELEMENT_BYTES[self.config.dtype]


def plan_run(config: AnyPlan, hardware: HardwareSpec) -> RunPlan:
    """Make the plan of a run.

    Raises:
        InputError: the model is not known, or a harmonizing has too few problems.
    """
    config = with_steps(config, hardware.training_problems)
    shape = find_shape(config.model)
    problems = problems_of(config, shape, hardware)
    fastest = fastest_divisions(config, shape, hardware)
    if not fastest:
        fastest = fastest_on_more(config, shape, hardware)
    figures: dict[str, Any] = dict.fromkeys(("gpu", "engine", "host", "traffic"))
    rounds: list[RoundTime] = []
    if not list(parallelism_problems(config, shape.model, hardware.gpus)):
        try:
            traffic = sync_traffic(config, shape, hardware) if config.engine_beside else None
            sync = 0.0 if traffic is None else traffic.seconds
            figures = {
                "gpu": gpu_memory(config, shape, hardware),
                "engine": engine_memory(config.engines[-1], shape, hardware)
                if config.engines
                else None,
                "host": host_memory(config, shape, hardware),
                "traffic": traffic,
            }
            rounds = [
                round_time(config, shape, hardware, number, sync)
                for number in range(len(config.round_limits))
            ]
        except (InputError, ValueError) as error:
            problems.append(str(error))
    return RunPlan(
        config, shape, hardware, problems, notes_on(config, hardware), **figures, rounds=rounds,
        fastest=fastest,
    )  # fmt: skip


def notes_on(config: AnyPlan, hardware: HardwareSpec) -> list[str]:
    """List what is possible and wastes something."""
    notes = []
    if hardware.gpus % hardware.on_a_node:
        notes.append(f"{hardware.gpus} GPUs are not whole nodes of {hardware.gpus_per_node}")
    if config.actor.tp > hardware.on_a_node:
        notes.append(f"actor.tp={config.actor.tp} crosses nodes, and will be slow")
    engines = hardware.gpus // config.rollout.tp
    if engines and config.prompts % engines:
        notes.append(
            f"{config.prompts} prompts over {engines} engines: some have one more than others"
        )
    samples = config.learned_samples // config.algorithm.num_minibatches
    size = config.actor.tp * config.actor.pp
    if hardware.gpus % size == 0 and samples % (hardware.gpus // size):
        notes.append(
            f"{samples} samples of an update over {hardware.gpus // size} replicas: some have more "
            f"than others"
        )
    if not isinstance(config, PlanConfig):
        problems = config.count_problems(hardware.training_problems)
        notes.append(
            f"of {problems} problems ({config.steps} steps of a round, if no "
            f"response is left out); the test before and after is not counted"
        )
        return notes
    if rounds := config.algorithm.max_resample_rounds:
        notes.append(
            f"with max_resample_rounds={rounds}, generation can take up to {1 + rounds} times as "
            f"long as here"
        )
    return notes


# For programs.


def as_json(run_plan: RunPlan) -> dict[str, Any]:
    """Return all figures, in bytes and seconds, and what they were computed from."""
    config, shape, hardware = run_plan.config, run_plan.shape, run_plan.hardware
    engine = run_plan.engine
    return {
        "fits": run_plan.fits,
        "problems": run_plan.problems,
        "notes": run_plan.notes,
        "model": {
            "name": shape.name,
            "parameters": shape.parameters,
            "bytes": run_plan.weight_bytes,
        }
        | {k: v for k, v in vars(shape.model).items() if k != "family"}
        | {"family": shape.model.family.architecture},
        "gpu_type": hardware.gpu,
        "parallelism": {
            "gpus": hardware.gpus,
            "tp": config.actor.tp,
            "pp": config.actor.pp,
            "dp": run_plan.replicas,
            "engines": hardware.gpus // config.rollout.tp,
            "engine_tp": config.rollout.tp,
        },
        "gpu": None if run_plan.gpu is None else _gpu_json(run_plan.gpu, hardware),
        "engine": engine and {**vars(engine), "cache_tokens": engine.cache_tokens},
        "host": run_plan.host and {**run_plan.host, "total": sum(run_plan.host.values())},
        "sync": run_plan.traffic and _traffic_json(run_plan.traffic),
        "rounds": _rounds_json(run_plan.rounds),
        "gpu_hours": run_plan.gpu_hours if run_plan.rounds else None,
        "fastest": [
            {"gpus": d.gpus, "changes": d.changes, "words": d.words, "peak_bytes": d.peak,
             "gpu_hours": d.gpu_hours, "rounds": _rounds_json(d.rounds)}
            for d in run_plan.fastest
        ],
        "assumed": asdict(hardware),
        "fields": asdict(config),
    }  # fmt: skip


def _rounds_json(rounds: list[RoundTime]) -> list[dict[str, Any]]:
    return [
        {**vars(r), "step_seconds": r.step_seconds, "total_seconds": r.total_seconds}
        for r in rounds
    ]


def _gpu_json(gpu: GpuMemory, hardware: HardwareSpec) -> dict[str, Any]:
    return {
        "stage": gpu.stage,
        "phases": gpu.phases,
        "totals": gpu.totals,
        "peak": gpu.peak,
        "usable": hardware.usable,
        "memory": hardware.gpu_memory * GB,
    }


def _traffic_json(traffic: SyncTraffic) -> dict[str, Any]:
    received = traffic.received
    return {
        "received_mean": traffic.mean,
        "received_max": max(received),
        "received_min": min(received),
        "sent_max": max(traffic.sent),
        "equals_lower_bound": received == traffic.lower_bound,
        "messages": traffic.pairs,
        "rounds": traffic.rounds,
        "permuting": traffic.permuting,
        "seconds": traffic.seconds,
    }


# On the terminal.


def print_plan(run_plan: RunPlan) -> None:
    """Print tables of memory and time, then lines on hosts, sync and cost, then the verdict."""
    console = terminal(highlight=False, soft_wrap=True)
    console.print(_head(run_plan))
    for table in tables_of(run_plan):
        console.print(table)
    for line in (*_host_lines(run_plan), *_sync_lines(run_plan), *_cost_lines(run_plan)):
        console.print(line)
    if run_plan.fastest:
        console.print(division_table(run_plan))
        for line in why_fastest(run_plan):
            console.print(line)
    for note in run_plan.notes:
        console.print(f"note: {note}")
    for problem in run_plan.problems:
        console.print(f"does not fit: {problem}", style="red")
    console.print(_verdict(run_plan), style="bold")


def tables_of(run_plan: RunPlan) -> list[Table]:
    """Return the tables of memory and of time; neither where the ranks do not divide the model."""
    tables = []
    if run_plan.gpu is not None:
        tables.append(_memory_table(run_plan.gpu, run_plan.hardware))
    if run_plan.rounds:
        tables.append(_time_table(run_plan.rounds, run_plan.hardware.gpus))
    return tables


def _head(run_plan: RunPlan) -> str:
    config, hardware, shape = run_plan.config, run_plan.hardware, run_plan.shape
    replicas = "?" if run_plan.replicas is None else run_plan.replicas
    engines, left = divmod(hardware.gpus, config.rollout.tp)
    return (
        f"{shape.name}: {shape.parameters / 1e9:.2f} billion parameters, "
        f"{run_plan.weight_bytes / GB:.2f} GB in {config.dtype}, on {hardware.gpus} GPUs "
        f"({hardware.gpu}) of {hardware.gpu_memory:g} GB\n"
        f"actor TP{config.actor.tp} x PP{config.actor.pp} x DP{replicas}, "
        f"engines {'?' if left else engines} x TP{config.rollout.tp}"
    )


def _memory_table(gpu: GpuMemory, hardware: HardwareSpec) -> Table:
    phases = {phase: parts for phase, parts in gpu.phases.items() if parts}
    table = figures_table(f"GB of a GPU (stage {gpu.stage})", *[f"to {phase}" for phase in phases])
    for name in dict.fromkeys(name for parts in phases.values() for name in parts):
        table.add_row(name, *[_gb(parts.get(name, 0)) for parts in phases.values()])
    table.add_section()
    totals = [gpu.totals[phase] for phase in phases]
    table.add_row("all", *[_gb(total) for total in totals])
    usable = hardware.usable
    left = [(usable - total) / GB for total in totals]
    table.add_row(
        f"left of {usable / GB:g}, after a reserve of {hardware.reserve:g}",
        *[Text(f"{value:.2f}", "red" if value < 0 else "") for value in left],
    )
    return table


def _gb(value: int) -> str:
    return f"{value / GB:.2f}" if value else ""


def _time_table(rounds: list[RoundTime], gpus: int) -> Table:
    table = figures_table("seconds of a step", *[f"limit {r.limit}" for r in rounds])
    for name in (name for name in rounds[0].seconds if any(r.seconds[name] for r in rounds)):
        table.add_row(name, *[_seconds(r.seconds[name]) for r in rounds])
    table.add_section()
    rows: dict[str, Callable[[RoundTime], str]] = {
        "all": lambda r: _seconds(r.step_seconds),
        "responses decoded at once": lambda r: f"{r.sequences}",
        "tokens of responses": lambda r: f"{r.tokens / 1e6:.2f} M",
        "tokens / s / GPU": lambda r: f"{r.tokens / r.step_seconds / gpus:.0f}",
        "hours of the round": lambda r: f"{r.total_seconds / 3600:.1f}",
        "of them validation": lambda r: f"{r.validation_seconds / 3600:.1f}",
        **{f"of them {part}": partial(_hours_before, part) for part in rounds[0].before},
    }
    for name, cell in rows.items():
        table.add_row(name, *[cell(r) for r in rounds])
    return table


def _hours_before(part: str, time: RoundTime) -> str:
    return f"{time.before[part] / 3600:.1f}"


def _seconds(value: float) -> str:
    return f"{value:.1f}" if value >= 0.05 or not value else f"{value:.3f}"


def _host_lines(run_plan: RunPlan) -> list[str]:
    if run_plan.host is None:
        return []
    parts = ", ".join(f"{name} {size / GB:.0f}" for name, size in run_plan.host.items() if size)
    whole = sum(run_plan.host.values()) / GB
    return textwrap.wrap(f"host memory: {whole:.0f} GB of a node ({parts})", 100)


def _sync_lines(run_plan: RunPlan) -> list[str]:
    traffic, hardware = run_plan.traffic, run_plan.hardware
    if traffic is None:
        return []
    if not traffic.pairs:
        return [f"sync: nothing moves between GPUs; {traffic.seconds:.2f} s of local copies"]
    senders = traffic.pairs / hardware.gpus
    bound = "the lower bound" if traffic.received == traffic.lower_bound else "NOT the lower bound"
    return [
        f"sync: {traffic.mean / GB:.3f} GB to a GPU (at most {max(traffic.received) / GB:.3f}), "
        f"{bound}, from {senders:g} GPU{'s' * (senders != 1)}; {traffic.seconds:.2f} s at "
        f"{hardware.bandwidth:g} GB/s"
    ]


def _cost_lines(run_plan: RunPlan) -> list[str]:
    if not run_plan.rounds:
        return []
    hardware = run_plan.hardware
    return [
        f"cost: {run_plan.gpu_hours:.0f} GPU-hours, if responses have {hardware.mean_length:g} of "
        f"the limit and training reaches {hardware.mfu:.0%} of the peak"
    ]


def _verdict(run_plan: RunPlan) -> str:
    if run_plan.fits:
        return "fits"
    if not run_plan.fastest:
        return "does not fit, nor does any division on up to 64 nodes"
    best, gpus = run_plan.fastest[0], run_plan.hardware.gpus
    peak = f"{best.peak / GB:.1f} GB of a GPU at most"
    if best.gpus == gpus:
        return f"would fit, and be fastest: {best.words} ({peak})"
    words = f" {best.words}" if best.changes else ""
    return f"would fit on {best.gpus} GPUs, and be fastest: --gpus {best.gpus}{words} ({peak})"
