"""Bytes of each GPU and host, part by part, in each phase of a step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import lcm

from megaprune.parallelism import Parallel
from megaprune.planner.activations import MicroBatch, in_flight
from megaprune.planner.machine import (
    ELEMENT_BYTES,
    ENGINE_BATCH_TOKENS,
    GB,
    TRANSFER_BUFFER_BYTES,
    Machine,
)
from megaprune.planner.subject import PlanConfig, Shape
from megaprune.weights.layouts import Parameter, Pipeline, megatron_layout, vllm_layout
from megaprune.weights.layouts.sharding import round_up
from megaprune.weights.model import Model

PHASES = ("generate", "train")
POOL = "torch's pool"


@dataclass(frozen=True)
class Held:
    """What a rank has of a model in training, in elements.

    Args:
        parameters: all.
        frozen: those that are not trained.
        buffer: of the gradient buffers, padding included.
        bucket: of the largest bucket of those.
        largest: of its largest trained parameter.
        layers: of each chunk.
    """

    parameters: int
    frozen: int
    buffer: int
    bucket: int
    largest: int
    layers: tuple[int, ...]


@dataclass(frozen=True)
class Gpu:
    """Bytes of the worst rank's GPU, by part, in each phase.

    Args:
        stage: of the pipeline, from 0, that needs most in any phase.
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
class Engine:
    """Bytes of an engine's rank.

    Args:
        weights: of it.
        cache: of keys and values; not positive where nothing is left for them.
        cache_token: of one token in it.
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


def held(
    model: Model, parallel: Parallel, dp: int, frozen_layers: int, distributed: bool
) -> tuple[Held, ...]:
    """What a rank of each pipeline stage has; tensor-parallel ranks and replicas have as much.

    Counted from the layout that the actor is built by. With the distributed optimizer, Megatron-
    core (0.16) begins each parameter of its buffers at a multiple of 64 elements and ends each
    bucket at a multiple of lcm(dp, 128); a tied embedding that has a copy in another stage is a
    bucket by itself.

    Args:
        frozen_layers: as in the actor's fields.
        distributed: the optimizer is.

    Raises:
        ValueError: the model cannot be divided so.
    """
    found = []
    for chunks in _sizes(model, parallel.tp, parallel.pipeline, frozen_layers):
        trained = [size for _, sizes in chunks for size, kind in sizes if kind != "frozen"]
        total = sum(size for _, sizes in chunks for size, _ in sizes)
        buckets = [sum(trained)]
        if distributed:
            buckets = [bucket for _, sizes in chunks for bucket in _buckets(sizes, dp)]
        layers = tuple(count for count, _ in chunks)
        frozen, largest = total - sum(trained), max(trained, default=0)
        found.append(Held(total, frozen, sum(buckets), max(buckets, default=0), largest, layers))
    return tuple(found)


Sizes = list[tuple[int, str]]
"""Of a chunk's parameters: elements, and whether it is "trained", "frozen" or a bucket "alone"."""


@lru_cache(maxsize=512)
def _sizes(
    model: Model, tp: int, pipeline: Pipeline, frozen_layers: int
) -> list[list[tuple[int, Sizes]]]:
    """For each stage, for each chunk: layers, and the sizes of its parameters in their order."""
    layout = megatron_layout(model, tp, pipeline)
    shared = model.tied and pipeline.stages > 1

    def kind(parameter: Parameter) -> str:
        if _is_frozen(parameter, frozen_layers):
            return "frozen"
        tensors = {piece.tensor for piece in parameter.pieces}
        return "alone" if shared and "model.embed_tokens.weight" in tensors else "trained"

    return [
        [
            (
                len(layers),
                [
                    (p.size, kind(p))
                    for p in layout.ranks[stage * tp]
                    if p.name.startswith(f"{chunk}.")
                ],
            )
            for chunk, layers in enumerate(chunks)
        ]
        for stage, chunks in enumerate(pipeline.layers(model.layers))
    ]


def _is_frozen(parameter: Parameter, layers: int) -> bool:
    if not layers or not parameter.pieces:
        return False
    tensor = parameter.pieces[0].tensor
    if tensor.startswith("model.layers."):
        return int(tensor.split(".")[2]) < layers
    return tensor == "model.embed_tokens.weight"


def _buckets(sizes: Sizes, dp: int) -> list[int]:
    """Elements of the buckets of a chunk's buffer, as Megatron-core fills them: from the end."""
    buckets, held = [], 0
    for size, kind in reversed(sizes):
        if kind == "alone" and held:
            buckets.append(round_up(held, lcm(dp, 128)))
            held = 0
        if kind != "frozen":
            held = round_up(held, 64) + size
        if kind == "alone":
            buckets.append(round_up(held, lcm(dp, 128)))
            held = 0
    if held:
        buckets.append(round_up(held, lcm(dp, 128)))
    return buckets


