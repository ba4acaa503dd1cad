"""How long a step is and what a weight sync moves, from what is assumed of GPUs and lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from megaprune.config.limits import validation_limit
from megaprune.parallelism import Frozen, Parallel, engine_layout
from megaprune.planner.actor_memory import actor_parts, micro_batch_count, rank_elements
from megaprune.planner.hardware import ELEMENT_BYTES, GB, TRANSFER_BUFFER_BYTES, HardwareSpec
from megaprune.planner.request import AnyPlan, HarmonizePlanConfig, ModelShape, PlanConfig
from megaprune.planner.total_memory import engine_memory
from megaprune.rules import actor_layout
from megaprune.weights.copy_plan import plan


@dataclass(frozen=True)
class RoundTime:
    """How long a round takes, under one limit.

    Args:
        limit: tokens of a response.
        sequences: how many an engine decodes at once.
        seconds: of a step, by phase.
        collectives: seconds of it, in tensor-parallel collectives of the actor.
        bubbles: seconds of it, in bubbles of the pipeline.
        tokens: of the responses of a step, on average.
        steps: of the round.
        validation_seconds: of all its validations.
        before: seconds of what is done once before its steps, by part.
    """

    limit: int
    sequences: int
    seconds: dict[str, float]
    collectives: float
    bubbles: float
    tokens: float
    steps: int
    validation_seconds: float
    before: dict[str, float]

    @property
    def step_seconds(self) -> float:
        """Seconds of a step."""
        return sum(self.seconds.values())

    @property
    def total_seconds(self) -> float:
        """Seconds of the whole round."""
        steps = self.steps * self.step_seconds
        return steps + self.validation_seconds + sum(self.before.values())


def gpu_hours(gpus: int, rounds: Sequence[RoundTime]) -> float:
    """GPU-hours of all rounds with their validations: GPUs x seconds / 3600."""
    return gpus * sum(r.total_seconds for r in rounds) / 3600


def round_time(
    config: AnyPlan, shape: ModelShape, hardware: HardwareSpec, number: int, sync_seconds: float
) -> RoundTime:
    """Estimate a round. All groups are learned from: none is filtered and drawn again.

    Args:
        number: which round, from 0.
        sync_seconds: of a weight sync.
    """
    limit = config.round_limits[number]
    sequences, generate, before = _generation(config, shape, hardware, limit)
    passes = log_prob_time(config, shape, hardware, limit)
    train = train_time(config, shape, hardware, limit)
    seconds = {
        "generate": generate,
        "reference and old log-probs": passes.seconds,
        "train": train.seconds,
        "optimizer": optimizer_seconds(config, shape, hardware),
        "offload": offload_seconds(config, shape, hardware),
        "sync": sync_seconds,
    }
    return RoundTime(
        limit=limit,
        sequences=sequences,
        seconds=seconds,
        collectives=passes.collectives + train.collectives,
        bubbles=passes.bubbles + train.bubbles,
        tokens=config.learned_samples * limit * hardware.mean_length,
        steps=config.steps,
        validation_seconds=_validation_seconds(config, shape, hardware, number),
        before=before,
    )


def _generation(
    config: AnyPlan, shape: ModelShape, hardware: HardwareSpec, limit: int
) -> tuple[int, float, dict[str, float]]:
    """Estimate how many sequences an engine decodes at once, the seconds that a step generates, and
    those of what is done before: a harmonizing draws all responses, and passes over those chosen.
    """
    if isinstance(config, PlanConfig):
        if not config.prompts:
            return 0, 0.0, {}
        n = config.rollout.n
        return *generate_seconds(config, shape, hardware, config.prompts, n, limit), {}
    sequences, drawing = generate_seconds(
        config.sampling,
        shape,
        hardware,
        config.count_problems(hardware.training_problems),
        config.presample.n,
        limit,
    )
    return (
        sequences,
        0.0,
        {"responses": drawing} | reference_seconds(config, shape, hardware, limit),
    )


def reference_seconds(
    config: HarmonizePlanConfig, shape: ModelShape, hardware: HardwareSpec, limit: int
) -> dict[str, float]:
    """Estimate the pass for the reference's log-probs of all that a harmonizing chooses, if any."""
    if "reference" not in config.algorithm.needs:
        return {}
    problems = config.count_problems(hardware.training_problems)
    samples = config.groups(problems) * config.algorithm.unit
    time = _forward_time(config, shape, hardware, limit, passes=1, samples=samples)
    return {"log-probs of the reference": time.seconds}


