"""A plan on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from megaprune.planner.machine import ELEMENT_BYTES, GB
from megaprune.planner.outcome import Outcome
from megaprune.planner.timing import Round


def show(outcome: Outcome) -> None:
    """Print it."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(_head(outcome))
    for table in (_memory(outcome), _time(outcome)):
        if table is not None:
            console.print(table)
    for line in (*_host(outcome), *_sync(outcome), *_cost(outcome)):
        console.print(line, markup=False)
    for note in outcome.notes:
        console.print(f"note: {note}", markup=False)
    for problem in outcome.problems:
        console.print(f"does not fit: {problem}", style="red", markup=False)
    console.print(_verdict(outcome), style="bold", markup=False)


def _head(outcome: Outcome) -> str:
    config, machine, shape = outcome.config, outcome.machine, outcome.shape
    actor, size = config.actor, config.actor.tp * config.actor.pp
    replicas = f"DP{machine.gpus // size}" if machine.gpus % size == 0 else "DP?"
    weights = shape.parameters * ELEMENT_BYTES[config.dtype] / GB
    engines, left = divmod(machine.gpus, config.rollout.tp)
    return (
        f"{shape.name}: {shape.parameters / 1e9:.2f} billion parameters, {weights:.2f} GB in "
        f"{config.dtype}, on {machine.gpus} GPUs of {machine.gpu_memory:g} GB\n"
        f"actor TP{actor.tp} x PP{actor.pp} x {replicas}, "
        f"engines {'?' if left else engines} x TP{config.rollout.tp}"
    )


def _memory(outcome: Outcome) -> Table | None:
    gpu = outcome.gpu
    if gpu is None:
        return None
    table = Table(f"GB of a GPU (stage {gpu.stage})", *[f"to {phase}" for phase in gpu.phases])
    for column in table.columns[1:]:
        column.justify = "right"
    names = dict.fromkeys(name for parts in gpu.phases.values() for name in parts)
    for name in names:
        table.add_row(name, *[_gb(parts.get(name, 0)) for parts in gpu.phases.values()])
    table.add_section()
    table.add_row("all", *[_gb(total) for total in gpu.totals.values()])
    usable = outcome.machine.usable
    left = [(usable - total) / GB for total in gpu.totals.values()]
    table.add_row(
        f"left of {usable / GB:g}, after a reserve of {outcome.machine.reserve:g}",
        *[f"[red]{value:.2f}[/]" if value < 0 else f"{value:.2f}" for value in left],
    )
    return table


def _gb(value: int) -> str:
    return f"{value / GB:.2f}" if value else ""


def _time(outcome: Outcome) -> Table | None:
    rounds = outcome.rounds
    if not rounds:
        return None
    table = Table("seconds of a step", *[f"limit {one.limit}" for one in rounds])
    for column in table.columns[1:]:
        column.justify = "right"
    for name in rounds[0].seconds:
        table.add_row(name, *[_seconds(one.seconds[name]) for one in rounds])
    table.add_section()
    table.add_row("all", *[_seconds(one.step_seconds) for one in rounds])
    gpus = outcome.machine.gpus
    rows = {
        "responses decoded at once": lambda one: f"{one.sequences}",
        "tokens of responses": lambda one: f"{one.tokens / 1e6:.2f} M",
        "tokens / s / GPU": lambda one: f"{one.tokens / one.step_seconds / gpus:.0f}",
        "hours of the round": lambda one: f"{one.total_seconds / 3600:.1f}",
        "of them validation": lambda one: f"{one.validation_seconds / 3600:.1f}",
    }
    for name, of in rows.items():
        table.add_row(name, *[_cell(of, one) for one in rounds])
    return table


def _cell(of: object, one: Round) -> str:
    assert callable(of)
    return str(of(one))


def _seconds(value: float) -> str:
    return f"{value:.1f}" if value >= 0.05 or not value else f"{value:.3f}"


def _host(outcome: Outcome) -> list[str]:
    if outcome.host is None:
        return []
    parts = ", ".join(f"{name} {size / GB:.0f}" for name, size in outcome.host.items() if size)
    return [f"host memory: {sum(outcome.host.values()) / GB:.0f} GB of a node ({parts})"]


def _sync(outcome: Outcome) -> list[str]:
    traffic, machine = outcome.traffic, outcome.machine
    if traffic is None:
        return []
    if not traffic.pairs:
        return [f"sync: nothing moves between GPUs; {traffic.seconds:.2f} s of local copies"]
    senders = traffic.pairs / machine.gpus
    bound = "the lower bound" if traffic.received == traffic.lower_bound else "NOT the lower bound"
    return [
        f"sync: {traffic.mean / GB:.3f} GB to a GPU (at most {max(traffic.received) / GB:.3f}), "
        f"{bound}, from {senders:g} GPU{'s' * (senders != 1)}; {traffic.seconds:.2f} s at "
        f"{machine.bandwidth:g} GB/s"
    ]


def _cost(outcome: Outcome) -> list[str]:
    if not outcome.rounds:
        return []
    machine = outcome.machine
    return [
        f"cost: {outcome.gpu_hours:.0f} GPU-hours, if responses have {machine.mean_length:g} of "
        f"the limit and training reaches {machine.mfu:.0%} of the peak"
    ]


def _verdict(outcome: Outcome) -> str:
    if outcome.fits:
        return "fits"
    nearest, gpus = outcome.nearest, outcome.machine.gpus
    if nearest is None:
        return "does not fit, nor does anything near it on up to 64 nodes"
    peak = f"{nearest.peak / GB:.1f} GB of a GPU at most"
    if nearest.gpus == gpus:
        return f"would fit: {nearest.words} ({peak})"
    words = f" {nearest.words}" if nearest.changes else ""
    return f"would fit on {nearest.gpus} GPUs: --gpus {nearest.gpus}{words} ({peak})"
