"""The reward of ThinkPrune and DLER."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from megaprune.algorithms.records import Group, Vector


@dataclass(frozen=True)
class Truncate:
    """1 for a right answer that was finished within the limit, else 0 (ThinkPrune, 2504.01296).

    A right answer in a response that was cut off is worth nothing, nor is one that a larger
    sampling limit than the round's let through.
    """

    name: ClassVar[str] = "truncate"

    def __call__(self, group: Group, /) -> Vector:
        """[K] rewards, 0 or 1."""
        within = group.finished & (group.length <= group.limit)
        return (group.correct & within).astype(np.float64)
