"""The nearest parallelism that fits, where the one that was asked for does not."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from megaprune.config.read import read_recipe
from megaprune.errors import InputError
from megaprune.evaluation.config import EvaluateConfig
from megaprune.foreign_text import for_people
from megaprune.planner.actor_memory import POOL, actor_phases
from megaprune.planner.hardware import HardwareSpec
from megaprune.planner.request import ModelShape, PlanConfig, find_shape, read_plan_config
from megaprune.planner.total_memory import (
    PHASES,
    engine_memory,
    engine_phases,
    gpu_memory,
    memory_problems,
)
from megaprune.rules import (
    context_problems,
    frozen_problems,
    node_problems,
    parallelism_problems,
    training_problems,
)

_MOST_NODES = 64
_TRIED = 500  # candidates whose GPUs suffice, where the memory of a host may not
_SHARES = [round(0.05 * step, 2) for step in range(2, 20)]
_PARALLELISM_WEIGHT = 3  # steps of another field, that a step of tp or pp counts for


@dataclass(frozen=True)
class NearestFit:
    """A parallelism that fits.

    Args:
        gpus: how many GPUs it is for.
        changes: fields that differ, by name.
        config: the fields with these changes.
        peak: bytes of a GPU in its fullest phase.
    """

    gpus: int
    changes: dict[str, Any]
    config: PlanConfig
    peak: int

    @property
    def words(self) -> str:
        """The changes, as they are typed."""
        return " ".join(f"{name}={_typed(value)}" for name, value in self.changes.items())


def problems_of(config: PlanConfig, shape: ModelShape, hardware: HardwareSpec) -> list[str]:
    """List all that keeps a run from these GPUs; memory is asked only if the ranks divide."""
    indivisible = list(parallelism_problems(config, shape.model, hardware.gpus))
    problems = indivisible + field_problems(config, shape, hardware)
    return problems if indivisible else problems + memory_problems(config, shape, hardware)


def field_problems(config: PlanConfig, shape: ModelShape, hardware: HardwareSpec) -> list[str]:
    """List what cannot be although it divides: each would end a run, some of them late."""
    return [
        *context_problems(config, shape.context),
        *training_problems(config),
        *frozen_problems(config, shape.model),
        *node_problems(config.rollout.tp, hardware.on_a_node),
    ]


def nearest_fit(config: PlanConfig, shape: ModelShape, hardware: HardwareSpec) -> NearestFit | None:
    """Return the parallelism for as many GPUs that fits and differs in the fewest fields.

    Of those, the one with the smallest steps away (each field has a ladder of values; a step of tp
    or pp counts for three), then the one that takes least memory. With another number of stages,
    virtual and uneven ones are given up.
    """
    if list(context_problems(config, shape.context)):
        return None
    actors = list(_actor_candidates(config, shape, hardware))
    engines = list(_engine_candidates(config, shape, hardware))
    pairs = []
    for actor in actors:
        for engine in engines:
            peak = _peak(actor, engine)
            if peak <= hardware.usable:
                changed = len(actor.changes) + len(engine.changes)
                pairs.append((changed, actor.far + engine.far, peak, actor, engine))
    for _, _, _, actor, engine in sorted(pairs, key=lambda pair: pair[:3])[:_TRIED]:
        changes = actor.changes | engine.changes
        changed_config = _with(config, changes)
        if not problems_of(changed_config, shape, hardware):
            peak = gpu_memory(changed_config, shape, hardware).peak
            return NearestFit(hardware.gpus, changes, changed_config, peak)
    return None


def nearest_fit_on_more(
    config: PlanConfig, shape: ModelShape, hardware: HardwareSpec
) -> NearestFit | None:
    """Return the nearest fit on one node, on twice as many, and so on; on 64 at most.

    Only on more GPUs than there are.
    """
    gpus = hardware.on_a_node
    while gpus <= hardware.gpus:
        gpus *= 2
    while gpus <= _MOST_NODES * hardware.gpus_per_node:
        if fit := nearest_fit(config, shape, replace(hardware, gpus=gpus)):
            return fit
        gpus *= 2
    return None


@dataclass(frozen=True)
class _Candidate:
    """A choice of the fields of one side, actor or engine.

    Args:
        changes: fields that differ, by name.
        far: steps away, all together.
        bytes: what it takes of the worst rank's GPU, by phase, torch's pool left out.
        pool: what it takes of that, to generate.
    """

    changes: dict[str, Any]
    far: int
    bytes: dict[str, int]
    pool: int


def _candidate(
    changes: dict[str, Any], far: int, stages: list[dict[str, dict[str, int]]]
) -> _Candidate:
    totals = [
        {phase: sum(size for name, size in parts.items() if name != POOL)
         for phase, parts in stage.items()}
        for stage in stages
    ]  # fmt: skip
    worst = {phase: max(total[phase] for total in totals) for phase in PHASES}
    pool = max(stage["generate"][POOL] for stage in stages)
    return _Candidate(changes, far, worst, pool)


def _peak(actor: _Candidate, engine: _Candidate) -> int:
    """Count the bytes of the fullest phase: as `gpu_memory`, or a little more, as stages differ."""
    both = {phase: actor.bytes[phase] + engine.bytes[phase] for phase in PHASES}
    both["generate"] += max(actor.pool, engine.pool)
    return max(both.values())


def _actor_candidates(
    config: PlanConfig, shape: ModelShape, hardware: HardwareSpec
) -> Iterator[_Candidate]:
    """Yield the ways to divide the model in training that are possible."""
    need = -(-config.longest_trained // 1024) * 1024
    sizes = {need, tokens := config.actor.max_tokens}
    while (tokens := tokens // 2) >= need:
        sizes.add(tokens)
    ladders: dict[str, list[Any]] = {
        "actor.tp": _powers(hardware.on_a_node),
        "actor.pp": [n for n in range(1, hardware.gpus + 1) if hardware.gpus % n == 0],
        "actor.recompute": ["none", "core_attention", "full"],
        "actor.sequence_parallel": [False, True],
        "actor.max_tokens": sorted(sizes),
        "optimizer.distributed": [False, True],
    }
    for changes, far in _choices(config, ladders):
        if "actor.pp" in changes:
            changes |= _even_stages(config)
        changed = _with(config, changes)
        if [*training_problems(changed), *frozen_problems(changed, shape.model)]:
            continue
        try:
            stages = actor_phases(changed, shape, hardware)
        except (InputError, ValueError):
            continue
        yield _candidate(changes, far, stages)


def _engine_candidates(
    config: PlanConfig, shape: ModelShape, hardware: HardwareSpec
) -> Iterator[_Candidate]:
    """Yield the engines that are possible and hold the longest sequence."""
    ladders: dict[str, list[Any]] = {"rollout.tp": _powers(hardware.on_a_node)}
    if config.rollout.kv_cache_memory_bytes is None:
        ladders["rollout.gpu_memory_utilization"] = _SHARES
    for changes, far in _choices(config, ladders):
        changed = _with(config, changes)
        if hardware.gpus % changed.rollout.tp or changed.rollout.tp > hardware.on_a_node:
            continue
        try:
            engine = engine_memory(changed, shape, hardware)
        except ValueError:
            continue
        if engine.cache_tokens >= config.longest:
            yield _candidate(changes, far, [engine_phases(engine)])


def _choices(
    config: PlanConfig, ladders: Mapping[str, list[Any]]
) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield all combinations of values, as what differs and how far that is."""
    rungs = []
    for name, ladder in ladders.items():
        now = _get(config, name)
        steps = sorted({*ladder, now}, key=ladder.index if now in ladder else None)
        weight = _PARALLELISM_WEIGHT if name.endswith((".tp", ".pp")) else 1
        rungs.append([(value, weight * abs(i - steps.index(now))) for i, value in enumerate(steps)])
    for chosen in product(*rungs):
        named = zip(ladders, chosen, strict=True)
        changes = {name: value for name, (value, far) in named if far}
        yield changes, sum(far for _, far in chosen)


