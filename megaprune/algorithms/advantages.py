"""Advantages of responses over their group: rewards [G, K] -> advantages [G, K]. Numpy alone.

G prompts have K responses each. In all of these a group whose rewards are all equal gets exactly
0.0, not a rounding error, so that it can be told and left out. A group of one response has nothing
to be compared with: its baseline is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Protocol

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
