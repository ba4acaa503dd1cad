"""Rewards of one prompt's responses. Another objective is one function and one line at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Group:
    """The K responses to one prompt, graded.

    Args:
        correct: [K] bool, the answer is right.
        length: [K] int, tokens of the response, its end token included.
        finished: [K] bool, the model ended the response itself.
        limit: tokens that a response of this round may have.

    Raises:
        ValueError: the three are not vectors of one length, or the limit is not positive.
    """

    correct: NDArray[np.bool_]
    length: NDArray[np.int64]
    finished: NDArray[np.bool_]
    limit: int

    def __post_init__(self) -> None:
        shapes = [np.shape(v) for v in (self.correct, self.length, self.finished)]
        if len(set(shapes)) > 1 or len(shapes[0]) != 1:
            raise ValueError(f"correct, length, finished of shapes {shapes}; expected [K] each")
        if self.limit < 1:
            raise ValueError(f"a limit of {self.limit} tokens; expected 1 or more")


Reward: TypeAlias = Callable[[Group], NDArray[np.float64]]
"""A group -> rewards, [K] float64."""


def truncate(group: Group) -> NDArray[np.float64]:
    """1 for a right answer that was finished within the limit, else 0 (ThinkPrune, 2504.01296).

    A right answer in a response that was cut off is worth nothing, nor is one that a larger
    sampling limit than the round's let through.
    """
    within = group.finished & (group.length <= group.limit)
    return (group.correct & within).astype(np.float64)


REWARDS: Mapping[str, Reward] = {
    "truncate": truncate,
}
"""Objectives by the name that a configuration calls them."""