def generation_seconds(
    config: AnyPlan, shape: ModelShape, hardware: HardwareSpec, number: int
) -> float:
    """Estimate all that the engines generate in a round, its validations included."""
    _, step, before = _generation(config, shape, hardware, config.round_limits[number])
    drawing = before.get("responses", 0.0)
    return config.steps * step + drawing + _validation_seconds(config, shape, hardware, number)


def generate_seconds(
    config: AnyPlan, shape: ModelShape, hardware: HardwareSpec, prompts: int, n: int, limit: int
) -> tuple[int, float]:
    """Estimate how many sequences an engine decodes at once, and the seconds until all are done.

    An engine answers R = ceil(prompts / engines) x n. At once: the least of R, max_num_seqs and
    the cache's tokens / those of a sequence half grown (prompt + response / 2). Steps of decoding:
    R x response / at once with so many sequences, and limit - response with one alone: what is
    begun last may be the longest (`_decoding_seconds`). Prompts, once each: 2 x parameters x tokens
    / tp / (peak x forward_mfu), and their collectives.
    """
    tp = config.rollout.tp
    engine = engine_memory(config, shape, hardware)
    engines = max(1, hardware.gpus // tp)
    own_prompts = -(-prompts // engines)
    response = limit * hardware.mean_length
    prompt = config.data.max_prompt_length * hardware.mean_prompt
    half_grown = prompt + response / 2
    fitting = max(1, int(engine.cache_tokens / half_grown))
    at_once = min(own_prompts * n, config.rollout.max_num_seqs, fitting)
    together = _decoding_seconds(config, shape, hardware, at_once, half_grown)
    alone = _decoding_seconds(config, shape, hardware, 1, prompt + (response + limit) / 2)
    decoding = own_prompts * n * response / at_once * together + (limit - response) * alone
    speed = hardware.flops(config.dtype) * hardware.forward_mfu * tp
    prefill = 2 * shape.parameters * own_prompts * prompt / speed
    prefill += _collective_seconds(
        config, shape, hardware, tp, tokens=own_prompts * prompt, layers=shape.model.layers
    )
    return at_once, decoding + prefill


def _decoding_seconds(
    config: AnyPlan, shape: ModelShape, hardware: HardwareSpec, at_once: int, length: float
) -> float:
    """Estimate a step of decoding of so many sequences of this length.

    The most of (weights + at once x length x cache of a token) / (memory bandwidth x
    decode_efficiency) and of 2 x parameters x at once / tp / (peak x forward_mfu); and
    decode_overhead, and `_collective_seconds` with 2 all-reduces a layer.
    """
    tp = config.rollout.tp
    engine = engine_memory(config, shape, hardware)
    read = engine.weights + at_once * length * engine.cache_token
    seconds = max(
        read / (hardware.memory_bandwidth * 1e12 * hardware.decode_efficiency),
        2 * shape.parameters * at_once / tp / (hardware.flops(config.dtype) * hardware.forward_mfu),
    )
    seconds += hardware.decode_overhead + _collective_seconds(
        config, shape, hardware, tp, tokens=at_once, layers=shape.model.layers
    )
    if tp > 1:
        seconds += 2 * shape.model.layers * hardware.all_reduce_seconds
    return seconds


def _collective_seconds(
    config: AnyPlan,
    shape: ModelShape,
    hardware: HardwareSpec,
    tp: int,
    *,
    tokens: float,
    layers: float,
    halves: int = 4,
) -> float:
    """Estimate tensor-parallel collectives, none of which overlaps with computing.

    An all-gather and a reduce-scatter are each a half of an all-reduce, and move tokens x hidden x
    bytes x (tp - 1) / tp over each GPU. A layer's forward pass has two all-reduces, or as many
    halves with sequence parallelism: 4 halves.
    """
    moved = tokens * shape.model.hidden * ELEMENT_BYTES[config.dtype] * (tp - 1) / tp
    return halves * layers * moved / (hardware.bandwidth_among(tp) * GB)


def forward_flops(shape: ModelShape, tokens: float, length: float) -> dict[str, float]:
    """Count the operations of a forward pass over all ranks.

    layers: 2 x their parameters x tokens. attention: causal, 2 x layers x q x length x tokens (of
    queries with keys, and of weights with values: 2 x q x length / 2 each). head: 2 x vocab x
    hidden x tokens.

    Args:
        length: tokens of a sequence.
    """
    m = shape.model
    whole = shape.parameters - m.vocab * m.hidden * (1 if m.tied else 2)
    return {
        "layers": 2.0 * whole * tokens,
        "attention": 2.0 * m.layers * m.heads * m.head_dim * length * tokens,
        "head": 2.0 * m.vocab * m.hidden * tokens,
    }


@dataclass(frozen=True)
class PassTime:
    """How long passes of the actor over a step's tokens take.

    Args:
        computing: seconds of operations at the assumed share of the peak.
        collectives: seconds of tensor-parallel collectives.
        bubbles: seconds in which a stage of the pipeline waits.
    """

    computing: float
    collectives: float
    bubbles: float

    @property
    def seconds(self) -> float:
        """Seconds in all, with what is copied besides counted as computing."""
        return self.computing + self.collectives + self.bubbles


def train_time(config: AnyPlan, shape: ModelShape, hardware: HardwareSpec, limit: int) -> PassTime:
    """Estimate the gradients of a step: (operations / (GPUs x peak x mfu) + collectives) x (1 +
    bubble).

    Operations: 3 forward passes (the backward pass is two); 1 more of the layers and attention with
    recompute=full, of attention with core_attention, and of the head, whose logits are computed
    again. Frozen layers have no backward pass, and a frozen head a half of it. Collectives
    of a layer: 4 halves of an all-reduce forward and 4 backward, 1 more with sequence parallelism,
    which gathers the input again, and 4 more with full. bubble: (pp - 1) / (micro-batches x vpp).
    """
    tokens, length = _tokens(config, hardware, limit)
    forward = forward_flops(shape, tokens, length)
    actor = config.actor
    again = {"none": 0, "core_attention": 0, "full": 1}[actor.recompute]
    attention_again = 0 if actor.recompute == "none" else 1
    kept = Frozen.of(actor, shape.model)
    frozen = kept.layers / shape.model.layers
    layer_passes = (1 - frozen) * (3 + again) + frozen
    attention_passes = (1 - frozen) * (3 + attention_again) + frozen
    work = forward["layers"] * layer_passes + forward["attention"] * attention_passes
    work += forward["head"] * (3 if kept.head else 4)
    speed = hardware.gpus * hardware.flops(config.dtype) * hardware.mfu
    trained = _pass_collectives(
        config, shape, hardware, tokens, halves=8 + 4 * again + int(actor.sequence_parallel)
    )
    untrained = _pass_collectives(config, shape, hardware, tokens, halves=4)
    return _pass_time(config, hardware, work / speed, (1 - frozen) * trained + frozen * untrained)


def log_prob_time(
    config: AnyPlan, shape: ModelShape, hardware: HardwareSpec, limit: int
) -> PassTime:
    """Estimate the passes for log-probs: those of the reference and the old ones, if needed.

    (Operations of a forward pass / (GPUs x peak x forward_mfu) + collectives) x (1 + bubble); the
    reference's weights come from the host and the own ones go there and back: 3 x weights / host
    bandwidth.
    """
    time = _forward_time(
        config, shape, hardware, limit, passes=len(config.passes), samples=config.learned_samples
    )
    if "reference" in config.passes:
        weights = _resident(config, shape, hardware)["weights"]
        copying = 3 * weights / (hardware.host_bandwidth * GB)
        time = replace(time, computing=time.computing + copying)
    return time


def _forward_time(
    config: AnyPlan,
    shape: ModelShape,
    hardware: HardwareSpec,
    limit: int,
    *,
    passes: int,
    samples: int,
) -> PassTime:
    """Estimate passes without a gradient over so many samples."""
    length = _length(config, hardware, limit)
    tokens = samples * length
    work = passes * sum(forward_flops(shape, tokens, length).values())
    speed = hardware.gpus * hardware.flops(config.dtype) * hardware.forward_mfu
    collectives = _pass_collectives(config, shape, hardware, tokens, halves=4 * passes)
    return _pass_time(config, hardware, work / speed, collectives)


def _pass_collectives(
    config: AnyPlan, shape: ModelShape, hardware: HardwareSpec, tokens: float, halves: int
) -> float:
    """Estimate the collectives of a stage, whose layers see the tokens of its replica."""
    actor, layers = config.actor, shape.model.layers / config.actor.pp
    own = tokens / Parallel.of(actor).dp(hardware.gpus)
    return _collective_seconds(
        config, shape, hardware, actor.tp, tokens=own, layers=layers, halves=halves
    )


def _pass_time(
    config: AnyPlan, hardware: HardwareSpec, computing: float, collectives: float
) -> PassTime:
    """Add the bubbles."""
    bubbles = (computing + collectives) * _bubble(config, hardware)
    return PassTime(computing, collectives, bubbles)


def optimizer_seconds(config: AnyPlan, shape: ModelShape, hardware: HardwareSpec) -> float:
    """Estimate the updates of a step.

    With dp replicas, the distributed optimizer: gradients scattered and weights gathered,
    (gradients + weights) x (dp - 1) / dp / bandwidth; else gradients x 2 x (dp - 1) / dp. And
    gradients, optimizer state and weights read and written: 2 x their bytes / memory bandwidth.
    With a share on the CPU, its gradients (4 bytes) go there and its weights (2) come back, /
    pinned_bandwidth; all GPUs of a host share its memory, where Adam reads 16 bytes and writes 12
    for each element, / host_memory_bandwidth.
    """
    dp = Parallel.of(config.actor).dp(hardware.gpus)
    parts = _resident(config, shape, hardware)
    moved = parts["gradients"] * (1 if config.optimizer.distributed else 2)
    moved += parts["weights"] if config.optimizer.distributed else 0
    update = moved * (dp - 1) / dp / (hardware.bandwidth * GB)
    update += 2 * sum(parts.values()) / (hardware.memory_bandwidth * 1e12)
    on_cpu = config.optimizer.on_cpu * parts["gradients"] / 4 / dp
    update += 6 * on_cpu / (hardware.pinned_bandwidth * GB)
    update += 28 * on_cpu * hardware.on_a_node / (hardware.host_memory_bandwidth * GB)
    return config.algorithm.num_minibatches * update


def offload_seconds(config: AnyPlan, shape: ModelShape, hardware: HardwareSpec) -> float:
    """Estimate what actor.offload copies in a step: bytes / pinned_bandwidth.

    The optimizer's state leaves and comes back for each update; with "all", the weights leave and
    come back once. Nothing of it overlaps with anything. Gradients are not copied.
    """
    if config.offload == "none":
        return 0.0
    parts = _resident(config, shape, hardware)
    moved = 2 * config.algorithm.num_minibatches * parts["optimizer"]
    moved += 2 * parts["weights"] if config.offload == "all" else 0
    return moved / (hardware.pinned_bandwidth * GB)


def _resident(config: AnyPlan, shape: ModelShape, hardware: HardwareSpec) -> dict[str, int]:
    """Return `actor_parts` of the stage that has most."""
    parallel, distributed = Parallel.of(config.actor), config.optimizer.distributed
    dp = parallel.dp(hardware.gpus)
    frozen = Frozen.of(config.actor, shape.model)
    stages = rank_elements(shape.model, parallel, dp, frozen, distributed)
    largest = max(stages, key=lambda stage: stage.parameters)
    return actor_parts(largest, dp, config.dtype, distributed, config.optimizer.on_cpu)


def _tokens(config: AnyPlan, hardware: HardwareSpec, limit: int) -> tuple[float, float]:
    """Return the tokens of all sequences of a step, and of one."""
    length = _length(config, hardware, limit)
    return config.learned_samples * length, length


def _length(config: AnyPlan, hardware: HardwareSpec, limit: int) -> float:
    """Return the tokens of a sequence: mean prompt + mean response, up to where it is cut."""
    length = config.data.max_prompt_length * hardware.mean_prompt + limit * hardware.mean_length
    return min(length, config.data.cutoff or length)


def _bubble(config: AnyPlan, hardware: HardwareSpec) -> float:
    actor = config.actor
    dp = Parallel.of(actor).dp(hardware.gpus)
    return (actor.pp - 1) / (micro_batch_count(config, hardware, dp) * actor.vpp)


def _validations(config: AnyPlan, number: int) -> int:
    """Count the validations of a round: one each `every` steps and one after the last; one before
    the first step of the first round, and of others with validation.first."""
    every = config.validation.every
    if not every or config.data.validation is None:
        return 0
    before = int(config.validation.first or (number == 0 and bool(config.limits)))
    return before + config.steps // every + (1 if config.steps % every else 0)


def _validation_seconds(
    config: AnyPlan, shape: ModelShape, hardware: HardwareSpec, number: int
) -> float:
    """Estimate all validations of a round: each generates, with its own n and limit."""
    count, longest = _validations(config, number), validation_limit(config, shape.context)
    if not count or longest is None:
        return 0.0
    problems, n = hardware.validation_problems, config.validation.n
    return count * generate_seconds(config, shape, hardware, problems, n, longest)[1]


# A weight sync, counted from the plan that a run carries out.


@dataclass(frozen=True)
class SyncTraffic:
    """What moves in a weight sync.

    Args:
        received: bytes that each GPU gets from others.
        sent: bytes that each GPU gives to others.
        lower_bound: bytes that each GPU needs and does not hold.
        pairs: of GPUs between which anything travels.
        rounds: of messages, so that no GPU has more than 240 MiB under way.
        permuting: transfers of a parameter that are not plain copies of memory.
        seconds: at the bandwidth that was given.
    """

    received: list[int]
    sent: list[int]
    lower_bound: list[int]
    pairs: int
    rounds: int
    permuting: int
    seconds: float

    @property
    def mean(self) -> float:
        """Bytes that a GPU gets, on average."""
        return sum(self.received) / len(self.received)


def most_sync_seconds(config: AnyPlan, shape: ModelShape, hardware: HardwareSpec) -> float:
    """Bound the seconds of a sync: as if a GPU got all that its engine's rank holds from others.

    Without an engine beside the model there is none.
    """
    if not config.engine_beside:
        return 0.0
    weights = engine_memory(config, shape, hardware).weights
    return weights / (hardware.bandwidth * GB) + 2 * weights / (hardware.memory_bandwidth * 1e12)


def sync_traffic(config: AnyPlan, shape: ModelShape, hardware: HardwareSpec) -> SyncTraffic:
    """Count a sync.

    Seconds: the most that a GPU sends or receives / bandwidth, and what each rank of an engine
    holds read and written once / memory bandwidth (local copies; all of it, at the most).

    Raises:
        InputError: the parallelism does not divide the model or the GPUs.
    """
    size = ELEMENT_BYTES[config.dtype]
    copy_plan = plan(
        actor_layout(config, shape.model, hardware.gpus),
        engine_layout(shape.model, config.rollout.tp, hardware.gpus),
    )
    received, sent, bound = (
        [elements * size for elements in side]
        for side in (copy_plan.received(), copy_plan.sent(), copy_plan.lower_bound())
    )
    degree: dict[int, int] = {}
    for pair in copy_plan.traffic:
        for rank in pair:
            degree[rank] = degree.get(rank, 0) + 1
    limit = TRANSFER_BUFFER_BYTES // size // max(degree.values(), default=1)
    rounds = max((-(-elements // limit) for elements in copy_plan.traffic.values()), default=0)
    local = 2 * size * sum(p.size for p in copy_plan.target.ranks[0])
    return SyncTraffic(
        received=received,
        sent=sent,
        lower_bound=bound,
        pairs=copy_plan.messages(),
        rounds=rounds,
        permuting=copy_plan.permuting(),
        seconds=max(*received, *sent) / (hardware.bandwidth * GB)
        + local / (hardware.memory_bandwidth * 1e12),
    )
