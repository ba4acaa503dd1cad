"""Losses: of GRPO and its relatives, clipped, token by token; and of supervised fine-tuning.

A batch is what one optimizer step learns from. A loss gives each micro-batch's share: a sum over
tokens divided by a number that the whole batch has in common, so that however the batch is divided
the shares add up to the same loss and gradient. Torch is used through its tensors alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Protocol

from pydantic import Field

from megaprune import schema
from megaprune.algorithms.component_fields import check_fields
from megaprune.algorithms.loss_metrics import Metric, mean_by_token, sum_of
from megaprune.algorithms.records import LossBatch, LossOutput

if TYPE_CHECKING:
    import torch

MAX_LOG_RATIO = 20.0
"""Differences of log-probs are held within +-20 before exp. A ratio of e^20 = 4.9e8 is beyond any
use, and fp32 has no inf below e^88, so that inf * 0 cannot make a nan. No gradient beyond it."""

MAX_KL = 10.0
"""The KL estimate of one token is cut off here, without a gradient beyond it, as ThinkPrune's
trainer does. (It also cuts at -10, which k3 >= 0 never reaches.)"""


class Loss(Protocol):
    """What is minimised, micro-batch by micro-batch."""

    @property
    def needs(self) -> frozenset[str]:
        """Log-probs without which it cannot be computed: some of old, reference, rollout."""

    @property
    def needs_all(self) -> bool:
        """Whether samples with advantage 0 count; otherwise leaving them out changes nothing."""

    def __call__(self, batch: LossBatch, /) -> LossOutput:
        """A micro-batch's share, and its metrics."""


