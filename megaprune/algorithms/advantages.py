"""Advantages of responses over their group: rewards [G, K] -> advantages [G, K]. Numpy alone.

G prompts have K responses each. In all of these a group whose rewards are all equal gets exactly
0.0, not a rounding error, so that it can be told and left out. A group of one response has nothing
to be compared with: its baseline is 0.

An advantage is called with what its `arguments` name, if it has them: `rewards` [G, K], what the
responses are worth; `parts` [R, G, K], each of R rewards by itself, and their `weights` [R];
`length` [G, K], tokens. Without them it is called with the rewards.

Which settings give the numbers of other trainers, but for groups without signal. verl: its grpo is
`group_std` (epsilon 1e-6, ddof 1), without norm_adv_by_std_in_grpo `group_mean`, its rloo
`leave_one_out`, its reinforce_plus_plus_baseline `reinforce_pp_baseline`, and its gdpo `gdpo` with
by_batch=token. TRL: its scale_rewards=group is `group_std` with epsilon 1e-4, none is `group_mean`,
its normalize_then_sum `gdpo` with epsilon 1e-4, and its RLOO `leave_one_out`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from megaprune.algorithms.component_fields import check_fields
from megaprune.algorithms.records import Matrix


class Advantage(Protocol):
    """How much better responses are than others."""

    def __call__(self, rewards: Matrix, /) -> Matrix:
        """Rewards [G, K] float64 -> advantages [G, K] float64."""


@dataclass(frozen=True)
class GroupMean:
    """r - mean of the group (Dr. GRPO, 2503.20783); r itself in a group of one."""

    name: ClassVar[str] = "group_mean"
    within_group: ClassVar[bool] = True

    def __call__(self, rewards: Matrix, /) -> Matrix:
        """[G, K] advantages."""
        return _centred(rewards)


@dataclass(frozen=True)
class GroupStd:
    """(r - mean) / (std + epsilon) of the group (GRPO, 2402.03300); std is 1 in a group of one."""

    name: ClassVar[str] = "group_std"
    within_group: ClassVar[bool] = True

    epsilon: Annotated[
        float,
        Field(ge=0, description="added to the deviation; ThinkPrune's trainer adds 1e-6"),
    ] = 1e-6
    ddof: Annotated[
        int,
        Field(ge=0, le=1, description="1: deviation of a sample, over K - 1; 0: over K"),
    ] = 1

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, rewards: Matrix, /) -> Matrix:
        """[G, K] advantages."""
        centred = _centred(rewards)
        if centred.shape[1] == 1:
            return centred / (1.0 + self.epsilon)
        deviation = centred.std(axis=1, ddof=self.ddof, keepdims=True) + self.epsilon
        # Without an epsilon a group without signal is 0 / 0.
        return np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0)


@dataclass(frozen=True)
class BatchStd:
    """Centred by group, then by the batch's mean over its population std (DLER, 2510.15110, eq. 3).

    There is no epsilon: a batch without any signal gets zeros.
    """

    name: ClassVar[str] = "batch_std"

    def __call__(self, rewards: Matrix, /) -> Matrix:
        """[G, K] advantages."""
        centred = _centred(rewards)
        if centred.shape[1] == 1:
            # Centred by group, the batch's mean is 0 and only rounding would be subtracted; not
            # here.
            centred = centred - (centred.mean() if centred.size else 0.0)
        return centred / centred.std() if centred.any() else centred


@dataclass(frozen=True)
class LeaveOneOut:
    """r - mean of the group's other responses (RLOO, 2402.14740); r itself in a group of one."""

    name: ClassVar[str] = "leave_one_out"
    within_group: ClassVar[bool] = True

    def __call__(self, rewards: Matrix, /) -> Matrix:
        """[G, K] advantages."""
        centred, count = _centred(rewards), rewards.shape[1]
        return centred if count == 1 else centred * count / (count - 1)


