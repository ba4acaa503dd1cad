"""Actors for tests, from a parallelism and fields of either section."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import torch

from megaprune.actor.actor import Actor
from megaprune.config.run import ActorConfig, OptimizerConfig
from megaprune.parallelism import Parallel

_OF_THE_ACTOR = {one.name for one in fields(ActorConfig)}


def build_actor(
    folder: Path, parallel: Parallel | None = None, dtype: torch.dtype = torch.float32, **options
) -> Actor:
    """An actor without weight decay; options are fields of `ActorConfig` or `OptimizerConfig`."""
    parallel = parallel or Parallel()
    pipeline = parallel.pipeline
    config = ActorConfig(
        tp=parallel.tp,
        pp=pipeline.stages,
        vpp=pipeline.chunks,
        num_layers_in_first_pipeline_stage=pipeline.first,
        num_layers_in_last_pipeline_stage=pipeline.last,
        sequence_parallel=parallel.sequence,
        **{name: value for name, value in options.items() if name in _OF_THE_ACTOR},
    )
    others = {name: value for name, value in options.items() if name not in _OF_THE_ACTOR}
    return Actor(folder, config, OptimizerConfig(**{"weight_decay": 0.0, **others}), dtype)
