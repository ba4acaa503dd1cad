"""Penalties of length that grow with the share of a group's right answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from megaprune.algorithms.component_fields import check_fields
from megaprune.algorithms.records import Group, Vector
from megaprune.algorithms.rewards.common import SCOPE, Scope, correctness, lengths, of_scope


@dataclass(frozen=True)
class SolveRate:
    """A token costs more the more of the group's answers are right (ALP, 2506.05256).

    r = c - beta max(p, 1/K) L / N, with the share p of right answers among K. As published it holds
    for wrong answers, too.
    """

    name: ClassVar[str] = "solve_rate"
    smooth: ClassVar[bool] = True

    beta: Annotated[
        float, Field(ge=0, description="the penalty of N tokens where all are right")
    ] = 0.2
    N: Annotated[int, Field(ge=1, description="tokens over which beta is lost")] = 16_000
    scope: Annotated[Scope, Field(description=SCOPE)] = "all"

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, group: Group, /) -> Vector:
        """[K] rewards, at most 1."""
        if not len(group.correct):
            return correctness(group)
        rate = max(float(group.correct.mean()), 1.0 / len(group.correct))
        penalty = self.beta * rate * lengths(group) / self.N
        return correctness(group) - of_scope(group, self.scope, penalty)


@dataclass(frozen=True)
class PassRate:
    """A right answer loses in proportion to its length and to the share of right answers.

    r = c max(0, 1 - w p L / longest), with the share p of right answers, and the longest of them.
    """

    name: ClassVar[str] = "pass_rate"
    smooth: ClassVar[bool] = True

    w: Annotated[
        float, Field(ge=0, description="what the longest answer loses where all are right")
    ] = 0.5

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, group: Group, /) -> Vector:
        """[K] rewards, 0 to 1."""
        if not group.correct.any():
            return correctness(group)
        longest = max(float(group.length[group.correct].max()), 1.0)
        loss = self.w * float(group.correct.mean()) * lengths(group) / longest
        return correctness(group) * np.maximum(1.0 - loss, 0.0)
