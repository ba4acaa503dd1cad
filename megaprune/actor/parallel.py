"""How a model is divided among the ranks of a job."""

from __future__ import annotations

from dataclasses import dataclass, field

from megaprune.errors import InputError
from megaprune.weights.layouts import Layout, Pipeline, megatron_layout
from megaprune.weights.layouts.base import divisors
from megaprune.weights.model import Model


@dataclass(frozen=True)
class Parallel:
    """Sizes of the divisions; data-parallel replicas take the ranks that are left.

    Args:
        tp: tensor_model_parallel_size.
        pipeline: stages, virtual stages, and their layers.
        sequence: sequence parallelism: activations between the tensor-parallel layers are divided
            among the tp ranks too.
    """

    tp: int = 1
    pipeline: Pipeline = field(default_factory=Pipeline)
    sequence: bool = False

    def dp(self, world: int) -> int:
        """Number of data-parallel replicas in a world of so many ranks.

        Raises:
            InputError: tp x pp does not divide the world.
        """
        size = self.tp * self.pipeline.stages
        if size < 1 or world % size:
            raise InputError(
                f"tp={self.tp} x pp={self.pipeline.stages} is {size} ranks, which does not divide "
                f"the {world} that the job has; tp x pp can be {divisors(world)}, or start a "
                f"multiple of {size} ranks"
            )
        return world // size

    def layout(self, model: Model, world: int, norms: str) -> Layout:
        """Where each rank of the world has which weights.

        Raises:
            InputError: the model or the world cannot be divided so; says what can.
        """
        dp = self.dp(world)
        try:
            return megatron_layout(
                model, self.tp, self.pipeline, dp, norms="local" if norms == "local" else "te"
            )
        except ValueError as error:
            raise InputError(str(error)) from error
