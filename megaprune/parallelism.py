"""How a model is divided among the ranks of a job: in training, and over engines."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from megaprune.config.run import ActorConfig
from megaprune.errors import InputError, counted
from megaprune.weights.layouts.base import Layout, Parameter, divisors
from megaprune.weights.layouts.megatron import Pipeline, megatron_layout
from megaprune.weights.layouts.vllm import vllm_layout
from megaprune.weights.model import Model


@dataclass(frozen=True)
class Parallel:
    """Sizes of the parallelism; data-parallel replicas take the ranks that are left.

    Args:
        tp: tensor_model_parallel_size.
        pipeline: stages, virtual stages, and their layers.
        sequence: sequence parallelism: activations between the tensor-parallel layers are divided
            among the tp ranks too.
    """

    tp: int = 1
    pipeline: Pipeline = field(default_factory=Pipeline)
    sequence: bool = False

    @staticmethod
    def of(actor: ActorConfig) -> Parallel:
        """Return the parallelism that an actor's fields ask for."""
        pipeline = Pipeline(
            actor.pp,
            actor.vpp,
            actor.num_layers_in_first_pipeline_stage,
            actor.num_layers_in_last_pipeline_stage,
        )
        return Parallel(actor.tp, pipeline, actor.sequence_parallel)

    def dp(self, world: int) -> int:
        """Number of data-parallel replicas in a world of so many ranks.

        Raises:
            InputError: tp x pp does not divide the world.
        """
        size = self.tp * self.pipeline.stages
        if size < 1 or world % size:
            raise InputError(
                f"actor.tp={self.tp} x actor.pp={self.pipeline.stages} is {size} ranks, which does "
                f"not divide the {world} that the job has; tp x pp can be {divisors(world)}, or "
                f"start a multiple of {size} ranks"
            )
        return world // size

    def layout(self, model: Model, world: int, norms: str) -> Layout:
        """Lay out the weights over the ranks of the world.

        Raises:
            InputError: the model or the world cannot be divided so; says what can.
        """
        dp = self.dp(world)
        try:
            if not all(chunk for stage in self.pipeline.layers(model.layers) for chunk in stage):
                raise ValueError(
                    f"a stage of pp={self.pipeline.stages} would have none of the {model.layers} "
                    f"layers; change actor.pp, or num_layers_in_first_pipeline_stage and "
                    f"num_layers_in_last_pipeline_stage"
                )
            return megatron_layout(
                model, self.tp, self.pipeline, dp, norms="local" if norms == "local" else "te"
            )
        except ValueError as error:
            raise InputError(f"actor: {error}") from error


@dataclass(frozen=True)
class Frozen:
    """The part of a model that is not trained.

    Args:
        layers: how many first layers.
        head: whether the final norm and the head are frozen too.
    """

    layers: int = 0
    head: bool = False

    @staticmethod
    def of(actor: ActorConfig, model: Model) -> Frozen:
        """Return what an actor's fields freeze of a model."""
        if actor.trainable_layers is None:
            return Frozen(actor.frozen_layers)
        return Frozen(model.layers - actor.trainable_layers, head=True)

    @property
    def embedding(self) -> bool:
        """Whether the embedding is frozen, which is the head as well if they are tied."""
        return self.head or self.layers > 0

    def includes(self, parameter: Parameter) -> bool:
        """Say whether a rank's parameter is of what is frozen."""
        if not parameter.pieces:
            return False
        tensor = parameter.pieces[0].tensor
        if tensor.startswith("model.layers."):
            return int(tensor.split(".")[2]) < self.layers
        return self.embedding if tensor == "model.embed_tokens.weight" else self.head


@lru_cache(maxsize=4)
def engine_layout(model: Model, tp: int, world: int) -> Layout:
    """Lay out the weights over the ranks of the engines.

    Raises:
        InputError: the model or the world cannot be divided so; says what can.
    """
    if tp < 1 or world % tp:
        raise InputError(
            f"rollout.tp={tp} does not divide the {counted(world, 'process', 'processes')} of the "
            f"job; choose {divisors(world)}"
        )
    try:
        return vllm_layout(model, tp, world // tp)
    except ValueError as error:
        raise InputError(f"rollout: {error}") from error


_BLOCK = 128
"""Tokens of a block of vLLM's cache, at most: 128 on a CPU, 16 on a GPU."""


def cache_bytes(model: Model, tp: int, dtype: str, tokens: int) -> int:
    """Return the bytes of the blocks that a sequence takes in a rank's key-value cache.

    Args:
        tp: tensor parallelism of the engine.
        dtype: of the keys and values.
        tokens: of the sequence.
    """
    heads = max(1, model.kv_heads // tp)
    token = 2 * model.layers * heads * model.head_dim * {"bfloat16": 2, "float32": 4}[dtype]
    return -(-tokens // _BLOCK) * _BLOCK * token
