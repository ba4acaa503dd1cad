"""Plans: what a run will need, before a GPU is asked for; formulas, neither weights nor torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from megaprune.config.run import Config
    from megaprune.planner.run_plan import RunPlan


def plan(config: Config, *, gpu: str = "h100", **hardware: Any) -> RunPlan:
    """Plan a run, a pruning or a harmonizing, as `megaprune plan` does.

    Args:
        config: the fields of it.
        gpu: type of the GPUs, a name in `hardware.GPU_TYPES`.
        hardware: other fields of `hardware.HardwareSpec`, as gpus=32; the figures of the type are
            overridden by those given.

    Raises:
        InputError: the model or the type of GPU is not known.
    """
    from megaprune.planner.hardware import HardwareSpec
    from megaprune.planner.request import plan_of
    from megaprune.planner.run_plan import plan_run

    if config.processes is not None:
        hardware.setdefault("gpus", config.processes)
    return plan_run(plan_of(config), HardwareSpec.of_type(gpu, **hardware))
