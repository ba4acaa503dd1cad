"""Messages between pipeline stages, of micro-batches that differ in length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator
from megatron.core.pipeline_parallel.schedules import get_schedule_table
from megatron.core.process_groups_config import ProcessGroupCollection


class Neighbours(P2PCommunicator):
    """Megatron-core's communicator, which knows beforehand how long each message is.

    Every rank of a pipeline has the same micro-batches, so nobody needs to send shapes before
    activations. (Megatron-core's own exchange of shapes can also wait for each other forever where
    an interleaved schedule has as few micro-batches as stages, and takes one shape for another
    where both neighbours are the same rank.)

    Args:
        transformer: Megatron-core's settings.
        tokens: of each micro-batch, on this rank.
    """

    def __init__(self, transformer: Any, tokens: Sequence[int]):
        super().__init__(parallel_state.get_pipeline_model_parallel_group(), transformer)
        stage, stages = self.pp_group.rank(), self.pp_group.size()
        chunks = transformer.virtual_pipeline_model_parallel_size or 1
        # Who sends does so in the order in which the schedule takes micro-batches and chunks.
        order = [(batch, 0) for batch in range(len(tokens))]
        if chunks > 1:
            group = transformer.microbatch_group_size_per_vp_stage
            order = get_schedule_table(len(tokens), chunks, group)
        self._tokens = tokens
        self._activations = self._shapes(
            batch for batch, chunk in order if not (stage == 0 and chunk == 0)
        )
        last = stages - 1
        # Gradients come in the same order, with the last chunk first.
        self._gradients = self._shapes(
            batch for batch, chunk in order if not (stage == last and chunk == 0)
        )

    def _shapes(self, batches: Iterator[int]) -> Iterator[list[int]]:
        for batch in batches:
            yield [self._tokens[batch], 1, self.config.hidden_size]

    def _communicate_shapes(
        self,
        tensor_send_next: torch.Tensor | None,
        tensor_send_prev: torch.Tensor | None,
        recv_prev: bool,
        recv_next: bool,
    ) -> tuple[list[int], list[int]]:
        nothing = [0, 0, 0]
        return (
            next(self._activations) if recv_prev else nothing,
            next(self._gradients) if recv_next else nothing,
        )


def communication(transformer: Any, tokens: Sequence[int]) -> dict[str, Any]:
    """Arguments for Megatron-core's schedules that make them use `Neighbours`."""
    if transformer.pipeline_model_parallel_size == 1:
        return {}
    return {
        "p2p_communicator": Neighbours(transformer, tokens),
        "pg_collection": ProcessGroupCollection.use_mpu_process_groups(),
    }
