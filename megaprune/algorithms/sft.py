"""Supervised fine-tuning: the likelihood of given responses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from megaprune.actor.logprobs import LogProbs


def sft_loss(
    tokens: int,
) -> Callable[[LogProbs, Mapping[str, torch.Tensor]], tuple[torch.Tensor, dict[str, float]]]:
    """Mean negative log-likelihood over the response tokens of a whole batch, in nats.

    Args:
        tokens: how many the whole batch has.
    """

    def loss(
        said: LogProbs, values: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        return -said.log_probs.sum() / tokens, {}

    return loss