def actor_parts(one: Held, dp: int, dtype: str, distributed: bool) -> dict[str, int]:
    """Bytes that the model in training always has on a GPU; nothing of it is ever offloaded.

    weights: parameters x their bytes (with the distributed optimizer: of the padded buffer that
    they lie in, and of frozen ones). gradients: 4 x the buffer. optimizer: Adam's two moments, 8 x
    the buffer, and with bfloat16 the fp32 masters, 4 more; divided by dp if it is distributed.

    Args:
        dp: replicas.
    """
    size = ELEMENT_BYTES[dtype]
    per_element = 8 if dtype == "float32" else 12
    weights = one.frozen + one.buffer if distributed else one.parameters
    return {
        "weights": weights * size,
        "gradients": one.buffer * 4,
        "optimizer": one.buffer * per_element // (dp if distributed else 1),
    }


def engine_of(config: PlanConfig, shape: Shape, machine: Machine) -> Engine:
    """Bytes of a rank of an engine.

    weights: of vLLM's layout. cache of a token: 2 x layers x kv heads of the rank x head_dim x
    bytes. workspace: 16384 tokens x (2 hidden + 3 ffn / tp + (q + 2 kv) / tp) x bytes, and 4 copies
    of fp32 logits of max_num_seqs tokens. cache: rollout.kv_cache_memory_bytes, or what these
    leave of gpu_memory_utilization x the GPU's memory. graphs: assumed; vLLM does not count
    them in its share.

    Raises:
        ValueError: the model cannot be divided so.
    """
    model, rollout, size = shape.model, config.rollout, ELEMENT_BYTES[config.dtype]
    weights = _engine_elements(model, rollout.tp) * size
    heads = max(1, model.kv_heads // rollout.tp)
    cache_token = 2 * model.layers * heads * model.head_dim * size
    divided = 3 * model.ffn + (model.heads + 2 * model.kv_heads) * model.head_dim
    workspace = ENGINE_BATCH_TOKENS * (2 * model.hidden + divided // rollout.tp) * size
    workspace += 4 * 4 * min(rollout.max_num_seqs, ENGINE_BATCH_TOKENS) * model.vocab
    share = int(rollout.gpu_memory_utilization * machine.gpu_memory * GB)
    cache = rollout.kv_cache_memory_bytes
    if cache is None:
        cache = share - weights - workspace
    graphs = 0 if rollout.enforce_eager else int(machine.graphs * GB)
    return Engine(weights, cache, cache_token, workspace, graphs)


@lru_cache(maxsize=64)
def _engine_elements(model: Model, tp: int) -> int:
    return sum(p.size for p in vllm_layout(model, tp).ranks[0])


def micro_batches_of(config: PlanConfig, machine: Machine, dp: int) -> int:
    """Micro-batches of an update on each replica.

    tokens / (max_tokens x dp), rounded up, with the shortest limit's mean lengths (`Machine`); an
    interleaved pipeline takes them by the number of its stages.
    """
    actor = config.actor
    mean = (
        config.data.max_prompt_length * machine.mean_prompt
        + min(config.rounds) * machine.mean_length
    )
    samples = config.data.train_batch_size * config.rollout.n / config.algorithm.updates
    count = max(1, -(-int(samples * mean) // (actor.max_tokens * dp)))
    return round_up(count, actor.pp) if actor.vpp > 1 else count


def gpu_of(config: PlanConfig, shape: Shape, machine: Machine) -> Gpu:
    """Bytes of the worst rank's GPU, in each phase: the actor's and the engine's.

    Both take turns with torch's pool: of that, whatever is more.

    Raises:
        InputError, ValueError: the model cannot be divided so.
    """
    engine = engine_phases(engine_of(config, shape, machine))
    gpus = []
    for stage, mine in enumerate(actor_phases(config, shape, machine)):
        phases = {phase: {**mine[phase], **engine[phase]} for phase in PHASES}
        phases["generate"][POOL] = max(mine["generate"][POOL], engine["generate"][POOL])
        gpus.append(Gpu(stage, phases))
    return max(gpus, key=lambda gpu: gpu.peak)


def engine_phases(engine: Engine) -> dict[str, dict[str, int]]:
    """Parts of an engine's rank in each phase: it sleeps while the actor trains, and only then.

    While a checkpoint is made it does not compute.
    """
    asleep = {"engine: CUDA graphs": engine.graphs}
    awake = asleep | {
        "engine: weights": engine.weights,
        "engine: key-value cache": max(0, engine.cache),
    }
    return {"generate": awake | {POOL: engine.workspace}, "train": asleep}


def actor_phases(
    config: PlanConfig, shape: Shape, machine: Machine
) -> list[dict[str, dict[str, int]]]:
    """Parts of a rank of each stage in each phase, without the engine.

    generate: all of the actor is there, and torch's pool still has what the last gradients and the
    sync needed: nothing gives it back, and the engine's weights and cache do not come from it.
    train: activations of the micro-batches under way, and what one gradient needs. To save takes no
    more: the optimizer's state is gathered in the host's memory.

    Raises:
        InputError, ValueError: the model cannot be divided so.
    """
    parallel, actor, distributed = (
        Parallel.of(config.actor),
        config.actor,
        config.optimizer.distributed,
    )
    dp, size = parallel.dp(machine.gpus), ELEMENT_BYTES[config.dtype]
    batch = MicroBatch(
        shape.model, actor.max_tokens, actor.tp, actor.sequence_parallel, actor.recompute, size
    )
    count = micro_batches_of(config, machine, dp)
    found = []
    for stage, one in enumerate(held(shape.model, parallel, dp, actor.frozen_layers, distributed)):
        resident = {
            "contexts, NCCL": int(machine.overhead * GB),
            **actor_parts(one, dp, config.dtype, distributed),
        }
        last, layers = stage == actor.pp - 1, max(one.layers)
        flying = in_flight(actor.pp, stage, actor.vpp, count)
        # Of an interleaved stage only one chunk in flight is the last, which ends in log-probs.
        others = batch.kept(layers, last and actor.vpp == 1)
        kept = batch.kept(layers, last) + (flying - 1) * others
        working = batch.working(last) + one.largest * size
        found.append(
            {
                "generate": resident | {POOL: kept + working + TRANSFER_BUFFER_BYTES},
                "train": resident | {"activations": kept, "gradients under way": working},
            }
        )
    return found


def host_of(config: PlanConfig, shape: Shape, machine: Machine) -> dict[str, int]:
    """Bytes of the fullest host, by part.

    reference: with algorithm.kl, the weights of each rank; while it is used, the model's own are
    there too (twice). saving, of N elements in a rank's buffers: with the distributed optimizer,
    the state of each rank, 12 N / dp, is gathered to the first replica's, which hold 12 N of all
    replicas and write a copy of it and of the weights. Without it that copy alone, of 12 N (8 N
    with float32). graders: at most. processes: assumed.
    """
    parallel = Parallel.of(config.actor)
    dp, size = parallel.dp(machine.gpus), ELEMENT_BYTES[config.dtype]
    distributed, frozen = config.optimizer.distributed, config.actor.frozen_layers
    one = max(held(shape.model, parallel, dp, frozen, distributed), key=lambda h: h.parameters)
    weights, count = one.parameters * size, machine.on_a_node
    # Ranks of a stage are together, those of the first replica first.
    stages, rest = divmod(count, parallel.tp * dp)
    writers = stages * parallel.tp + min(rest, parallel.tp)
    if distributed:
        saving = 12 * one.buffer // dp * count + (24 * one.buffer + weights) * writers
    else:
        per_element = 8 if config.dtype == "float32" else 12
        saving = (per_element * one.buffer + weights) * writers
    engines = max(1, count // config.rollout.tp)
    return {
        "reference": weights * count * 2 if config.algorithm.kl else 0,
        "saving": saving,
        "graders, at most": engines * config.grading.workers * config.grading.memory_bytes,
        "processes": int(machine.process_memory * GB) * count,
    }


def memory_problems(config: PlanConfig, shape: Shape, machine: Machine) -> list[str]:
    """Which phases do not fit, and engines that could not hold one sequence.

    Raises:
        InputError, ValueError: the model cannot be divided so.
    """
    found = []
    engine = engine_of(config, shape, machine)
    if engine.cache_tokens < config.longest:
        given = f"rollout.gpu_memory_utilization={config.rollout.gpu_memory_utilization:g}"
        if config.rollout.kv_cache_memory_bytes is not None:
            given = f"rollout.kv_cache_memory_bytes={config.rollout.kv_cache_memory_bytes}"
        found.append(
            f"{given} leaves {max(0, engine.cache) / GB:.1f} GB for the key-value cache, "
            f"{engine.cache_tokens} tokens; one sequence may have {config.longest}"
        )
    gpu = gpu_of(config, shape, machine)
    for phase, total in gpu.totals.items():
        if total > machine.usable:
            found.append(
                f"{phase}: {total / GB:.1f} GB of a GPU (stage {gpu.stage}), more than the "
                f"{machine.usable / GB:.1f} that a reserve of {machine.reserve:g} leaves of "
                f"{machine.gpu_memory:g}"
            )
    if machine.host_memory is not None:
        total = sum(host_of(config, shape, machine).values())
        if total > machine.host_memory * GB:
            found.append(
                f"{total / GB:.0f} GB of a host's memory, more than {machine.host_memory:g}"
            )
    return found
