"""The grader's verdict alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from megaprune.algorithms.records import Group, Vector
from megaprune.algorithms.rewards.common import correctness


@dataclass(frozen=True)
class Correct:
    """1 for a right answer, else 0: length plays no part. One criterion among several."""

    name: ClassVar[str] = "correct"

    def __call__(self, group: Group, /) -> Vector:
        """[K] rewards, 0 or 1."""
        return correctness(group)
