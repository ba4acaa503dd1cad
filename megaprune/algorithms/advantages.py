"""Advantages of responses over their group: rewards [G, K] -> advantages [G, K]. Numpy alone.

G prompts have K responses each. In all estimators a group whose rewards are all equal gets exactly
0.0, not a rounding error, so that it can be told and left out. A group of one response has nothing
to be compared with: its baseline is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Matrix: TypeAlias = NDArray[np.float64]
"""[groups, responses]."""

EPSILON = 1e-6
"""Added to a group's standard deviation by `group_std`, as ThinkPrune's trainer does."""

Advantage: TypeAlias = Callable[[Matrix], Matrix]
"""Rewards [G, K] float64 -> advantages [G, K] float64; ValueError if they are not a matrix."""


def group_std(rewards: Matrix) -> Matrix:
    """(r - mean) / (std + 1e-6), std unbiased; 1 in a group of one (GRPO, 2402.03300)."""
    centred = group_mean(rewards)
    if centred.shape[1] == 1:
        return centred / (1.0 + EPSILON)
    return centred / (centred.std(axis=1, ddof=1, keepdims=True) + EPSILON)


def group_mean(rewards: Matrix) -> Matrix:
    """r - mean of the group (Dr. GRPO, 2503.20783); r itself in a group of one."""
    if rewards.ndim != 2 or rewards.shape[1] == 0:
        raise ValueError(f"rewards of shape {rewards.shape}; expected [groups, responses]")
    rewards = rewards.astype(np.float64)
    if rewards.shape[1] == 1:
        return rewards
    # Equal rewards become 0 before a mean is taken, which rounds: (.1 + .1 + .1) / 3 is not .1.
    shifted = rewards - rewards[:, :1]
    return shifted - shifted.mean(axis=1, keepdims=True)


def batch_std(rewards: Matrix) -> Matrix:
    """Centred by group, then by the batch's mean over its population std (DLER, 2510.15110, eq. 3).

    There is no epsilon: a batch without any signal gets zeros.
    """
    centred = group_mean(rewards)
    if centred.shape[1] == 1:
        # Centred by group, the batch's mean is 0 and only rounding would be subtracted; not here.
        centred = centred - (centred.mean() if centred.size else 0.0)
    return centred / centred.std() if centred.any() else centred


def without_signal(advantages: Matrix) -> NDArray[np.bool_]:
    """[G] bool: the groups all of whose advantages are 0, which no policy gradient comes from."""
    return ~advantages.any(axis=1)


ADVANTAGES: Mapping[str, Advantage] = {
    "group_std": group_std,
    "group_mean": group_mean,
    "batch_std": batch_std,
}
"""Estimators by the name that a configuration calls them."""
