"""The policy loss of GRPO: clipped, token by token, with one denominator for the whole batch.

A batch is what one optimizer step learns from. Each micro-batch's loss is its sum over tokens
divided by the response tokens of the whole batch, so that however the batch is divided the shares
add up to the same loss and gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from megaprune.errors import InputError

if TYPE_CHECKING:
    from megaprune.actor.actor import Loss
    from megaprune.actor.logprobs import LogProbs

MAX_LOG_RATIO = 20.0
"""Differences of log-probs are held within +-20 before exp. A ratio of e^20 = 4.9e8 is beyond any
use, and fp32 has no inf below e^88, so that inf * 0 cannot make a nan. No gradient beyond it."""

MAX_KL = 10.0
"""The KL estimate of one token is cut off here, without a gradient beyond it, as ThinkPrune's
trainer does. (It also cuts at -10, which k3 >= 0 never reaches.)"""


@dataclass(frozen=True)
class Grpo:
    """GRPO (2402.03300) with the options that make it ThinkPrune (2504.01296), DLER and the like.

    A micro-batch's values, [N] each like its log-probs, by name:

    - `advantage`: of the token's response. Always needed.
    - `old`: log-probs under the policy before this batch's first optimizer step. Where they are
      absent the policy is that policy, and the ratio is 1 with the gradient of a ratio.
    - `reference`: log-probs under the reference model. Needed if `kl` is not 0.
    - `rollout`: log-probs under the distribution that drew the token. Needed for
      `importance_cap`; where they are there, the mismatch of the two engines is measured.

    Args:
        clip_low, clip_high: the ratio counts within [1 - clip_low, 1 + clip_high].
        kl: coefficient of the KL divergence to the reference, in the minimised loss: a positive one
            holds the policy to the reference. (ThinkPrune's code subtracts it.)
        entropy: coefficient of the mean entropy, in nats, which is subtracted from the minimised
            loss: a positive one keeps the policy open.
        importance_cap: truncated importance sampling: a token's policy loss is multiplied by the
            probability that the trainer gives it over the one that the rollout drew it with, at
            most this. The weight has no gradient. None for no correction.

    Raises:
        InputError: a number is out of its range.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    kl: float = 0.0
    entropy: float = 0.0
    importance_cap: float | None = None

    def __post_init__(self) -> None:
        _check("clip_low", self.clip_low, 0 <= self.clip_low < 1, "0 or more and below 1")
        _check("clip_high", self.clip_high, self.clip_high >= 0, "0 or more")
        _check("kl", self.kl, True, "a number")
        _check("entropy", self.entropy, True, "a number")
        if self.importance_cap is not None:
            _check("importance_cap", self.importance_cap, self.importance_cap > 0, "more than 0")

    @property
    def needs(self) -> frozenset[str]:
        """Names of the values without which the loss cannot be computed."""
        wanted = {"advantage": True, "reference": self.kl != 0, "rollout": self.importance_cap}
        return frozenset(name for name, is_wanted in wanted.items() if is_wanted)

    @property
    def needs_all(self) -> bool:
        """Whether samples with advantage 0 count; otherwise leaving them out changes nothing."""
        return self.kl != 0 or self.entropy != 0

    def loss(self, tokens: int) -> Loss:
        """The loss of a batch, micro-batch by micro-batch; the sum of the shares is

            mean(w * max(-A * rho, -A * clip(rho))) + kl * mean(k3) - entropy * mean(entropy)

        over tokens, with rho = exp(log-prob - old), w the capped importance weight and
        k3 = exp(d) - d - 1, d = reference - log-prob (http://joschu.net/blog/kl-approx.html).

        Metrics are sums over the tokens that are seen, to be divided by `tokens`, their number:
        `policy_loss_sum`, `entropy_sum`, `clipped_tokens` (whose ratio has no gradient), and
        `kl_sum` where there is a reference. Where there are rollout log-probs, of the policy
        before the step against them: `mismatch_abs_sum` (of the difference of log-probs),
        `mismatch_kl_sum` (k3: an estimate of KL(rollout || policy)) and, with a cap,
        `capped_tokens`.

        Args:
            tokens: response tokens of the whole batch, those of samples left out included.

        Raises:
            ValueError: `tokens` is not positive; from the loss, if it lacks a value it needs.
        """
        if tokens < 1:
            raise ValueError(f"a batch of {tokens} response tokens; expected 1 or more")

        def share(
            said: LogProbs, values: Mapping[str, torch.Tensor]
        ) -> tuple[torch.Tensor, dict[str, float]]:
            if missing := self.needs - values.keys():
                raise ValueError(f"the loss needs {sorted(missing)} of each token")
            total, sums = self._sums(said, values)
            # One transfer from the device, not one for each number.
            numbers = torch.stack([s.detach().double() for s in sums.values()]).tolist()
            counted = {"tokens": float(said.log_probs.numel())}
            return total / tokens, counted | dict(zip(sums, numbers, strict=True))

        return share

    def _sums(
        self, said: LogProbs, values: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss summed over tokens, and what is told of them."""
        log_probs = said.log_probs
        before = values.get("old", log_probs.detach())
        policy, clipped = self._policy(log_probs, before, values["advantage"])
        sums: dict[str, torch.Tensor] = {}
        if "rollout" in values:
            weight, sums = self._mismatch(before, values["rollout"])
            policy = policy * weight
        total = policy.sum()
        sums["policy_loss_sum"] = total
        sums["clipped_tokens"] = clipped.sum()
        sums["entropy_sum"] = said.entropy.sum()
        if "reference" in values:
            sums["kl_sum"] = k3(values["reference"] - log_probs).clamp(max=MAX_KL).sum()
        # What has no coefficient stays out of the graph: its gradient is not computed for nothing.
        if self.kl:
            total = total + self.kl * sums["kl_sum"]
        if self.entropy:
            total = total - self.entropy * sums["entropy_sum"]
        return total, sums

    def _policy(
        self, log_probs: torch.Tensor, before: torch.Tensor, advantage: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The clipped loss of each token, and whether it is clipped."""
        ratio = _exp(log_probs - before)
        free = -advantage * ratio
        held = -advantage * ratio.clamp(1 - self.clip_low, 1 + self.clip_high)
        return torch.maximum(free, held), held > free

    def _mismatch(
        self, before: torch.Tensor, rollout: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Importance weights, 1 without a cap, and how far trainer and rollout are apart.

        Both log-probs are constants, so all of this is.
        """
        apart = before - rollout
        sums = {"mismatch_abs_sum": apart.abs().sum(), "mismatch_kl_sum": k3(apart).sum()}
        weight = torch.ones_like(apart)
        if self.importance_cap is not None:
            uncapped = _exp(apart)
            weight = uncapped.clamp(max=self.importance_cap)
            sums["capped_tokens"] = (uncapped > self.importance_cap).sum()
        return weight, sums


def k3(apart: torch.Tensor) -> torch.Tensor:
    """exp(d) - d - 1 of d = log q(x) - log p(x); its mean over x ~ p estimates KL(p || q) >= 0.

    Shapes are kept; d is held within +-`MAX_LOG_RATIO`.
    """
    apart = apart.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return torch.expm1(apart) - apart


def _exp(apart: torch.Tensor) -> torch.Tensor:
    return apart.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def _check(name: str, value: float, fits: bool, expected: str) -> None:
    if not fits or not math.isfinite(value):
        raise InputError(f"{name}={value}; expected {expected}, and finite")
