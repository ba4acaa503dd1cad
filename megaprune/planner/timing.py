"""How long a step is, from what is assumed of the GPUs (`machine.Machine`) and of lengths."""

from __future__ import annotations

from dataclasses import dataclass

from megaprune.parallelism import Parallel
from megaprune.planner.machine import GB, Machine
from megaprune.planner.memory import actor_parts, engine_of, held, micro_batches_of
from megaprune.planner.subject import PlanConfig, Shape


@dataclass(frozen=True)
class Round:
    """Of one round, under one limit.

    Args:
        limit: tokens of a response.
        sequences: that an engine decodes at once.
        seconds: of a step, by phase.
        tokens: of the responses of a step, on average.
        steps: of the round.
        validation_seconds: of all its validations.
    """

    limit: int
    sequences: int
    seconds: dict[str, float]
    tokens: float
    steps: int
    validation_seconds: float

    @property
    def step_seconds(self) -> float:
        """Of one step."""
        return sum(self.seconds.values())

    @property
    def total_seconds(self) -> float:
        """Of the whole round."""
        return self.steps * self.step_seconds + self.validation_seconds


def round_of(
    config: PlanConfig, shape: Shape, machine: Machine, number: int, sync_seconds: float
) -> Round:
    """How long a round takes. All groups are learned from, none is drawn again (refills).

    Args:
        number: of the round, from 0.
        sync_seconds: of a weight sync.
    """
    limit = config.rounds[number]
    sequences, generate = generate_seconds(
        config, shape, machine, config.data.train_batch_size, config.rollout.n, limit
    )
    seconds = {
        "generate": generate,
        "reference and old log-probs": log_prob_seconds(config, shape, machine, limit),
        "train": train_seconds(config, shape, machine, limit),
        "optimizer": optimizer_seconds(config, shape, machine),
        "sync": sync_seconds,
    }
    return Round(
        limit=limit,
        sequences=sequences,
        seconds=seconds,
        tokens=config.data.train_batch_size * config.rollout.n * limit * machine.mean_length,
        steps=config.steps,
        validation_seconds=_validations(config, number)
        * _validation_seconds(config, shape, machine, limit),
    )


