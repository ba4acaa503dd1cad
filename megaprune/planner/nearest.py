"""Of what does not fit: the nearest division that does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from megaprune.errors import InputError
from megaprune.planner.machine import Machine
from megaprune.planner.memory import (
    PHASES,
    POOL,
    actor_phases,
    engine_of,
    engine_phases,
    gpu_of,
    memory_problems,
)
from megaprune.planner.subject import PlanConfig, Shape
from megaprune.rules import (
    context_problems,
    frozen_problems,
    node_problems,
    parallelism_problems,
    training_problems,
)

_MOST_NODES = 64
_TRIED = 500  # of divisions whose GPUs suffice, where those of a host may not
_SHARES = [round(0.05 * step, 2) for step in range(2, 20)]
_ANOTHER_DIVISION = 3  # steps of another field, that one of tp or pp counts for


@dataclass(frozen=True)
class Nearest:
    """A division that fits.

    Args:
        gpus: that it is for.
        changes: fields that differ, by name.
        config: with them.
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


def problems_of(config: PlanConfig, shape: Shape, machine: Machine) -> list[str]:
    """All that keeps a run from these GPUs; of memory only what can be divided has figures."""
    divided = list(parallelism_problems(config, shape.model, machine.gpus))
    found = divided + field_problems(config, shape, machine)
    return found if divided else found + memory_problems(config, shape, machine)


def field_problems(config: PlanConfig, shape: Shape, machine: Machine) -> list[str]:
    """What cannot be although it divides: each would end a run, some of them late."""
    return [
        *context_problems(config, shape.context),
        *training_problems(config),
        *frozen_problems(config, shape.model),
        *node_problems(config.rollout.tp, machine.on_a_node),
    ]


def nearest_of(config: PlanConfig, shape: Shape, machine: Machine) -> Nearest | None:
    """The division for as many GPUs that differs in the fewest fields.

    Of those, the one with the smallest steps away (each field has a ladder of values; a step of tp
    or pp counts for three), then the one that takes least memory. With another number of stages,
    virtual and uneven ones are given up.
    """
    if list(context_problems(config, shape.context)):
        return None
    actors = list(_actors(config, shape, machine))
    engines = list(_engines(config, shape, machine))
    pairs = []
    for actor in actors:
        for engine in engines:
            peak = _peak(actor, engine)
            if peak <= machine.usable:
                changed = len(actor.changes) + len(engine.changes)
                pairs.append((changed, actor.far + engine.far, peak, actor, engine))
    for _, _, _, actor, engine in sorted(pairs, key=lambda pair: pair[:3])[:_TRIED]:
        changes = actor.changes | engine.changes
        made = _with(config, changes)
        if not problems_of(made, shape, machine):
            return Nearest(machine.gpus, changes, made, gpu_of(made, shape, machine).peak)
    return None


def nearest_with_more(config: PlanConfig, shape: Shape, machine: Machine) -> Nearest | None:
    """As `nearest_of`, on one node, on twice as many, and again, until something fits; 64 at most.

    Only on more GPUs than there are.
    """
    gpus = machine.on_a_node
    while gpus <= machine.gpus:
        gpus *= 2
    while gpus <= _MOST_NODES * machine.gpus_per_node:
        if found := nearest_of(config, shape, replace(machine, gpus=gpus)):
            return found
        gpus *= 2
    return None


@dataclass(frozen=True)
class _Half:
    """One side's fields.

    Args:
        changes: fields that differ, by name.
        far: steps away, all together.
        bytes: that it takes of the worst rank's GPU, by phase, torch's pool left out.
        pool: of that, to generate.
    """

    changes: dict[str, Any]
    far: int
    bytes: dict[str, int]
    pool: int


def _half(changes: dict[str, Any], far: int, stages: list[dict[str, dict[str, int]]]) -> _Half:
    totals = [
        {phase: sum(size for name, size in parts.items() if name != POOL)
         for phase, parts in one.items()}
        for one in stages
    ]  # fmt: skip
    worst = {phase: max(one[phase] for one in totals) for phase in PHASES}
    return _Half(changes, far, worst, max(one["generate"][POOL] for one in stages))


def _peak(actor: _Half, engine: _Half) -> int:
    """Bytes of the fullest phase: that of `gpu_of`, or a little more, where stages differ."""
    both = {phase: actor.bytes[phase] + engine.bytes[phase] for phase in PHASES}
    both["generate"] += max(actor.pool, engine.pool)
    return max(both.values())


def _actors(config: PlanConfig, shape: Shape, machine: Machine) -> Iterator[_Half]:
    """Divisions of the model in training that can be."""
    need = -(-config.longest_trained // 1024) * 1024
    budgets = {need, tokens := config.actor.max_tokens}
    while (tokens := tokens // 2) >= need:
        budgets.add(tokens)
    ladders: dict[str, list[Any]] = {
        "actor.tp": _powers(machine.on_a_node),
        "actor.pp": [n for n in range(1, machine.gpus + 1) if machine.gpus % n == 0],
        "actor.recompute": ["none", "core_attention", "full"],
        "actor.sequence_parallel": [False, True],
        "actor.max_tokens": sorted(budgets),
        "optimizer.distributed": [False, True],
    }
    for changes, far in _choices(config, ladders):
        if "actor.pp" in changes:
            changes |= _even(config)
        made = _with(config, changes)
        if [*training_problems(made), *frozen_problems(made, shape.model)]:
            continue
        try:
            stages = actor_phases(made, shape, machine)
        except (InputError, ValueError):
            continue
        yield _half(changes, far, stages)


def _engines(config: PlanConfig, shape: Shape, machine: Machine) -> Iterator[_Half]:
    """Engines that can be, and hold the longest sequence."""
    ladders: dict[str, list[Any]] = {"rollout.tp": _powers(machine.on_a_node)}
    if config.rollout.kv_cache_memory_bytes is None:
        ladders["rollout.gpu_memory_utilization"] = _SHARES
    for changes, far in _choices(config, ladders):
        made = _with(config, changes)
        if machine.gpus % made.rollout.tp or made.rollout.tp > machine.on_a_node:
            continue
        try:
            engine = engine_of(made, shape, machine)
        except ValueError:
            continue
        if engine.cache_tokens >= config.longest:
            yield _half(changes, far, [engine_phases(engine)])


def _choices(
    config: PlanConfig, ladders: Mapping[str, list[Any]]
) -> Iterator[tuple[dict[str, Any], int]]:
    """All combinations of values, as what differs and how far that is."""
    rungs = []
    for name, ladder in ladders.items():
        now = _get(config, name)
        steps = sorted({*ladder, now}, key=ladder.index if now in ladder else None)
        weight = _ANOTHER_DIVISION if name.endswith((".tp", ".pp")) else 1
        rungs.append([(value, weight * abs(i - steps.index(now))) for i, value in enumerate(steps)])
    for chosen in product(*rungs):
        named = zip(ladders, chosen, strict=True)
        changes = {name: value for name, (value, far) in named if far}
        yield changes, sum(far for _, far in chosen)


def _powers(most: int) -> list[int]:
    return [n for n in (1, 2, 4, 8, 16) if n <= most]


def _even(config: PlanConfig) -> dict[str, Any]:
    """Changes that make stages even, where they are not."""
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
    made = {group: replace(getattr(config, group), **fields) for group, fields in groups.items()}
    return replace(config, **made)


def _typed(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
