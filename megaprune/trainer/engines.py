"""Both engines of a run on this rank, and the way of the weights from one to the other."""

from __future__ import annotations

from pathlib import Path

import torch

from megaprune.actor.actor import Actor, ActorSettings
from megaprune.actor.parallel import Parallel
from megaprune.config.run import Config, EngineConfig
from megaprune.distributed.device import release_cached
from megaprune.generation.generator import Generator, GeneratorConfig
from megaprune.weights.copy_plan import plan
from megaprune.weights.layouts import Pipeline
from megaprune.weights.sync import SyncStats, WeightSync


class Engines:
    """The model in training and the engine that answers. All methods are collective.

    The engine has its weights after the first `sync`. On a GPU it sleeps until then.

    Args:
        config: of the run.

    Raises:
        InputError: the model or the ranks cannot be divided so.
    """

    def __init__(self, config: Config):
        model = Path(config.model)
        # vLLM wants its memory to be free when it starts.
        limit = max(config.rollout.max_response_length, config.validation.max_response_length or 0)
        length = config.data.max_prompt_length + limit
        self.generator = Generator(model, rollout_config(config.rollout, config.dtype, length))
        self.generator.sleep()
        self.actor = Actor(model, _actor_config(config))
        self._dtype = getattr(torch, config.dtype)
        self._transfer: WeightSync | None = None

    def sync(self) -> SyncStats:
        """The engine gets the actor's weights, and is awake."""
        release_cached()  # what the last step's passes had, the rollout's weights need now
        self.generator.wake_weights()
        if self._transfer is None:
            self._transfer = WeightSync(
                plan(self.actor.layout, self.generator.layout),
                self.actor.parameters(),
                self.generator.parameters(),
                self._dtype,
            )
        sent: SyncStats = self._transfer.run()
        self.generator.weights_changed()
        self.generator.wake_cache()
        return sent


def rollout_config(engine: EngineConfig, dtype: str, max_length: int) -> GeneratorConfig:
    """What a rollout is built with.

    Args:
        max_length: tokens of prompt and response together.
    """
    return GeneratorConfig(
        tp=engine.tp,
        dtype=getattr(torch, dtype),
        max_length=max_length,
        max_sequences=engine.max_num_seqs,
        kv_cache_bytes=engine.kv_cache_memory_bytes,
        gpu_share=engine.gpu_memory_utilization,
        eager=engine.enforce_eager,
    )


def _actor_config(config: Config) -> ActorSettings:
    actor, optimizer = config.actor, config.optimizer
    pipeline = Pipeline(
        actor.pp,
        actor.vpp,
        actor.num_layers_in_first_pipeline_stage,
        actor.num_layers_in_last_pipeline_stage,
    )
    return ActorSettings(
        parallel=Parallel(actor.tp, pipeline, actor.sequence_parallel),
        dtype=getattr(torch, config.dtype),
        max_tokens=actor.max_tokens,
        recompute=actor.recompute,
        frozen_layers=actor.frozen_layers,
        distributed_optimizer=optimizer.distributed,
        lr=optimizer.lr,
        weight_decay=optimizer.weight_decay,
        betas=(optimizer.beta1, optimizer.beta2),
        clip_grad=optimizer.clip_grad,
    )
