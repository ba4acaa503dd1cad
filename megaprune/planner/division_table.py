"""The fastest divisions as a table, and in words why they are so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from megaprune.planner.hardware import GB

if TYPE_CHECKING:
    from megaprune.planner.request import PlanConfig
    from megaprune.planner.run_plan import RunPlan
    from megaprune.planner.speed import RoundTime


def figures_table(first: str, *others: str) -> Table:
    """Make a table of figures, with words in its first column."""
    table = Table(first, *others)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def division_table(run_plan: RunPlan) -> Table:
    """Show the fields as given, if they divide the model, and the fastest divisions below."""
    limit, gpus = run_plan.config.rounds[0], run_plan.fastest[0].gpus
    table = figures_table(
        f"fastest on {gpus} GPUs",
        "recompute", "generate", "log-probs", "train", "step", "GPU-hours", "GB",
    )  # fmt: skip
    caption = f"seconds of a step under the limit of {limit}; hours of all rounds"
    if run_plan.rounds and run_plan.gpu is not None:
        caption = f"* as given{'' if run_plan.fits else ', does not fit'}; {caption}"
        given = run_plan.config, run_plan.rounds[0], run_plan.gpu_hours, run_plan.gpu.peak
        table.add_row(*_cells(*given, "*"), style=None if run_plan.fits else "red")
        table.add_section()
    for d in run_plan.fastest:
        table.add_row(*_cells(d.config, d.rounds[0], d.gpu_hours, d.peak))
    table.caption = caption
    table.caption_justify = "left"
    return table


def _cells(
    config: PlanConfig, first: RoundTime, gpu_hours: float, peak: int, mark: str = ""
) -> list[str]:
    actor = config.actor
    virtual = f" VPP{actor.vpp}" if actor.vpp > 1 else ""
    name = f"TP{actor.tp} PP{actor.pp}{virtual}, engine TP{config.rollout.tp}"
    seconds = first.seconds
    shown = ("generate", "reference and old log-probs", "train")
    return [
        f"{name} {mark}".strip(),
        actor.recompute.replace("core_attention", "core"),
        *[f"{seconds[phase]:.0f}" for phase in shown],
        f"{first.step_seconds:.0f}",
        f"{gpu_hours:.0f}",
        f"{peak / GB:.0f}",
    ]


def why_fastest(run_plan: RunPlan) -> str:
    """Say what makes the fastest division faster than the fields as given, and how to get it."""
    best = run_plan.fastest[0]
    if not best.changes and best.gpus == run_plan.hardware.gpus:
        return "no division is faster than the fields as given"
    words = f"fastest: {best.words}" if best.changes else "fastest: as given"
    if best.gpus != run_plan.hardware.gpus:
        words = f"{words}, with --gpus {best.gpus}"
    if not run_plan.rounds or best.gpus != run_plan.hardware.gpus:
        return words
    given, new = run_plan.rounds[0], best.rounds[0]
    passes = ("reference and old log-probs", "train")
    parts = {
        "to generate": (given.seconds["generate"], new.seconds["generate"]),
        "for collectives": (given.collectives, new.collectives),
        "in bubbles": (given.bubbles, new.bubbles),
        "to compute": tuple(
            sum(r.seconds[phase] for phase in passes) - r.collectives - r.bubbles
            for r in (given, new)
        ),
    }
    changed = sorted(
        ((old - now, where) for where, (old, now) in parts.items()), key=lambda c: -abs(c[0])
    )
    said = [
        f"{abs(seconds):.0f} s {'less' if seconds > 0 else 'more'} {where}"
        for seconds, where in changed
        if abs(seconds) >= 0.5
    ]
    saved = given.step_seconds - new.step_seconds
    step = f"a step takes {abs(saved):.0f} s {'less' if saved > 0 else 'more'}"
    return f"{words}: {step}" + (f" ({', '.join(said)})" if said else "")
