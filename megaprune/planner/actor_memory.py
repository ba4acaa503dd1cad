"""Memory of the model in training: what each rank always holds, and its activations."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import lcm

from megaprune.parallelism import Frozen, Parallel
from megaprune.planner.hardware import (
    ELEMENT_BYTES,
    GB,
    KEPT_LOGIT_CHUNKS,
    LOGIT_CHUNK_BYTES,
    TRANSFER_BUFFER_BYTES,
    HardwareSpec,
)
from megaprune.planner.request import AnyPlan, ModelShape
from megaprune.weights.layouts import Parameter, Pipeline, megatron_layout
from megaprune.weights.layouts.sharding import round_up
from megaprune.weights.model import Model

POOL = "torch's pool"

# Weights, gradients and optimizer.


@dataclass(frozen=True)
class RankElements:
    """How many elements a rank has of a model in training.

    Args:
        parameters: all of its parameters.
        frozen: those of them that are not trained.
        buffer: its gradient buffers, padding included.
        bucket: the largest bucket of those.
        largest: its largest trained parameter.
        layers: layers of each chunk.
    """

    parameters: int
    frozen: int
    buffer: int
    bucket: int
    largest: int
    layers: tuple[int, ...]


@lru_cache(maxsize=512)
def rank_elements(
    model: Model, parallel: Parallel, dp: int, frozen: Frozen, distributed: bool
) -> tuple[RankElements, ...]:
    """Count what a rank of each pipeline stage has; its tp ranks and replicas have as much.

    Counted from the layout that the actor is built by. With the distributed optimizer, Megatron-
    core (0.16) begins each parameter of its buffers at a multiple of 64 elements and ends each
    bucket at a multiple of lcm(dp, 128); a tied embedding that has a copy in another stage is a
    bucket by itself.

    Args:
        frozen: what is not trained.
        distributed: whether the optimizer is.

    Raises:
        ValueError: the parallelism does not divide the model.
    """
    stages = []
    for chunks in _sizes(model, parallel.tp, parallel.pipeline, frozen):
        trained = [size for _, sizes in chunks for size, kind in sizes if kind != "frozen"]
        total = sum(size for _, sizes in chunks for size, _ in sizes)
        buckets = [sum(trained)]
        if distributed:
            buckets = [bucket for _, sizes in chunks for bucket in _buckets(sizes, dp)]
        stages.append(
            RankElements(
                parameters=total,
                frozen=total - sum(trained),
                buffer=sum(buckets),
                bucket=max(buckets, default=0),
                largest=max(trained, default=0),
                layers=tuple(count for count, _ in chunks),
            )
        )
    return tuple(stages)


Sizes = list[tuple[int, str]]
"""Of a chunk's parameters: elements, and whether it is "trained", "frozen" or a bucket "alone"."""


@lru_cache(maxsize=512)
def _sizes(
    model: Model, tp: int, pipeline: Pipeline, frozen: Frozen
) -> list[list[tuple[int, Sizes]]]:
    """Return, for each stage and chunk, its layers and the sizes of its parameters in order."""
    layout = megatron_layout(model, tp, pipeline)
    shared = model.tied and pipeline.stages > 1

    def kind(parameter: Parameter) -> str:
        if frozen.includes(parameter):
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


def _buckets(sizes: Sizes, dp: int) -> list[int]:
    """Return the elements of a buffer's buckets, as Megatron-core fills them: from the end."""
    buckets, filled = [], 0
    for size, kind in reversed(sizes):
        if kind == "alone" and filled:
            buckets.append(round_up(filled, lcm(dp, 128)))
            filled = 0
        if kind != "frozen":
            filled = round_up(filled, 64) + size
        if kind == "alone":
            buckets.append(round_up(filled, lcm(dp, 128)))
            filled = 0
    if filled:
        buckets.append(round_up(filled, lcm(dp, 128)))
    return buckets


def actor_parts(
    elements: RankElements, dp: int, dtype: str, distributed: bool, on_cpu: float = 0.0
) -> dict[str, int]:
    """Count the bytes that the model in training has on a GPU, unless they are offloaded.

    weights: parameters x their bytes (with the distributed optimizer: of the padded buffer that
    they lie in, and of frozen ones). gradients: 4 x the buffer. optimizer: Adam's two moments, 8 x
    the buffer, and with bfloat16 the fp32 masters, 4 more; divided by dp if it is distributed; less
    the share that is on the CPU.

    Args:
        dp: replicas.
        on_cpu: as in the optimizer's fields.
    """
    size = ELEMENT_BYTES[dtype]
    per_element = 8 if dtype == "float32" else 12
    weights = elements.frozen + elements.buffer if distributed else elements.parameters
    return {
        "weights": weights * size,
        "gradients": elements.buffer * 4,
        "optimizer": int(
            elements.buffer * per_element // (dp if distributed else 1) * (1 - on_cpu)
        ),
    }