def _powers(most: int) -> list[int]:
    return [n for n in (1, 2, 4, 8, 16) if n <= most]


def _even_stages(config: PlanConfig) -> dict[str, Any]:
    """Return the changes that make stages even, where they are not."""
    wanted = {
        "actor.vpp": 1,
        "actor.num_layers_in_first_pipeline_stage": None,
        "actor.num_layers_in_last_pipeline_stage": None,
    }
    return {name: value for name, value in wanted.items() if _get(config, name) != value}


def _get(config: PlanConfig, name: str) -> Any:
    group, _, field = name.partition(".")
    return getattr(getattr(config, group), field)


def _with(config: PlanConfig, changes: Mapping[str, Any]) -> PlanConfig:
    groups: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        group, _, field = name.partition(".")
        groups.setdefault(group, {})[field] = value
    sections = {
        group: replace(getattr(config, group), **values) for group, values in groups.items()
    }
    return replace(config, **sections)


def _typed(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


# Before a job is submitted.


def check_parallelism(recipe: str, fields: Sequence[str], nodes: int, per_node: int) -> None:
    """Check that the parallelism fits the model and the nodes, if the model's shape is known here.

    An evaluation takes whatever nodes there are, and its job checks its engines.

    Args:
        per_node: GPUs of a node; 0 on a cluster without any, where a node gets one process.

    Raises:
        InputError: it does not fit; says what would do.
    """
    if isinstance(read_recipe(recipe), EvaluateConfig):
        return
    config = read_plan_config([f"recipe={recipe}", *fields])
    try:
        shape = find_shape(config.model)
    except InputError as error:
        print(
            f"megaprune: not checked here, but by the job: {for_people(str(error))}",
            file=sys.stderr,
        )
        return
    hardware = HardwareSpec(gpus=nodes * max(per_node, 1), gpus_per_node=max(per_node, 1))
    problems = [
        *parallelism_problems(config, shape.model, hardware.gpus),
        *field_problems(config, shape, hardware),
    ]
    if problems:
        raise InputError(f"not on {nodes} nodes of {hardware.gpus_per_node}: {'; '.join(problems)}")
