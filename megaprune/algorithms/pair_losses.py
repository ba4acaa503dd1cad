"""Losses of pairs: of two responses to a prompt, one is to become likelier than the other.

Both responses of a pair are in one micro-batch, one behind the other (see `unit`). The one with
the larger advantage is preferred; how much larger it is does not matter. Every pair counts alike:
the loss is the mean over the pairs of the whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from megaprune import schema
from megaprune.algorithms.component_fields import check_fields
from megaprune.algorithms.loss_metrics import mean_by_sequence
from megaprune.algorithms.records import LossBatch, LossOutput
from megaprune.errors import InputError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DpoLoss:
    """DPO (2305.18290): the preferred response gains on the other, beside the reference model.

        mean over pairs(-log sigmoid(beta * (s_preferred - s_other)))

    s is the log-prob of a response less the one that the reference model gives it, each summed over
    its tokens.

    Metrics, over pairs: `pair/margin`, the argument of the sigmoid, and `pair/accuracy`, the share
    of pairs in which it is above 0.
    """

    name: ClassVar[str] = "dpo"
    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    needs_all: ClassVar[bool] = True
    by_advantage: ClassVar[bool] = True
    unit: ClassVar[int] = 2

    beta: Annotated[
        float,
        Field(
            gt=0,
            description="how strongly the policy is held to the reference model; O1-Pruner's "
            "authors had 0.1",
        ),
    ] = 0.1

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, batch: LossBatch, /) -> LossOutput:
        """A micro-batch's share, and its metrics."""
        apart = batch.log_probs - batch.value("reference")
        return _mean_over_pairs(batch, self.beta * batch.sum_by_sequence(apart))


@dataclass(frozen=True)
class SimpoLoss:
    """SimPO (2405.14734): as `dpo`, without a reference, of mean log-probs, and by a margin.

        mean over pairs(-log sigmoid(beta * (s_preferred - s_other) - gamma))

    s is the mean log-prob of a response's tokens. The metrics are those of `dpo`.
    """

    name: ClassVar[str] = "simpo"
    needs: ClassVar[frozenset[str]] = frozenset()
    needs_all: ClassVar[bool] = True
    by_advantage: ClassVar[bool] = True
    unit: ClassVar[int] = 2

    beta: Annotated[
        float, Field(gt=0, description="the weight of mean log-probs; published: 2 to 2.5")
    ] = 2.0
    gamma: Annotated[
        float,
        Field(
            ge=0,
            description="by how much the preferred response is to be ahead, after the weight; "
            "published: 0.3 to 1.6",
        ),
    ] = 1.0

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, batch: LossBatch, /) -> LossOutput:
        """A micro-batch's share, and its metrics."""
        scores = self.beta * batch.mean_by_sequence(batch.log_probs)
        return _mean_over_pairs(batch, scores, self.gamma)


def _mean_over_pairs(batch: LossBatch, scores: torch.Tensor, gamma: float = 0.0) -> LossOutput:
    """-log sigmoid of how far preferred responses are ahead, over all pairs of the batch.

    Args:
        scores: [S], of which the preferred response of each pair is to have the larger.
        gamma: by how much it is to be larger.

    Raises:
        InputError: two responses of a pair have the same advantage.
        ValueError: the sequences are no pairs.
    """
    advantage = batch.advantage[list(batch.borders[:-1])]
    if not advantage.any():  # an empty micro-batch, or a batch without a pair
        return LossOutput(0.0 * scores.sum())
    if len(advantage) % 2:
        raise ValueError(f"{len(advantage)} sequences; expected pairs")
    signs = (advantage[::2] - advantage[1::2]).sign()
    if not signs.all():
        raise InputError(
            "two responses of a pair have the same advantage, so that neither is preferred; "
            "expected an algorithm.reward that tells them apart, as minmax does by length"
        )
    margin = signs * (scores[::2] - scores[1::2]) - gamma
    # -log sigmoid(x) = log(1 + exp(-x)), which neither overflows nor vanishes like this.
    loss = (-margin).logaddexp(margin.new_zeros(())).sum() / (batch.total_sequences / 2)
    of_both = margin.repeat_interleave(2)
    metrics = {
        schema.PAIR_MARGIN: mean_by_sequence(of_both),
        schema.PAIR_ACCURACY: mean_by_sequence(of_both > 0),
    }
    return LossOutput(loss, metrics)
