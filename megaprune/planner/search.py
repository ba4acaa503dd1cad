"""The divisions of GPUs, among actor and engines, that are fastest and fit."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import log, log1p
from typing import Any

from megaprune.config.read import read_recipe
from megaprune.config.run import OFFLOADS
from megaprune.errors import InputError
from megaprune.evaluation.config import EvaluateConfig
from megaprune.foreign_text import for_people
from megaprune.planner.actor_memory import PHASES, actor_phases
from megaprune.planner.hardware import HardwareSpec
from megaprune.planner.request import (
    AnyPlan,
    HarmonizePlanConfig,
    ModelShape,
    find_shape,
    read_plan_config,
)
from megaprune.planner.speed import (
    RoundTime,
    generation_seconds,
    gpu_hours,
    log_prob_time,
    most_sync_seconds,
    offload_seconds,
    optimizer_seconds,
    reference_seconds,
    round_time,
    train_time,
)
from megaprune.planner.total_memory import (
    cache_problems,
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
_SHARES = [round(0.05 * step, 2) for step in range(2, 20)]
_ON_CPU = [0.5, 1.0]
"""Slow, and tried for that reason where nothing else fits."""

_SHOWN = 5
_ALIKE = 0.01
"""Times that differ by less than this share are equal: the estimate is no better."""


@dataclass(frozen=True)
class Division:
    """A way to divide the model over GPUs, in training and over engines, that fits.

    Args:
        gpus: how many GPUs it is for.
        changes: fields that differ from those given, by name; none if it is the one given.
        config: the fields with these changes.
        peak: bytes of a GPU in its fullest phase.
        rounds: how long they take.
    """

    gpus: int
    changes: dict[str, Any]
    config: AnyPlan
    peak: int
    rounds: list[RoundTime]

    @property
    def words(self) -> str:
        """The changes, as they are typed."""
        return " ".join(f"{name}={_typed(value)}" for name, value in self.changes.items())

    @property
    def gpu_hours(self) -> float:
        """GPU-hours of all rounds with their validations."""
        return gpu_hours(self.gpus, self.rounds)


def problems_of(config: AnyPlan, shape: ModelShape, hardware: HardwareSpec) -> list[str]:
    """List all that keeps a run from these GPUs; memory is asked only if the ranks divide."""
    indivisible = list(parallelism_problems(config, shape.model, hardware.gpus))
    problems = indivisible + field_problems(config, shape, hardware)
    return problems if indivisible else problems + memory_problems(config, shape, hardware)


def field_problems(config: AnyPlan, shape: ModelShape, hardware: HardwareSpec) -> list[str]:
    """List what cannot be although it divides: each would end a run, some of them late."""
    return [
        *context_problems(config, shape.context),
        *training_problems(config),
        *frozen_problems(config, shape.model),
        *node_problems(config.rollout.tp, hardware.on_a_node),
    ]


def fastest_divisions(config: AnyPlan, shape: ModelShape, hardware: HardwareSpec) -> list[Division]:
    """Return the five divisions of these GPUs that take least time, best first; those that fit.

    All rounds and validations count. The fields that are tried: tp, pp, vpp, recompute, sequence
    parallelism and max_tokens of the actor, the distributed optimizer and tp of engines; where
    engines are beside the model, offload and their share of the memory; where nothing fits, the
    optimizer's share on the CPU too. Of those with the
    same tp, pp and vpp and the same tp of engines, the best stands for all. Among times that differ
    by less than a hundredth, fewer changed fields come first.
    """
    if list(context_problems(config, shape.context)):
        return []
    for shares in ([config.optimizer.on_cpu], _ON_CPU):
        if divisions := _fastest_with(config, shape, hardware, shares):
            return divisions
    return []


def _fastest_with(
    config: AnyPlan, shape: ModelShape, hardware: HardwareSpec, on_cpu: list[float]
) -> list[Division]:
    """Return the fastest divisions with one of these shares of the optimizer on the CPU."""
    actors = list(_actor_candidates(config, shape, hardware, on_cpu))
    engines = sorted(_engine_candidates(config, shape, hardware), key=lambda e: e.seconds)
    pairs = []
    for actor in actors:
        fitting = (e for e in engines if _peak(actor, e) <= hardware.usable)
        if (first := next(fitting, None)) is None:
            continue
        # An engine that is as fast with fewer changes is as good.
        alike = [e for e in fitting if e.seconds <= first.seconds * (1 + _ALIKE)]
        engine = min([first, *alike], key=lambda e: len(e.changes))
        seconds = actor.seconds + engine.seconds
        step = int(log(seconds) / log1p(_ALIKE))
        pairs.append((step, len(actor.changes) + len(engine.changes), seconds, actor, engine))
    best: dict[tuple[int, ...], Division] = {}
    for _, _, _, actor, engine in sorted(pairs, key=lambda pair: pair[:3]):
        changes = actor.changes | engine.changes
        changed = _with(config, changes)
        kind = (changed.actor.tp, changed.actor.pp, changed.actor.vpp, changed.rollout.tp)
        if kind not in best and not problems_of(changed, shape, hardware):
            best[kind] = division_of(changed, shape, hardware, changes)
        if len(best) == _SHOWN:
            break
    return list(best.values())


def fastest_on_more(config: AnyPlan, shape: ModelShape, hardware: HardwareSpec) -> list[Division]:
    """Return the fastest divisions of one node, of twice as many, and so on; of 64 at most.

    Only of more GPUs than there are: of the fewest on which anything fits.
    """
    gpus = hardware.on_a_node
    while gpus <= hardware.gpus:
        gpus *= 2
    while gpus <= _MOST_NODES * hardware.gpus_per_node:
        if divisions := fastest_divisions(config, shape, replace(hardware, gpus=gpus)):
            return divisions
        gpus *= 2
    return []


def division_of(
    config: AnyPlan, shape: ModelShape, hardware: HardwareSpec, changes: dict[str, Any]
) -> Division:
    """Describe one that divides the model and the GPUs. Of a sync, the most it could take."""
    # Making the plan of copies takes longer than all else here, and a sync is short.
    sync = most_sync_seconds(config, shape, hardware)
    rounds = [round_time(config, shape, hardware, n, sync) for n in range(len(config.round_limits))]
    peak = gpu_memory(config, shape, hardware).peak
    return Division(hardware.gpus, changes, config, peak, rounds)


@dataclass(frozen=True)
class _Candidate:
    """A choice of the fields of one side, actor or engine.

    Args:
        changes: fields that differ, by name.
        seconds: of its part of all rounds.
        bytes: what it takes of the worst rank's GPU, by phase.
    """

    changes: dict[str, Any]
    seconds: float
    bytes: dict[str, int]


def _candidate(
    changes: dict[str, Any], seconds: float, stages: list[dict[str, dict[str, int]]]
) -> _Candidate:
    totals = [{phase: sum(stage[phase].values()) for phase in PHASES} for stage in stages]
    worst = {phase: max(total[phase] for total in totals) for phase in PHASES}
    return _Candidate(changes, seconds, worst)


def _peak(actor: _Candidate, engine: _Candidate) -> int:
    """Count the bytes of the fullest phase: as `gpu_memory`, or a little more, as stages differ."""
    return max(actor.bytes[phase] + engine.bytes[phase] for phase in PHASES)


def _actor_candidates(
    config: AnyPlan, shape: ModelShape, hardware: HardwareSpec, on_cpu: list[float]
) -> Iterator[_Candidate]:
    """Yield the ways to divide the model in training that are possible."""
    need = -(-config.longest_trained // 1024) * 1024
    sizes = {need, tokens := config.actor.max_tokens}
    while (tokens := tokens // 2) >= need:
        sizes.add(tokens)
    layers = shape.model.layers
    for pp in (n for n in range(1, hardware.gpus + 1) if hardware.gpus % n == 0 and n <= layers):
        # Uneven stages are not tried, but kept where they are given.
        even = {} if pp == config.actor.pp else _EVEN
        vpps = {n for n in (1, 2, 4) if pp > 1 and layers % (pp * n) == 0} | {1}
        if not even:
            vpps.add(config.actor.vpp)
        choices: dict[str, list[Any]] = {
            "actor.vpp": sorted(vpps),
            "actor.tp": _powers(hardware.on_a_node),
            "actor.recompute": ["none", "core_attention", "full"],
            "actor.sequence_parallel": [False, True],
            "actor.max_tokens": sorted(sizes),
            "actor.offload": list(OFFLOADS) if config.engine_beside else [config.actor.offload],
            "optimizer.on_cpu": on_cpu,
            "optimizer.distributed": [False, True],
        }
        for values in product(*choices.values()):
            chosen = {"actor.pp": pp, **even, **dict(zip(choices, values, strict=True))}
            if candidate := _actor_candidate(config, shape, hardware, chosen):
                yield candidate


def _actor_candidate(
    config: AnyPlan, shape: ModelShape, hardware: HardwareSpec, chosen: dict[str, Any]
) -> _Candidate | None:
    """Return one way to divide the model; None if it is impossible."""
    if hardware.gpus % (chosen["actor.tp"] * chosen["actor.pp"]):
        return None
    changes = {name: value for name, value in chosen.items() if _get(config, name) != value}
    changed = _with(config, changes)
    if [*training_problems(changed), *frozen_problems(changed, shape.model)]:
        return None
    try:
        stages = actor_phases(changed, shape, hardware)
    except (InputError, ValueError):
        return None
    times = 0.0
    optimizer = optimizer_seconds(changed, shape, hardware)
    offload = offload_seconds(changed, shape, hardware)
    for limit in changed.round_limits:
        passes = log_prob_time(changed, shape, hardware, limit).seconds
        train = train_time(changed, shape, hardware, limit).seconds
        times += changed.steps * (passes + train + optimizer + offload)
        if isinstance(changed, HarmonizePlanConfig):
            times += sum(reference_seconds(changed, shape, hardware, limit).values())
    return _candidate(changes, times, stages)


def _engine_candidates(
    config: AnyPlan, shape: ModelShape, hardware: HardwareSpec
) -> Iterator[_Candidate]:
    """Yield the engines that are possible and hold the longest sequence, if there are any."""
    if not config.engines:
        yield _candidate({}, 0.0, [engine_phases(config, shape, hardware)])
        return
    own = config.rollout.gpu_memory_utilization
    given = config.rollout.kv_cache_memory_bytes is not None or not config.engine_beside
    shares = [own] if given else [own, *_SHARES]
    for tp, share in product(_powers(hardware.on_a_node), dict.fromkeys(shares)):
        chosen = {"rollout.tp": tp, "rollout.gpu_memory_utilization": share}
        changes = {name: value for name, value in chosen.items() if _get(config, name) != value}
        changed = _with(config, changes)
        if hardware.gpus % tp:
            continue
        try:
            lacking = cache_problems(changed, shape, hardware)
            phases = engine_phases(changed, shape, hardware)
        except ValueError:
            continue
        if not lacking:
            seconds = sum(
                generation_seconds(changed, shape, hardware, number)
                for number in range(len(changed.round_limits))
            )
            yield _candidate(changes, seconds, [phases])


def _powers(most: int) -> list[int]:
    return [n for n in (1, 2, 4, 8, 16) if n <= most]


_EVEN = {
    "actor.num_layers_in_first_pipeline_stage": None,
    "actor.num_layers_in_last_pipeline_stage": None,
}


def _get(config: AnyPlan, name: str) -> Any:
    group, _, field = name.partition(".")
    return getattr(getattr(config, group), field)


def _with(config: AnyPlan, changes: Mapping[str, Any]) -> AnyPlan:
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
