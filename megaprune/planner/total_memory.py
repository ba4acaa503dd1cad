"""Bytes of each GPU and host, part by part, in each phase of a step: actor and engine together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from megaprune.config.limits import longest_sequence
from megaprune.parallelism import Frozen, Parallel
from megaprune.planner.actor_memory import (
    PHASES,
    POOL,
    actor_parts,
    actor_phases,
    rank_elements,
)
from megaprune.planner.hardware import ELEMENT_BYTES, GB, HardwareSpec
from megaprune.planner.request import AnyPlan, ModelShape
from megaprune.weights.layouts import vllm_layout
from megaprune.weights.model import Model


@dataclass(frozen=True)
class GpuMemory:
    """Bytes of the worst rank's GPU, by part, in each phase.

    Args:
        stage: the stage of the pipeline, from 0, that needs most in any phase.
        phases: parts in bytes, by phase.
    """

    stage: int
    phases: dict[str, dict[str, int]]

    @property
    def totals(self) -> dict[str, int]:
        """Bytes of each phase."""
        return {name: sum(parts.values()) for name, parts in self.phases.items()}

    @property
    def peak(self) -> int:
        """Bytes of the phase that takes most."""
        return max(self.totals.values())


@dataclass(frozen=True)
class EngineMemory:
    """Bytes of a rank of an engine.

    Args:
        weights: its share of the weights.
        cache: for keys and values; not positive where nothing is left for them.
        cache_token: for one token in the cache.
        workspace: while it computes, from torch's pool.
        graphs: CUDA graphs, which stay while it sleeps.
    """

    weights: int
    cache: int
    cache_token: int
    workspace: int
    graphs: int

    @property
    def cache_tokens(self) -> int:
        """Tokens that the cache of an engine holds."""
        return max(0, self.cache) // self.cache_token


def engine_memory(config: AnyPlan, shape: ModelShape, hardware: HardwareSpec) -> EngineMemory:
    """Count the bytes of a rank of an engine.

    weights: of vLLM's layout. cache of a token: 2 x layers x kv heads of the rank x head_dim x
    bytes. workspace: the tokens of a batch (16384 on most GPUs) x (2 hidden + 3 ffn / tp + (q + 2
    kv) / tp) x bytes, and 4 copies of fp32 logits of max_num_seqs tokens. cache:
    rollout.kv_cache_memory_bytes, or what these leave of gpu_memory_utilization x the GPU's
    memory. graphs: assumed; vLLM does not count them in its share.

    Raises:
        ValueError: the parallelism does not divide the model.
    """
    model, rollout, size = shape.model, config.rollout, ELEMENT_BYTES[config.dtype]
    weights = _engine_elements(model, rollout.tp) * size
    heads = max(1, model.kv_heads // rollout.tp)
    cache_token = 2 * model.layers * heads * model.head_dim * size
    tokens = hardware.engine_batch_tokens
    sharded = 3 * model.ffn + (model.heads + 2 * model.kv_heads) * model.head_dim
    workspace = tokens * (2 * model.hidden + sharded // rollout.tp) * size
    workspace += 4 * 4 * min(rollout.max_num_seqs, tokens) * model.vocab
    share = int(rollout.gpu_memory_utilization * hardware.gpu_memory * GB)
    cache = rollout.kv_cache_memory_bytes
    if cache is None:
        cache = share - weights - workspace
    graphs = 0 if rollout.enforce_eager else int(hardware.graphs * GB)
    return EngineMemory(weights, cache, cache_token, workspace, graphs)


@lru_cache(maxsize=64)
def _engine_elements(model: Model, tp: int) -> int:
    return sum(p.size for p in vllm_layout(model, tp).ranks[0])


def engine_phases(
    config: AnyPlan, shape: ModelShape, hardware: HardwareSpec
) -> dict[str, dict[str, int]]:
    """Return the parts of a rank of an engine in each phase: it sleeps while the actor trains.

    The sync needs its weights alone. While a checkpoint is made it does not compute. Where no
    engine is beside the model, no phase has any of its parts.

    Raises:
        ValueError: the parallelism does not divide the model.
    """
    if not config.engine_beside:
        return dict.fromkeys(PHASES, {})
    engine = engine_memory(config, shape, hardware)
    asleep = {"engine: CUDA graphs": engine.graphs}
    synced = asleep | {"engine: weights": engine.weights}
    awake = synced | {
        "engine: key-value cache": max(0, engine.cache),
        POOL: engine.workspace,
    }
    return {"generate": awake, "train": asleep, "update": asleep, "sync": synced}


def gpu_memory(config: AnyPlan, shape: ModelShape, hardware: HardwareSpec) -> GpuMemory:
    """Count the bytes of the worst rank's GPU in each phase: the actor's and the engine's.

    Raises:
        InputError, ValueError: the parallelism does not divide the model or the GPUs.
    """
    engine = engine_phases(config, shape, hardware)
    gpus = [
        GpuMemory(stage, {phase: actor[phase] | engine[phase] for phase in PHASES})
        for stage, actor in enumerate(actor_phases(config, shape, hardware))
    ]
    return max(gpus, key=lambda gpu: gpu.peak)


def host_memory(config: AnyPlan, shape: ModelShape, hardware: HardwareSpec) -> dict[str, int]:
    """Count the bytes of the fullest host, by part.

    offloaded: with actor.offload, the optimizer's state of each rank, and with "all" its weights.
    optimizer on the CPU, for each element of that share: two moments, 8, and 8 of page-locked
    memory (masters and gradients), which torch rounds up to powers of two: 24 at most.
    reference: if there is one, the weights of each rank; while it is used, the model's own are
    there too (twice). saving, of N elements in a rank's buffers: with the distributed optimizer,
    the state of each rank, 12 N / dp, is gathered to the first replica's, which hold 12 N of all
    replicas and write a copy of it and of the weights. Without it that copy alone, of 12 N (8 N
    with float32). graders: at most. processes: assumed.
    """
    parallel = Parallel.of(config.actor)
    dp, size = parallel.dp(hardware.gpus), ELEMENT_BYTES[config.dtype]
    distributed, frozen = config.optimizer.distributed, Frozen.of(config.actor, shape.model)
    stages = rank_elements(shape.model, parallel, dp, frozen, distributed)
    elements = max(stages, key=lambda stage: stage.parameters)
    weights, count = elements.parameters * size, hardware.on_a_node
    # Ranks of a stage are together, those of the first replica first.
    whole, rest = divmod(count, parallel.tp * dp)
    writers = whole * parallel.tp + min(rest, parallel.tp)
    if distributed:
        saving = 12 * elements.buffer // dp * count + (24 * elements.buffer + weights) * writers
    else:
        per_element = 8 if config.dtype == "float32" else 12
        saving = (per_element * elements.buffer + weights) * writers
    engines = max(1, count // config.rollout.tp)
    on_cpu = config.optimizer.on_cpu
    parts = actor_parts(elements, dp, config.dtype, distributed, on_cpu)
    leaving = {"none": (), "optimizer": ("optimizer",), "all": ("optimizer", "weights")}
    return {
        "optimizer on the CPU": int(24 * elements.buffer // dp * on_cpu) * count,
        "offloaded": count * sum(parts[name] for name in leaving[config.offload]),
        "reference": weights * count * 2 if "reference" in config.passes else 0,
        "saving": saving,
        "graders, at most": engines * config.grading.workers * config.grading.memory_bytes,
        "processes": int(hardware.process_memory * GB) * count,
    }


def cache_problems(config: AnyPlan, shape: ModelShape, hardware: HardwareSpec) -> list[str]:
    """Say which engines could not hold one sequence.

    Raises:
        ValueError: the parallelism does not divide the model.
    """
    problems = []
    longest = longest_sequence(config, shape.context)
    for plan in config.engines:
        engine, rollout = engine_memory(plan, shape, hardware), plan.rollout
        if engine.cache_tokens < longest:
            given = f"rollout.gpu_memory_utilization={rollout.gpu_memory_utilization:g}"
            if rollout.kv_cache_memory_bytes is not None:
                given = f"rollout.kv_cache_memory_bytes={rollout.kv_cache_memory_bytes}"
            problems.append(
                f"{given} leaves {max(0, engine.cache) / GB:.1f} GB for the key-value cache, "
                f"{engine.cache_tokens} tokens; one sequence may have {longest}"
            )
    return problems


def memory_problems(config: AnyPlan, shape: ModelShape, hardware: HardwareSpec) -> list[str]:
    """Say which phases do not fit, and which engines could not hold one sequence.

    Raises:
        InputError, ValueError: the parallelism does not divide the model or the GPUs.
    """
    problems = cache_problems(config, shape, hardware)
    gpu = gpu_memory(config, shape, hardware)
    for phase, total in gpu.totals.items():
        if total > hardware.usable:
            problems.append(
                f"{phase}: {total / GB:.1f} GB of a GPU (stage {gpu.stage}), more than the "
                f"{hardware.usable / GB:.1f} that a reserve of {hardware.reserve:g} leaves of "
                f"{hardware.gpu_memory:g}"
            )
    if hardware.host_memory is not None:
        total = sum(host_memory(config, shape, hardware).values())
        if total > hardware.host_memory * GB:
            problems.append(
                f"{total / GB:.0f} GB of a host's memory, more than {hardware.host_memory:g}"
            )
    return problems
