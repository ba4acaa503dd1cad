"""What a response is worth: frozen dataclasses that are called with a group.

A reward maps a `Group` of K responses to K numbers. Its fields are what a user can set as
`algorithm.reward.FIELD`; its `name` is what it is chosen by. A class in any file of this folder
needs no other entry anywhere. Needs numpy alone.

What else a class may say: `smooth`, that right answers of different lengths are worth different
amounts; `needs_reference`, that it compares with responses of the reference model.
"""

from __future__ import annotations

from typing import Protocol

from megaprune.algorithms.records import Group, Vector
from megaprune.algorithms.rewards.truncate import Truncate

__all__ = ["Group", "Reward", "Truncate"]


class Reward(Protocol):
    """What the responses to one prompt are worth."""

    def __call__(self, group: Group, /) -> Vector:
        """[K] float64 rewards."""
