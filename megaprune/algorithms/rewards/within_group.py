"""Rewards that compare lengths within a group: no limit, no budget, no history.

In all of them c is 1 for a right answer, else 0, and L is a response's tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from megaprune.algorithms.component_fields import check_fields
from megaprune.algorithms.records import Group, Vector
from megaprune.algorithms.rewards.common import SCOPE, Scope, correctness, lengths, of_scope


@dataclass(frozen=True)
class Relative:
    """A right answer loses by how long it is among the right ones (Arora, Zanette; 2502.04463).

    r = c (1 - alpha sigmoid((L - m) / s)), with the mean m and the population's deviation s of the
    right answers' lengths. Where all have the same length, each loses half of alpha.
    """

    name: ClassVar[str] = "relative"
    smooth: ClassVar[bool] = True

    alpha: Annotated[float, Field(ge=0, le=1, description="the most that length can take")] = 0.2

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, group: Group, /) -> Vector:
        """[K] rewards, 0 to 1."""
        right = lengths(group)[group.correct]
        if not right.size:
            return correctness(group)
        mean, deviation = right.mean(), right.std()
        apart = (lengths(group) - mean) / deviation if deviation else np.zeros(len(group.correct))
        # A wrong answer may be far away; its reward is 0 whatever its sigmoid is.
        sigmoid = 1.0 / (1.0 + np.exp(-np.clip(apart, -500.0, 500.0)))
        return correctness(group) * (1.0 - self.alpha * sigmoid)


@dataclass(frozen=True)
class MinMax:
    """The length reward of Kimi k1.5 (2501.12599).

    r = c + w (lam if right, else min(0, lam)), with lam = 1/2 - (L - shortest) / (longest -
    shortest) over the whole group. Where all have the same length, length plays no part.
    """

    name: ClassVar[str] = "minmax"
    smooth: ClassVar[bool] = True

    w: Annotated[float, Field(ge=0, description="the weight of length")] = 1.0
    scope: Annotated[Scope, Field(description=SCOPE)] = "all"

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, group: Group, /) -> Vector:
        """[K] rewards, -w/2 to 1 + w/2."""
        length = lengths(group)
        if not length.size or length.max() == length.min():
            return correctness(group)
        lam = 0.5 - (length - length.min()) / (length.max() - length.min())
        share = np.where(group.correct, lam, np.minimum(lam, 0.0))
        return correctness(group) + self.w * of_scope(group, self.scope, share)


@dataclass(frozen=True)
class Shortest:
    """A right answer should be as short as the shortest right one (ShorterBetter, 2504.21370).

    r = alpha c - beta |L - S|, where S is the length of the shortest right answer, or the mean
    length where none is right. As published it holds for wrong answers, too.
    """

    name: ClassVar[str] = "shortest"
    smooth: ClassVar[bool] = True

    alpha: Annotated[float, Field(ge=0, description="the worth of a right answer")] = 2.0
    beta: Annotated[float, Field(ge=0, description="the penalty of one token")] = 1e-3
    scope: Annotated[Scope, Field(description=SCOPE)] = "all"

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, group: Group, /) -> Vector:
        """[K] rewards, at most alpha."""
        length = lengths(group)
        if not length.size:
            return length
        target = length[group.correct].min() if group.correct.any() else length.mean()
        apart = self.beta * np.abs(length - target)
        return self.alpha * correctness(group) - of_scope(group, self.scope, apart)


@dataclass(frozen=True)
class Multiplicative:
    """The worth of an answer is divided by a number that grows with its length (GR3, 2603.10535).

    r = c / (1 + alpha L / mean L), over the whole group.
    """

    name: ClassVar[str] = "multiplicative"
    smooth: ClassVar[bool] = True

    alpha: Annotated[float, Field(ge=0, description="of the length over the group's mean")] = 0.33

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, group: Group, /) -> Vector:
        """[K] rewards, 0 to 1."""
        length = lengths(group)
        mean = length.mean() if length.any() else 1.0
        return correctness(group) / (1.0 + self.alpha * length / mean)


@dataclass(frozen=True)
class ShortestBonus:
    """The shortest right answer of a group earns a flat bonus; several that are as short share it
    not: each earns all of it."""

    name: ClassVar[str] = "shortest_bonus"

    bonus: Annotated[float, Field(ge=0, description="of the shortest right answer")] = 0.5

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, group: Group, /) -> Vector:
        """[K] rewards, 0 to 1 + bonus."""
        if not group.correct.any():
            return correctness(group)
        shortest = group.length == group.length[group.correct].min()
        return correctness(group) + self.bonus * (group.correct & shortest)


@dataclass(frozen=True)
class LongestPenalty:
    """The longest right answer of a group loses a flat penalty, and never falls below 0.

    Where several are as long, each loses it; where all right answers are of one length, or there is
    one alone, none does.
    """

    name: ClassVar[str] = "longest_penalty"

    penalty: Annotated[float, Field(ge=0, description="of the longest right answer")] = 0.5

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, group: Group, /) -> Vector:
        """[K] rewards, 0 to 1."""
        right = group.length[group.correct]
        if not right.size or right.min() == right.max():
            return correctness(group)
        longest = group.correct & (group.length == right.max())
        return np.maximum(correctness(group) - self.penalty * longest, 0.0)


@dataclass(frozen=True)
class GroupRelative:
    """Right answers are compared with each other, and the mean of what they gain or lose is 0.

    r = max(0, c + w (u - mean u)) of right answers, with u = 1 - (L - shortest) / (longest -
    shortest) over them. A wrong answer is worth nothing, and right answers of one length keep 1.
    """

    name: ClassVar[str] = "group_relative"
    smooth: ClassVar[bool] = True

    w: Annotated[float, Field(ge=0, description="the weight of length")] = 0.5

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, group: Group, /) -> Vector:
        """[K] rewards, 0 to 1 + w."""
        right = lengths(group)[group.correct]
        if not right.size or right.min() == right.max():
            return correctness(group)
        u = 1.0 - (lengths(group) - right.min()) / (right.max() - right.min())
        shaped = 1.0 + self.w * (u - u[group.correct].mean())
        return np.where(group.correct, np.maximum(shaped, 0.0), 0.0)


@dataclass(frozen=True)
class Outlier:
    """Right answers that are much longer than the others lose a penalty, and never fall below 0.

    A right answer is an outlier if 0.6745 (L - median) / MAD > threshold (the modified z-score of
    Iglewicz and Hoaglin), median and MAD being of the right answers. Where the MAD is less than
    1.5 % of the median the lengths are as good as equal, and nothing is an outlier.

    With `only_all_right` and a penalty of 1 it is the truncation of DOT (2601.03969): the right
    answers of groups without a wrong one.
    """

    name: ClassVar[str] = "outlier"

    threshold: Annotated[float, Field(gt=0, description="the modified z-score above which")] = 3.5
    penalty: Annotated[float, Field(ge=0, description="of an outlier")] = 1.0
    only_all_right: Annotated[
        bool, Field(description="whether groups with a wrong answer are left as they are")
    ] = False

    SMALLEST_SPREAD: ClassVar[float] = 0.015

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, group: Group, /) -> Vector:
        """[K] rewards, 0 to 1."""
        return np.maximum(correctness(group) - self.penalty * self._outliers(group), 0.0)

    def _outliers(self, group: Group) -> NDArray[np.bool_]:
        right = lengths(group)[group.correct]
        none: NDArray[np.bool_] = np.zeros(len(group.correct), np.bool_)
        if not right.size or (self.only_all_right and not group.correct.all()):
            return none
        median = np.median(right)
        deviation = np.median(np.abs(right - median))
        if deviation < self.SMALLEST_SPREAD * median or not deviation:
            return none
        score = 0.6745 * (lengths(group) - median) / deviation
        return np.asarray(group.correct & (score > self.threshold))
