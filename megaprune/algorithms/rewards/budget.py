"""Rewards that know how long a response should be (L1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from megaprune.algorithms.component_fields import check_fields
from megaprune.algorithms.records import Group, Vector
from megaprune.algorithms.rewards.common import SCOPE, Scope, correctness, lengths, of_scope


def budget(group: Group) -> float:
    """Tokens that a response should have: the problem's own `budget`, else the round's limit."""
    return float(group.extra.get("budget") or group.limit)


@dataclass(frozen=True)
class BudgetExact:
    """Correctness less a penalty for each token above or below the budget (L1-Exact, 2503.04697).

    r = c - alpha |budget - length|. As published it holds for wrong answers, too.
    """

    name: ClassVar[str] = "budget_exact"
    smooth: ClassVar[bool] = True

    alpha: Annotated[float, Field(ge=0, description="the penalty of one token")] = 3e-4
    scope: Annotated[Scope, Field(description=SCOPE)] = "all"

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, group: Group, /) -> Vector:
        """[K] rewards, at most 1."""
        apart = self.alpha * np.abs(budget(group) - lengths(group))
        return correctness(group) - of_scope(group, self.scope, apart)


@dataclass(frozen=True)
class BudgetMax:
    """A right answer is worth more the further it stays below the budget (L1-Max, 2503.04697).

    r = c clip(alpha (budget - length) + delta, 0, 1). A wrong answer is worth nothing.
    """

    name: ClassVar[str] = "budget_max"
    smooth: ClassVar[bool] = True

    alpha: Annotated[float, Field(ge=0, description="the worth of one token below it")] = 3e-4
    delta: Annotated[
        float, Field(ge=0, le=1, description="what a right answer of the budget's length is worth")
    ] = 0.5

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, group: Group, /) -> Vector:
        """[K] rewards, 0 to 1."""
        below = self.alpha * (budget(group) - lengths(group)) + self.delta
        return correctness(group) * np.clip(below, 0.0, 1.0)
