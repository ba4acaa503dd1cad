"""Losses: of GRPO and its relatives, clipped, token by token; and of supervised fine-tuning.

A batch is what one optimizer step learns from. A loss gives each micro-batch's share: a sum over
tokens divided by a number that the whole batch has in common, so that however the batch is divided
the shares add up to the same loss and gradient. Torch is used through its tensors alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Protocol

from pydantic import Field

from megaprune import schema
from megaprune.algorithms.component_fields import check_fields
from megaprune.algorithms.loss_metrics import Metric, mean_by_token, sum_of
from megaprune.algorithms.records import LossBatch, LossOutput
from megaprune.errors import InputError

if TYPE_CHECKING:
    import torch

MAX_LOG_RATIO = 20.0
"""Differences of log-probs are held within +-20 before exp. A ratio of e^20 = 4.9e8 is beyond any
use, and fp32 has no inf below e^88, so that inf * 0 cannot make a nan. No gradient beyond it."""

MAX_KL = 10.0
"""The KL estimate of one token is cut off here, without a gradient beyond it, as ThinkPrune's
trainer does. (It also cuts at -10, which k3 >= 0 never reaches.)"""


_ClipLow = Annotated[
    float, Field(ge=0, lt=1, description="the ratio counts from 1 - clip_ratio_low")
]
_ClipHigh = Annotated[float, Field(ge=0, description="the ratio counts up to 1 + clip_ratio_high")]


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

        mean(w * max(-A * rho, -A * clip(rho))) + kl_coef * mean(kl) - entropy_coef * mean(entropy)

    The mean is over the tokens of the whole batch, or with `aggregate=sequence` over its sequences,
    each of which is the mean over its tokens. rho = exp(log-prob - old) (see `ratio_to`), w is the
    importance weight (see `importance_cap`), and kl an estimate of each token's KL divergence to
    the reference (see `kl_estimator`).

    Metrics, over the tokens of responses whose advantage is not 0: `policy_loss`, `clip_ratio`
    (tokens whose ratio has no gradient), and with a cap `importance_capped`. With a `kl_coef`, `kl`
    over all tokens.
    """

    name: ClassVar[str] = "grpo"
    by_advantage: ClassVar[bool] = True

    clip_ratio_low: _ClipLow = 0.2
    clip_ratio_high: _ClipHigh = 0.2
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
            description="importance sampling: a token's policy loss is multiplied by the "
            "probability that the trainer gives it over the one that it was drawn with, at most "
            "this; null for no correction",
        ),
    ] = None
    dual_clip: Annotated[
        float | None,
        Field(
            gt=1,
            description="where the advantage is negative, a token's loss is at most this times the "
            "advantage's size (1912.09729; verl has 3); null for no such bound",
        ),
    ] = None
    aggregate: Annotated[
        Literal["token", "sequence"],
        Field(
            description="the mean over all tokens of the batch, or over sequences the mean over "
            "each one's tokens, as GRPO was published"
        ),
    ] = "token"
    ratio_to: Annotated[
        Literal["old", "reference"],
        Field(
            description="the policy that rho compares with: the one before the step, or the model "
            "that the run began with, as O1-Pruner (2501.12570) does"
        ),
    ] = "old"
    kl_estimator: Annotated[
        Literal["k1", "k2", "k3"],
        Field(
            description="of d = reference - log-prob: k1 = -d, k2 = d^2 / 2, k3 = exp(d) - d - 1 "
            "(http://joschu.net/blog/kl-approx.html); k1 in the loss has no gradient in the mean"
        ),
    ] = "k3"
    kl_in: Annotated[
        Literal["loss", "reward"],
        Field(
            description="whether the divergence is a term of the loss, or is taken from the reward "
            "of a response before advantages are computed, as a sum over its tokens without a "
            "gradient; the latter takes one more pass over the batch, for the policy's log-probs"
        ),
    ] = "loss"
    importance_level: Annotated[
        Literal["token", "sequence"],
        Field(description="whether that is of the token, or of the whole response (the product)"),
    ] = "token"
    importance_above: Annotated[
        Literal["cap", "mask"],
        Field(
            description="what becomes of a weight above the cap: the cap (truncated importance "
            "sampling), or 0 (masked: the token or the response does not count)"
        ),
    ] = "cap"
    importance_floor: Annotated[
        float,
        Field(ge=0, description="weights below this are 0 (IcePop, with importance_above=mask)"),
    ] = 0.0

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def needs(self) -> frozenset[str]:
        """The old log-probs or the reference's; others with their options."""
        wanted = {
            "old": self.ratio_to == "old" or self.importance_cap or self.kl_in_reward,
            "reference": self.ratio_to == "reference" or self.kl_coef != 0,
            "rollout": self.importance_cap,
        }
        return frozenset(name for name, is_wanted in wanted.items() if is_wanted)

    @property
    def needs_all(self) -> bool:
        """Whether there is a term without an advantage."""
        return (self.kl_coef != 0 and not self.kl_in_reward) or self.entropy_coef != 0

    @property
    def kl_in_reward(self) -> bool:
        """Whether rewards lose what `reward_penalty` says."""
        return self.kl_coef != 0 and self.kl_in == "reward"

    def reward_penalty(self, old: torch.Tensor, reference: torch.Tensor) -> float:
        """What the reward of a response loses by its divergence from the reference.

        Args:
            old: [L] log-probs of its tokens, of the policy before the step's first update.
            reference: [L] the same, of the reference model.
        """
        return self.kl_coef * float(self._kl(old, reference).sum())

    def denominator(self, batch: LossBatch) -> int:
        """What the sum over tokens is divided by."""
        return batch.total_sequences if self.aggregate == "sequence" else batch.total_tokens

    def __call__(self, batch: LossBatch, /) -> LossOutput:
        """A micro-batch's share, and its metrics."""
        learned = batch.advantage != 0
        metrics: dict[str, Metric] = {}
        kl = self._kl(batch.log_probs, batch.value("reference")) if self.kl_coef else None
        if kl is not None:
            metrics[schema.KL] = mean_by_token(kl)
        policy, clipped = self._policy(batch)
        if self.importance_cap is not None:
            policy = policy * self._importance(batch, self.importance_cap, learned, metrics)
        metrics[schema.POLICY_LOSS] = mean_by_token(policy, learned)
        metrics[schema.CLIP_RATIO] = mean_by_token(clipped, learned)
        total = self._sum(batch, policy)
        # What has no coefficient stays out of the graph: its gradient is not computed for nothing.
        if kl is not None and not self.kl_in_reward:
            total = total + self.kl_coef * self._sum(batch, kl)
        if self.entropy_coef:
            total = total - self.entropy_coef * self._sum(batch, batch.entropy)
        return LossOutput(total / self.denominator(batch), metrics)

    def _sum(self, batch: LossBatch, values: torch.Tensor) -> torch.Tensor:
        """What is divided by the denominator: of tokens, or of the means of sequences."""
        if self.aggregate == "sequence":
            return batch.mean_by_sequence(values).sum()
        return values.sum()

    def _ratio(self, batch: LossBatch) -> torch.Tensor:
        """[N] the policy's probability over that of `ratio_to`."""
        return _ratio(self._apart(batch))

    def _apart(self, batch: LossBatch) -> torch.Tensor:
        """[N] the logarithm of each token's ratio."""
        return batch.log_probs - (batch.old if self.ratio_to == "old" else batch.value("reference"))

    def _policy(self, batch: LossBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """[N] the clipped loss of each token, and whether it is clipped."""
        advantage, ratio = batch.advantage, self._ratio(batch)
        free = -advantage * ratio
        held = -advantage * ratio.clamp(1 - self.clip_ratio_low, 1 + self.clip_ratio_high)
        loss, clipped = free.maximum(held), held > free
        if self.dual_clip is not None:
            bound = advantage.abs() * self.dual_clip
            beyond = (advantage < 0) & (loss > bound)
            loss, clipped = loss.where(~beyond, bound), clipped | beyond
        return loss, clipped

    def _kl(self, log_probs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """[N] the estimate of each token's divergence."""
        apart = (reference - log_probs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        if self.kl_estimator == "k3":
            return k3(apart).clamp(max=MAX_KL)
        return -apart if self.kl_estimator == "k1" else apart.square() / 2

    def _importance(
        self, batch: LossBatch, cap: float, learned: torch.Tensor, metrics: dict[str, Metric]
    ) -> torch.Tensor:
        """[N] what a token's policy loss is multiplied by."""
        apart = batch.old.detach() - batch.value("rollout")
        if self.importance_level == "sequence":
            apart = batch.to_tokens(batch.sum_by_sequence(apart))
        weight = _ratio(apart)
        above = weight > cap
        metrics[schema.IMPORTANCE_CAPPED] = mean_by_token(above, learned)
        left = weight.clamp(max=cap) if self.importance_above == "cap" else weight * ~above
        return left * (weight >= self.importance_floor)


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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.aggregate != "token":
            raise InputError("aggregate=sequence; dr_grpo adds up tokens and divides by a constant")

    def denominator(self, batch: LossBatch) -> int:
        """The sequences of the whole batch times a constant."""
        tokens = self.sequence_tokens or batch.info.limit
        if tokens is None:
            raise ValueError("dr_grpo needs sequence_tokens where responses have no limit")
        return batch.total_sequences * tokens


@dataclass(frozen=True)
class GspoLoss(GrpoLoss):
    """GSPO (2507.18071): as `grpo`, but a token's ratio is that of its whole response.

    The ratio of a response is the geometric mean of its tokens' ratios, so that a response is
    clipped as a whole. Its range is far smaller than that of tokens. The gradient goes through
    each token's own log-prob, as published for the token-level form (GSPO-token).
    """

    name: ClassVar[str] = "gspo"

    clip_ratio_low: _ClipLow = 3e-4
    clip_ratio_high: _ClipHigh = 4e-4
    aggregate: Annotated[
        Literal["token", "sequence"],
        Field(description="the mean over all tokens, or over sequences, as published"),
    ] = "sequence"

    def _ratio(self, batch: LossBatch) -> torch.Tensor:
        mean = batch.to_tokens(batch.mean_by_sequence(self._apart(batch).detach()))
        return _ratio(mean + batch.log_probs - batch.log_probs.detach())


@dataclass(frozen=True)
class O1PrunerLoss(GspoLoss):
    """O1-Pruner (2501.12570): as `gspo`, with the ratio to the reference model, clipped at 0.2.

    The advantage of a response is its weight. At the reference model the loss is minus the mean
    weight, and the gradient by each of a response's L log-probs is -weight / L over their number.
    """

    name: ClassVar[str] = "o1_pruner"

    clip_ratio_low: _ClipLow = 0.2
    clip_ratio_high: _ClipHigh = 0.2
    ratio_to: Annotated[
        Literal["old", "reference"],
        Field(
            description="the policy that the ratio compares with: the model that the run began "
            "with, as published, or the one that drew the response"
        ),
    ] = "reference"


@dataclass(frozen=True)
class CispoLoss(GrpoLoss):
    """CISPO (2506.13585): the clipped ratio is a weight without a gradient.

        mean(-A * stop_gradient(clip(rho)) * log-prob)

    No token is without a gradient, however far its ratio has moved.
    """

    name: ClassVar[str] = "cispo"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dual_clip is not None:
            raise InputError(f"dual_clip={self.dual_clip}; cispo has no such bound: expected null")

    def _policy(self, batch: LossBatch) -> tuple[torch.Tensor, torch.Tensor]:
        ratio = self._ratio(batch).detach()
        held = ratio.clamp(1 - self.clip_ratio_low, 1 + self.clip_ratio_high)
        return -batch.advantage * held * batch.log_probs, held != ratio


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