def generate_seconds(
    config: PlanConfig, shape: Shape, machine: Machine, prompts: int, n: int, limit: int
) -> tuple[int, float]:
    """How many sequences an engine decodes at once, and seconds until all engines are done.

    An engine answers R = ceil(prompts / engines) x n. At once: the least of R, max_sequences and
    the cache's tokens / those of a sequence half grown (prompt + response / 2). Steps of decoding:
    R x response / at once, and once limit - response, since what is begun last may be the longest.
    A step: the most of (weights + at once x half-grown sequence x cache of a token) / (memory
    bandwidth x decode_efficiency) and of 2 x parameters x at once / tp / (peak x forward_mfu); and
    decode_overhead. Prompts, once each: 2 x parameters x tokens / tp / (peak x forward_mfu).
    """
    tp = config.rollout.tp
    engine = engine_of(config, shape, machine)
    engines = max(1, machine.gpus // tp)
    mine = -(-prompts // engines)
    response, prompt = (
        limit * machine.mean_length,
        config.data.max_prompt_length * machine.mean_prompt,
    )
    half_grown = prompt + response / 2
    fitting = max(1, int(engine.cache_tokens / half_grown))
    at_once = min(mine * n, config.rollout.max_num_seqs, fitting)
    speed = machine.flops(config.dtype) * machine.forward_mfu * tp
    read = engine.weights + at_once * half_grown * engine.cache_token
    one = max(
        read / (machine.memory_bandwidth * 1e12 * machine.decode_efficiency),
        2 * shape.parameters * at_once / speed,
    )
    steps = mine * n * response / at_once + (limit - response)
    prefill = 2 * shape.parameters * mine * prompt / speed
    return at_once, steps * (one + machine.decode_overhead) + prefill


def forward_flops(shape: Shape, tokens: float, length: float) -> dict[str, float]:
    """Operations of a forward pass over all ranks.

    layers: 2 x their parameters x tokens. attention: causal, 2 x layers x q x length x tokens (of
    queries with keys, and of weights with values: 2 x q x length / 2 each). head: 2 x vocab x
    hidden x tokens.

    Args:
        length: of a sequence.
    """
    m = shape.model
    whole = shape.parameters - m.vocab * m.hidden * (1 if m.tied else 2)
    return {
        "layers": 2.0 * whole * tokens,
        "attention": 2.0 * m.layers * m.heads * m.head_dim * length * tokens,
        "head": 2.0 * m.vocab * m.hidden * tokens,
    }


def train_seconds(config: PlanConfig, shape: Shape, machine: Machine, limit: int) -> float:
    """Of the gradients of a step: operations / (GPUs x peak x mfu) x (1 + bubble).

    Operations: 3 forward passes (the backward pass is two); 1 more of the layers and attention with
    recompute=full, of attention with core_attention, and of the head, whose logits are computed
    again. Frozen layers have none of their backward pass but, with full, nothing more. bubble:
    (pp - 1) / (micro-batches x vpp).
    """
    tokens, length = _tokens(config, machine, limit)
    pass_ = forward_flops(shape, tokens, length)
    again = {"none": 0, "core_attention": 0, "full": 1}[config.actor.recompute]
    attention_again = 0 if config.actor.recompute == "none" else 1
    frozen = config.actor.frozen_layers / shape.model.layers
    of_layers = (1 - frozen) * (3 + again) + frozen
    of_attention = (1 - frozen) * (3 + attention_again) + frozen
    work = pass_["layers"] * of_layers + pass_["attention"] * of_attention + pass_["head"] * 4
    speed = machine.gpus * machine.flops(config.dtype) * machine.mfu
    return work / speed * (1 + _bubble(config, machine))


def log_prob_seconds(config: PlanConfig, shape: Shape, machine: Machine, limit: int) -> float:
    """Of passes for log-probs: one of the reference if algorithm.kl, one more if updates > 1.

    Operations of a forward pass / (GPUs x peak x forward_mfu) x (1 + bubble); the reference's
    weights come from the host and the own ones go there and back: 3 x weights / host bandwidth.
    """
    passes = int(bool(config.algorithm.kl)) + int(config.algorithm.updates > 1)
    work = sum(forward_flops(shape, *_tokens(config, machine, limit)).values())
    speed = machine.gpus * machine.flops(config.dtype) * machine.forward_mfu
    seconds = passes * work / speed * (1 + _bubble(config, machine))
    if config.algorithm.kl:
        seconds += 3 * _resident(config, shape, machine)["weights"] / (machine.host_bandwidth * GB)
    return seconds


def optimizer_seconds(config: PlanConfig, shape: Shape, machine: Machine) -> float:
    """Of the updates of a step.

    With dp replicas, the distributed optimizer: gradients scattered and weights gathered,
    (gradients + weights) x (dp - 1) / dp / bandwidth; else gradients x 2 x (dp - 1) / dp. And
    gradients, optimizer state and weights read and written: 2 x their bytes / memory bandwidth.
    """
    dp = Parallel.of(config.actor).dp(machine.gpus)
    parts = _resident(config, shape, machine)
    moved = parts["gradients"] * (1 if config.optimizer.distributed else 2)
    moved += parts["weights"] if config.optimizer.distributed else 0
    one = moved * (dp - 1) / dp / (machine.bandwidth * GB)
    one += 2 * sum(parts.values()) / (machine.memory_bandwidth * 1e12)
    return config.algorithm.updates * one


def _resident(config: PlanConfig, shape: Shape, machine: Machine) -> dict[str, int]:
    """`actor_parts` of the stage that has most."""
    parallel, distributed = Parallel.of(config.actor), config.optimizer.distributed
    dp = parallel.dp(machine.gpus)
    stages = held(shape.model, parallel, dp, config.actor.frozen_layers, distributed)
    most = max(stages, key=lambda one: one.parameters)
    return actor_parts(most, dp, config.dtype, distributed)


def _tokens(config: PlanConfig, machine: Machine, limit: int) -> tuple[float, float]:
    """Tokens of all sequences of a step, and of one: mean prompt + mean response."""
    length = config.data.max_prompt_length * machine.mean_prompt + limit * machine.mean_length
    return config.data.train_batch_size * config.rollout.n * length, length


def _bubble(config: PlanConfig, machine: Machine) -> float:
    actor = config.actor
    dp = Parallel.of(config.actor).dp(machine.gpus)
    return (actor.pp - 1) / (micro_batches_of(config, machine, dp) * actor.vpp)


def _validations(config: PlanConfig, number: int) -> int:
    """How often a round validates: each `every` steps and after the last; before the first step of
    the first round, and of others with validation.first."""
    every = config.validation.every
    if not every or config.data.validation is None:
        return 0
    before = int(config.validation.first or (number == 0 and bool(config.limits)))
    return before + config.steps // every + (1 if config.steps % every else 0)


def _validation_seconds(config: PlanConfig, shape: Shape, machine: Machine, limit: int) -> float:
    """Of one validation: it generates, with its own n and limit."""
    of = config.validation
    return generate_seconds(
        config, shape, machine, machine.validation_problems, of.n, of.max_response_length or limit
    )[1]
