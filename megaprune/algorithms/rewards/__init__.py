"""What a response is worth: one file for each reward, a frozen dataclass called with a group.

A reward maps a `Group` of K responses to K numbers. Its fields are what a user can set as
`algorithm.reward.FIELD`; its `name` is what it is chosen by. Needs numpy alone.
"""

from __future__ import annotations

from typing import Protocol

from megaprune.algorithms.records import Group, Vector
from megaprune.algorithms.rewards.soft_overlong import SoftOverlong
from megaprune.algorithms.rewards.truncate import Truncate

__all__ = ["Group", "Reward", "SoftOverlong", "Truncate"]


class Reward(Protocol):
    """What the responses to one prompt are worth."""

    def __call__(self, group: Group, /) -> Vector:
        """[K] float64 rewards."""