@dataclass(frozen=True)
class Gdpo:
    """Each reward is divided by its own deviation, and then they are added up (GDPO, 2601.05242).

    So a reward that varies little in a group counts as much as one that varies much. Every reward
    has the advantage of `group_std`; their weighted sum is then normalised over the batch.
    """

    name: ClassVar[str] = "gdpo"
    arguments: ClassVar[tuple[str, ...]] = ("parts", "weights", "length")

    epsilon: Annotated[
        float,
        Field(
            ge=0,
            description="added to the deviation of each reward in a group, and to that of the sum "
            "over responses",
        ),
    ] = 1e-6
    by_batch: Annotated[
        Literal["response", "token", "none"],
        Field(
            description="whether the sum is normalised over the batch's responses, over its tokens "
            "(as verl does), or not at all"
        ),
    ] = "response"

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(
        self, parts: NDArray[np.float64], weights: NDArray[np.float64], length: Matrix, /
    ) -> Matrix:
        """Rewards [R, G, K], their weights [R] and lengths [G, K] -> [G, K] advantages."""
        each = np.stack([GroupStd(self.epsilon)(part) for part in parts])
        total: Matrix = np.tensordot(weights, each, 1)
        if self.by_batch == "none" or not total.any():
            return total
        if self.by_batch == "token":
            whitened = _whiten(total, length)
        else:
            centred = total - total.mean()
            variance = (centred**2).sum() / max(total.size - 1, 1)
            whitened = centred / (np.sqrt(variance) + self.epsilon)
        # A response that is alone is compared with the batch; a group without signal is not.
        signal = each.any(axis=(0, 2))[:, None] | (total.shape[1] == 1)
        return np.where(signal, whitened, 0.0)


@dataclass(frozen=True)
class ReinforcePlusPlusBaseline:
    """r - mean of the group, normalised over the batch's tokens (REINFORCE++, 2501.03262).

    The mean and the deviation of the batch are weighted by the responses' tokens, and the variance
    is that of a sample, over the number of tokens less 1. Groups without signal are 0 before the
    batch's mean is taken, and are left at 0.
    """

    name: ClassVar[str] = "reinforce_pp_baseline"
    arguments: ClassVar[tuple[str, ...]] = ("rewards", "length")

    epsilon: Annotated[float, Field(ge=0, description="added to the variance")] = 1e-8

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, rewards: Matrix, length: Matrix, /) -> Matrix:
        """[G, K] advantages."""
        centred = _centred(rewards)
        signal = centred.any(axis=1, keepdims=True)
        if not signal.any():
            return centred
        return np.where(signal, _whiten(centred, length, self.epsilon), 0.0)


def without_signal(advantages: Matrix) -> NDArray[np.bool_]:
    """[G] bool: the groups all of whose advantages are 0, which no policy gradient comes from."""
    return ~advantages.any(axis=1)


def _centred(rewards: Matrix) -> Matrix:
    """Rewards less the mean of their group."""
    if rewards.ndim != 2 or rewards.shape[1] == 0:
        raise ValueError(f"rewards of shape {rewards.shape}; expected [groups, responses]")
    rewards = rewards.astype(np.float64)
    if rewards.shape[1] == 1:
        return rewards
    # Equal rewards become 0 before a mean is taken, which rounds: (.1 + .1 + .1) / 3 is not .1.
    shifted = rewards - rewards[:, :1]
    return shifted - shifted.mean(axis=1, keepdims=True)


def _whiten(values: Matrix, length: Matrix, epsilon: float = 1e-8) -> Matrix:
    """Values less their mean, over their deviation, where each counts once for every token."""
    mean = np.average(values, weights=length)
    tokens = max(float(length.sum()), 2.0)
    variance = np.average((values - mean) ** 2, weights=length) * tokens / (tokens - 1)
    whitened: Matrix = (values - mean) / np.sqrt(variance + epsilon)
    return whitened
