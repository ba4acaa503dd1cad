"""Both engines of a run on this rank, and the way of the weights from one to the other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from megaprune.actor.actor import Actor
from megaprune.config.limits import longest_sequence, needs_engine
from megaprune.config.run import Config
from megaprune.distributed.device import release_cached
from megaprune.generation.generator import Generator
from megaprune.weights.copy_plan import plan
from megaprune.weights.model import read_config
from megaprune.weights.rope import context_of
from megaprune.weights.sync import SyncStats, WeightSync


class Engines:
    """The model in training and the engine that answers. All methods are collective.

    The engine has its weights after the first `sync`: it reads none of its own. On a GPU it sleeps
    until then. A run that learns from stored responses and measures nothing has no engine.

    Args:
        config: of the run.
        starting: entered with the name of each part while it is built.

    Raises:
        InputError: the model or the ranks cannot be divided so.
    """

    def __init__(
        self,
        config: Config,
        starting: Callable[[str], AbstractContextManager[None]] = lambda _: nullcontext(),
    ):
        model = Path(config.model)
        # vLLM wants its memory to be free when it starts.
        length = longest_sequence(config, context_of(read_config(model)))
        self._dtype = getattr(torch, config.dtype)
        self.generator: Generator | None = None
        if needs_engine(config):
            with starting("vLLM"):
                self.generator = Generator(
                    model, config.rollout, self._dtype, length, dummy_weights=True
                )
                self.generator.sleep()
        with starting("actor"):
            self.actor = Actor(
                model, config.actor, config.optimizer, self._dtype, config.deterministic
            )
        self._weight_sync: WeightSync | None = None

    def sleep(self) -> None:
        """The engine, if there is one, gives its memory to the model in training."""
        if self.generator is not None:
            self.generator.sleep()

    def close(self) -> None:
        """Free the engine."""
        if self.generator is not None:
            self.generator.close()

    def sync(self) -> SyncStats | None:
        """The engine gets the actor's weights, and is awake; None if there is no engine."""
        if self.generator is None:
            return None
        self.actor.offload_state()
        release_cached()  # what the last step's passes had, the rollout's weights need now
        self.generator.wake_weights()
        sync = self._weight_sync
        if sync is None:
            sync = WeightSync(
                plan(self.actor.layout, self.generator.layout),
                self.actor.parameters(),
                self.generator.parameters(),
                self._dtype,
            )
        stats = sync.run()
        if self._weight_sync is None:
            sync.verify()  # what it left out would still be random
            self._weight_sync = sync
        self.actor.offload_weights()
        release_cached()
        self.generator.weights_changed()
        self.generator.wake_cache()
        return stats