@dataclass(frozen=True)
class GrpoLoss:
    """GRPO (2402.03300) with the options that make it ThinkPrune (2504.01296), DLER and the like.

        mean(w * max(-A * rho, -A * clip(rho))) + kl_coef * mean(k3) - entropy_coef * mean(entropy)

    The mean is over the tokens of the whole batch; rho = exp(log-prob - old), w is the capped
    importance weight, and k3 = exp(d) - d - 1 with d = reference - log-prob
    (http://joschu.net/blog/kl-approx.html).

    Metrics, over the tokens of responses whose advantage is not 0: `policy_loss`, `clip_ratio`
    (tokens whose ratio has no gradient), and with a cap `importance_capped`. With a `kl_coef`, `kl`
    over all tokens.
    """

    name: ClassVar[str] = "grpo"
    by_advantage: ClassVar[bool] = True

    clip_ratio_low: Annotated[
        float, Field(ge=0, lt=1, description="the ratio counts from 1 - clip_ratio_low")
    ] = 0.2
    clip_ratio_high: Annotated[
        float, Field(ge=0, description="the ratio counts up to 1 + clip_ratio_high")
    ] = 0.2
    kl_coef: Annotated[
        float,
        Field(
            description="of the KL divergence to the reference, in the minimised loss: a positive "
            "one holds the policy to the model that the run began with (ThinkPrune's code "
            "subtracts it); other than 0 it takes a second copy of the weights in the host's "
            "memory and a pass over the batch"
        ),
    ] = 0.0
    entropy_coef: Annotated[
        float,
        Field(
            description="of the mean entropy in nats, which is subtracted from the minimised loss: "
            "a positive one keeps the policy open"
        ),
    ] = 0.0
    importance_cap: Annotated[
        float | None,
        Field(
            gt=0,
            description="truncated importance sampling: a token's policy loss is multiplied by the "
            "probability that the trainer gives it over the one that it was drawn with, at most "
            "this; null for no correction",
        ),
    ] = None

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def needs(self) -> frozenset[str]:
        """The old log-probs; reference and rollout with their options."""
        wanted = {"old": True, "reference": self.kl_coef != 0, "rollout": self.importance_cap}
        return frozenset(name for name, is_wanted in wanted.items() if is_wanted)

    @property
    def needs_all(self) -> bool:
        """Whether there is a term without an advantage."""
        return self.kl_coef != 0 or self.entropy_coef != 0

    def denominator(self, batch: LossBatch) -> int:
        """What the sum over tokens is divided by."""
        return batch.total_tokens

    def __call__(self, batch: LossBatch, /) -> LossOutput:
        """A micro-batch's share, and its metrics."""
        policy, clipped = self._policy(batch)
        learned = batch.advantage != 0
        metrics: dict[str, Metric] = {}
        if self.importance_cap is not None:
            weight = _ratio(batch.old - batch.value("rollout"))
            metrics[schema.IMPORTANCE_CAPPED] = mean_by_token(weight > self.importance_cap, learned)
            policy = policy * weight.clamp(max=self.importance_cap)
        total = policy.sum()
        metrics[schema.POLICY_LOSS] = mean_by_token(policy, learned)
        metrics[schema.CLIP_RATIO] = mean_by_token(clipped, learned)
        # What has no coefficient stays out of the graph: its gradient is not computed for nothing.
        if self.kl_coef:
            kl = k3(batch.value("reference") - batch.log_probs).clamp(max=MAX_KL)
            metrics[schema.KL] = mean_by_token(kl)
            total = total + self.kl_coef * kl.sum()
        if self.entropy_coef:
            total = total - self.entropy_coef * batch.entropy.sum()
        return LossOutput(total / self.denominator(batch), metrics)

    def _policy(self, batch: LossBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """The clipped loss of each token, and whether it is clipped."""
        ratio = _ratio(batch.log_probs - batch.old)
        free = -batch.advantage * ratio
        held = -batch.advantage * ratio.clamp(1 - self.clip_ratio_low, 1 + self.clip_ratio_high)
        return free.maximum(held), held > free


@dataclass(frozen=True)
class DrGrpoLoss(GrpoLoss):
    """Dr. GRPO (2503.20783): as `grpo`, but the sum over tokens is divided by a constant.

    The constant is the number of sequences times `sequence_tokens`: a token of a long response
    weighs as much as one of a short response, and as much in a batch of short ones as in another.
    """

    name: ClassVar[str] = "dr_grpo"

    sequence_tokens: Annotated[
        int | None,
        Field(
            ge=1,
            description="tokens that each sequence counts as; null for the limit of a response "
            "(rollout.max_response_length), as published",
        ),
    ] = None

    def denominator(self, batch: LossBatch) -> int:
        """The sequences of the whole batch times a constant."""
        tokens = self.sequence_tokens or batch.info.limit
        if tokens is None:
            raise ValueError("dr_grpo needs sequence_tokens where responses have no limit")
        return batch.total_sequences * tokens


@dataclass(frozen=True)
class SftLoss:
    """Mean negative log-likelihood over the scored tokens of the whole batch, in nats."""

    name: ClassVar[str] = "sft"
    needs: ClassVar[frozenset[str]] = frozenset()
    needs_all: ClassVar[bool] = True

    def __call__(self, batch: LossBatch, /) -> LossOutput:
        """A micro-batch's share."""
        return LossOutput(-batch.log_probs.sum() / batch.total_tokens)


def standard_metrics(batch: LossBatch, by_advantage: bool = False) -> dict[str, Metric]:
    """What is told of every batch, whatever the loss.

    `learned_tokens`; `entropy` by token; and where there are rollout log-probs, of the policy
    before the step against them: `mismatch` (mean absolute difference of log-probs) and
    `mismatch_kl` (k3: an estimate of KL(rollout || policy)).

    Args:
        by_advantage: whether the means are over the tokens of responses whose advantage is not 0,
            which are computed whatever the loss; else over all tokens.
    """
    learned = batch.advantage != 0 if by_advantage else None
    metrics = {
        schema.LEARNED_TOKENS: sum_of(batch.log_probs.new_ones(batch.log_probs.shape)),
        schema.ENTROPY: mean_by_token(batch.entropy, learned),
    }
    if "rollout" in batch.values:
        apart = batch.values.get("old", batch.log_probs.detach()) - batch.values["rollout"]
        metrics[schema.MISMATCH] = mean_by_token(apart.abs(), learned)
        metrics[schema.MISMATCH_KL] = mean_by_token(k3(apart), learned)
    return metrics


def k3(apart: torch.Tensor) -> torch.Tensor:
    """exp(d) - d - 1 of d = log q(x) - log p(x); its mean over x ~ p estimates KL(p || q) >= 0.

    Shapes are kept; d is held within +-`MAX_LOG_RATIO`.
    """
    apart = apart.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return apart.expm1() - apart


def _ratio(apart: torch.Tensor) -> torch.Tensor:
    return apart.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