# Activations.


@dataclass(frozen=True)
class MicroBatch:
    """What a micro-batch takes on one rank: in the forward pass, and for the backward pass.

    Args:
        tokens: how many it has.
        tp, sequence, recompute: as in the fields of the actor.
        size: bytes of an element.
        fused: with Transformer Engine's kernels, as on a GPU; else with torch's, as on a CPU.
    """

    model: Model
    tokens: int
    tp: int
    sequence: bool
    recompute: str
    size: int
    fused: bool = True

    @property
    def between(self) -> int:
        """Bytes of the hidden states between layers: tokens x hidden (/ tp with sequence)."""
        return self.whole // (self.tp if self.sequence else 1)

    @property
    def whole(self) -> int:
        """Bytes of the hidden states of all tokens: tokens x hidden."""
        return self.tokens * self.model.hidden * self.size

    @property
    def norm(self) -> int:
        """Bytes that a norm keeps: its input; torch's on a CPU two fp32 copies."""
        return self.between if self.fused else 2 * self.between * 4 // self.size

    def layer(self, recompute: str) -> int:
        """Count the bytes that a layer keeps.

        full: its input. Otherwise what its two norms keep and, in elements of each token:

        - 2 hidden (/ tp with sequence), what the norms give out;
        - (3 q + 3 kv) / tp: rotated queries and keys; queries, keys and values as they were
          projected, of which the values are a part; what attention gives out;
        - 3 ffn / tp: gate, up and their product;
        - torch's own kernels: 4 head_dim of angles and 2 ffn / tp (silu(gate), a copy of up).

        Besides, unless core_attention: 4 bytes for each token and head / tp (attention's
        normaliser); on a CPU, what attention gives out of each sequence by itself.
        """
        if recompute == "full":
            return self.between
        m, tokens = self.model, self.tokens
        query, key = m.heads * m.head_dim, m.kv_heads * m.head_dim
        sharded = 3 * query + 3 * key + (3 if self.fused else 5) * m.ffn
        if recompute == "none" and not self.fused:
            sharded += query
        kept = 2 * self.norm + 2 * self.between + tokens * sharded * self.size // self.tp
        if not self.fused:
            kept += tokens * 4 * m.head_dim * self.size
        if recompute == "none":
            kept += tokens * m.heads * 4 // self.tp
        return kept

    def kept(self, layers: int, last: bool) -> int:
        """Count the bytes that a stage with so many layers keeps of this micro-batch.

        Each layer's; the angles (4 bytes x tokens x head_dim); what the stage gives out. The last
        stage instead of that: what the final norm keeps, and for the log-probs the hidden states
        of all scored tokens (here: of all tokens), with 32 bytes of ids and numbers of each.
        """
        kept = layers * self.layer(self.recompute) + 4 * self.tokens * self.model.head_dim
        return kept + (self.norm + self.whole + 32 * self.tokens if last else self.between)

    def working(self, last: bool) -> int:
        """Count the bytes that come and go while a gradient is computed, at the most.

        A layer's backward pass: what it keeps, if that is computed again (full); gradients of gate
        and up (2 ffn / tp) and of two hidden states, and with sequence the gathered states too. Or,
        in the last stage, that of the log-probs: a chunk of fp32 logits (512 MiB on a GPU, or all
        logits where they are fewer than two chunks), as much again and a half of it for their
        gradients in fp32 and bf16, and the gradients of the hidden states. Whichever is more.
        """
        again = self.layer("none") - self.between if self.recompute == "full" else 0
        gathered = 1 if self.sequence and self.tp > 1 else 0
        layer = again + (2 + gathered) * self.whole
        layer += self.tokens * 2 * self.model.ffn * self.size // self.tp
        if not last:
            return layer
        logits = 4 * self.tokens * self.model.vocab // self.tp
        chunk = min(logits, LOGIT_CHUNK_BYTES)
        kept = logits if logits <= KEPT_LOGIT_CHUNKS * LOGIT_CHUNK_BYTES else chunk
        return max(layer, kept + chunk * 3 // 2 + (2 + gathered) * self.whole)


def in_flight(stages: int, stage: int, chunks: int, micro_batches: int) -> int:
    """Count the chunks of micro-batches whose activations a stage holds at once.

    One forward, one backward: stages - stage. Interleaved: 2 x (stages - stage - 1) + (chunks - 1)
    x stages + 1. Never more than there are.
    """
    if stages == 1:
        return 1
    ahead = stages - stage
    if chunks > 1:
        ahead = 2 * (stages - stage - 1) + (chunks - 1) * stages + 1
    return min(ahead, micro_batches * chunks)


def micro_batch_count(config: AnyPlan, hardware: HardwareSpec, dp: int) -> int:
    """Count the micro-batches of an update on each replica.

    tokens / (max_tokens x dp), rounded up, with the shortest limit's mean lengths
    (`HardwareSpec`); an interleaved pipeline takes them by the number of its stages.
    """
    actor = config.actor
    mean = (
        config.data.max_prompt_length * hardware.mean_prompt
        + min(config.round_limits) * hardware.mean_length
    )
    mean = min(mean, config.data.cutoff or mean)
    samples = config.learned_samples / config.algorithm.num_minibatches
    count = max(1, -(-int(samples * mean) // (actor.max_tokens * dp)))
    return round_up(count, actor.pp) if actor.vpp > 1 else count


def actor_phases(
    config: AnyPlan, shape: ModelShape, hardware: HardwareSpec
) -> list[dict[str, dict[str, int]]]:
    """Count the bytes of a rank of each stage in each phase, part by part, without the engine.

    Weights, gradients and optimizer state are there unless actor.offload says otherwise: with
    "optimizer", gradients to train and to update alone, and the optimizer to update alone; with
    "all", no weights to generate. To train: activations of the micro-batches under way, and what
    one gradient needs; where nothing is offloaded, torch's pool keeps their memory in the update,
    and gives it back before the sync, which needs its buffers. To save takes no more: the
    optimizer's state is gathered in the host's memory. Without an engine beside it, the model is
    on the GPU only to train and to update: nothing is generated or synced.

    Raises:
        InputError, ValueError: the parallelism does not divide the model or the GPUs.
    """
    parallel, actor = Parallel.of(config.actor), config.actor
    distributed = config.optimizer.distributed
    dp, size = parallel.dp(hardware.gpus), ELEMENT_BYTES[config.dtype]
    batch = MicroBatch(
        shape.model, actor.max_tokens, actor.tp, actor.sequence_parallel, actor.recompute, size
    )
    count = micro_batch_count(config, hardware, dp)
    phases = []
    frozen = Frozen.of(actor, shape.model)
    stages = rank_elements(shape.model, parallel, dp, frozen, distributed)
    for stage, elements in enumerate(stages):
        last, layers = stage == actor.pp - 1, max(elements.layers)
        flying = in_flight(actor.pp, stage, actor.vpp, count)
        # Of an interleaved stage only one chunk in flight is the last, which ends in log-probs.
        others = batch.kept(layers, last and actor.vpp == 1)
        kept = batch.kept(layers, last) + (flying - 1) * others
        working = batch.working(last) + elements.largest * size
        on_cpu = config.optimizer.on_cpu
        parts = actor_parts(elements, dp, config.dtype, distributed, on_cpu)
        resident = resident_parts(parts, config.offload)
        passes = 0 if config.offload != "none" else kept + working
        extra = {
            "generate": {},
            "train": {"activations": kept, "gradients under way": working},
            "update": {POOL: passes},
            "sync": {POOL: TRANSFER_BUFFER_BYTES},
        }
        contexts = {"contexts, NCCL": int(hardware.overhead * GB)}
        stage_phases = {name: contexts | resident[name] | extra[name] for name in PHASES}
        if not config.engine_beside:
            stage_phases |= {"generate": {}, "sync": {}}
        phases.append(stage_phases)
    return phases


PHASES = ("generate", "train", "update", "sync")
"""Of a step, in this order; log-prob passes need less than training."""


def resident_parts(parts: dict[str, int], offload: str) -> dict[str, dict[str, int]]:
    """Say which of `actor_parts` are on the GPU in each phase.

    Args:
        offload: as in the actor's fields.
    """
    if offload == "none":
        return dict.fromkeys(PHASES, parts)
    weights = {"weights": parts["weights"]}
    training = weights | {"gradients": parts["gradients"]}
    generate = {} if offload == "all" else weights
    return {"generate": generate, "train": training, "update": parts, "sync": weights}
