"""The fastest divisions as a table, and in words why they are so."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from rich.table import Table

from megaprune.planner.hardware import GB

if TYPE_CHECKING:
    from megaprune.planner.request import AnyPlan
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
    limit, gpus = run_plan.config.round_limits[0], run_plan.fastest[0].gpus
    table = figures_table(
        f"fastest on {gpus} GPUs",
        "recomp.", "offload", "generate", "logp", "train", "step", "GPU-h", "GB",
    )  # fmt: skip
    caption = (
        f"actor, engines; seconds of a step under the limit of {limit}; GPU-hours of all rounds"
    )
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
    config: AnyPlan, first: RoundTime, gpu_hours: float, peak: int, mark: str = ""
) -> list[str]:
    actor = config.actor
    virtual = f" VPP{actor.vpp}" if actor.vpp > 1 else ""
    name = f"TP{actor.tp} PP{actor.pp}{virtual}, TP{config.rollout.tp}"
    seconds = first.seconds
    shown = ("generate", "reference and old log-probs", "train")
    return [
        f"{name} {mark}".strip(),
        actor.recompute.replace("core_attention", "core"),
        config.offload.replace("optimizer", "optim."),
        *[f"{seconds[phase]:.0f}" for phase in shown],
        f"{first.step_seconds:.0f}",
        f"{gpu_hours:.0f}",
        f"{peak / GB:.0f}",
    ]


def why_fastest(run_plan: RunPlan) -> list[str]:
    """Say what makes the fastest division faster than the fields as given, and what to type."""
    best = run_plan.fastest[0]
    same_gpus = best.gpus == run_plan.hardware.gpus
    if not best.changes and same_gpus:
        return ["no division is faster than the fields as given"]
    words = [] if same_gpus else [f"--gpus {best.gpus}"]
    words += [best.words] if best.changes else []
    if not same_gpus or not run_plan.rounds:
        return ["fastest, with", *_lines(" ".join(words))]
    given, new = run_plan.rounds[0], best.rounds[0]
    saved = {
        "to generate": given.seconds["generate"] - new.seconds["generate"],
        "for collectives": given.collectives - new.collectives,
        "in bubbles": given.bubbles - new.bubbles,
        "to compute": _computing(given) - _computing(new),
    }
    parts = [
        f"{_less(seconds)} {where}"
        for where, seconds in sorted(saved.items(), key=lambda part: -abs(part[1]))
        if abs(seconds) >= 0.5
    ]
    step = _less(given.step_seconds - new.step_seconds)
    why = f" ({', '.join(parts)})" if parts else ""
    return [*_lines(f"fastest: a step takes {step}{why}, with"), *_lines(" ".join(words))]


def _lines(text: str) -> list[str]:
    """Break a text into lines of at most 100 characters."""
    return textwrap.wrap(text, 100, break_long_words=False, break_on_hyphens=False)


def _computing(time: RoundTime) -> float:
    """Return the seconds of a step in which the actor computes."""
    passes = time.seconds["reference and old log-probs"] + time.seconds["train"]
    return passes - time.collectives - time.bubbles


def _less(seconds: float) -> str:
    return f"{abs(seconds):.0f} s {'less' if seconds > 0 else 'more'}"
