"""What cannot be divided, or cannot be at all, in the words of the checks of a run itself."""

from __future__ import annotations

from functools import lru_cache

from megaprune.actor.parallel import Parallel
from megaprune.errors import InputError
from megaprune.planner.machine import Machine
from megaprune.planner.subject import PlanConfig, Shape
from megaprune.weights.layouts import Layout, Pipeline, vllm_layout
from megaprune.weights.layouts.base import divisors
from megaprune.weights.model import Model


def parallel_of(config: PlanConfig) -> Parallel:
    """The actor's division."""
    actor = config.actor
    pipeline = Pipeline(
        actor.pp,
        actor.vpp,
        actor.num_layers_in_first_pipeline_stage,
        actor.num_layers_in_last_pipeline_stage,
    )
    return Parallel(actor.tp, pipeline, actor.sequence_parallel)


def layouts(config: PlanConfig, shape: Shape, machine: Machine) -> tuple[Layout, Layout]:
    """Where the actor's ranks and those of the engines have which weights.

    Raises:
        InputError: it cannot be divided so.
    """
    return _actor_layout(config, shape, machine), _engine_layout(config, shape, machine)


def _actor_layout(config: PlanConfig, shape: Shape, machine: Machine) -> Layout:
    return _megatron(shape.model, parallel_of(config), machine.gpus)


def _engine_layout(config: PlanConfig, shape: Shape, machine: Machine) -> Layout:
    return _vllm(shape.model, config.rollout.tp, machine.gpus)


@lru_cache(maxsize=4)
def _megatron(model: Model, parallel: Parallel, gpus: int) -> Layout:
    return parallel.layout(model, gpus, "te")


@lru_cache(maxsize=4)
def _vllm(model: Model, tp: int, gpus: int) -> Layout:
    if gpus % tp:
        raise InputError(
            f"rollout.tp={tp} does not divide the {gpus} processes of the job; "
            f"choose {divisors(gpus)}"
        )
    try:
        return vllm_layout(model, tp, gpus // tp)
    except ValueError as error:
        raise InputError(str(error)) from error


def division_problems(config: PlanConfig, shape: Shape, machine: Machine) -> list[str]:
    """What of the heads, layers and ranks does not divide: each would end a run at its start."""
    found = []
    for make in (_actor_layout, _engine_layout):
        try:
            make(config, shape, machine)
        except InputError as error:
            found.append(str(error))
    return found


def field_problems(config: PlanConfig, shape: Shape, machine: Machine) -> list[str]:
    """What cannot be although it divides: each would end a run, some of them late."""
    return [
        *length_problems(config, shape),
        *actor_problems(config, shape),
        *engine_problems(config, machine),
    ]


def length_problems(config: PlanConfig, shape: Shape) -> list[str]:
    """Of responses too long for the model; no division helps."""
    if not shape.context or config.longest <= shape.context:
        return []
    return [
        f"a response and data.max_prompt_length={config.data.max_prompt_length} are up to "
        f"{config.longest} "
        f"tokens, more than the model's context of {shape.context} tokens; lower one of them"
    ]


def actor_problems(config: PlanConfig, shape: Shape) -> list[str]:
    """Of the actor's fields."""
    actor, found = config.actor, []
    if actor.sequence_parallel and actor.tp == 1:
        found.append(
            "actor.sequence_parallel=true with actor.tp=1; Megatron-core has it only with tp > 1"
        )
    if config.longest_trained > actor.max_tokens:
        found.append(
            f"a sample has {config.longest_trained} tokens (data.max_prompt_length and the limit), "
            f"which "
            f"is more than a micro-batch may have ({actor.max_tokens}); set actor.max_tokens to at "
            f"least that"
        )
    if not 0 <= actor.frozen_layers < shape.model.layers:
        found.append(
            f"frozen_layers={actor.frozen_layers}; the model has {shape.model.layers} layers, and "
            f"the last must be trained"
        )
    return found


def engine_problems(config: PlanConfig, machine: Machine) -> list[str]:
    """Of the engines' fields."""
    if config.rollout.tp <= machine.on_a_node:
        return []
    return [
        f"rollout.tp={config.rollout.tp} is more than the {machine.on_a_node} GPUs of a node; "
        f"choose {divisors(machine.on_a_node)}"
    ]


def notes(config: PlanConfig, machine: Machine) -> list[str]:
    """What is possible and wastes something."""
    found = []
    if machine.gpus % machine.on_a_node:
        found.append(f"{machine.gpus} GPUs are not whole nodes of {machine.gpus_per_node}")
    if config.actor.tp > machine.on_a_node:
        found.append(f"actor.tp={config.actor.tp} crosses nodes, and will be slow")
    engines = machine.gpus // config.rollout.tp
    if engines and config.data.train_batch_size % engines:
        found.append(
            f"{config.data.train_batch_size} prompts over {engines} engines: some have one "
            f"more than others"
        )
    samples = config.data.train_batch_size * config.rollout.n // config.algorithm.updates
    size = config.actor.tp * config.actor.pp
    if machine.gpus % size == 0 and samples % (machine.gpus // size):
        found.append(
            f"{samples} samples of an update over {machine.gpus // size} replicas: some have more "
            f"than others"
        )
    if config.algorithm.refills:
        found.append(
            f"algorithm.refills={config.algorithm.refills}: what is drawn again takes more time "
            f"than is said here, up to {1 + config.algorithm.refills} times that to generate"
        )
    return found
