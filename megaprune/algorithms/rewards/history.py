"""Rewards that remember what came before: of each problem, or of all.

A reward that remembers has two more methods, `start` and `observe`. What it remembers is plain
data (see `Remembers`), which the run keeps and saves with each checkpoint, and which the reward
finds in `group.memory`. A step's responses are all rewarded by what was remembered before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from megaprune.algorithms.component_fields import check_fields
from megaprune.algorithms.records import Group, Vector
from megaprune.algorithms.rewards.budget import budget
from megaprune.algorithms.rewards.common import correctness, lengths

Memory: TypeAlias = Mapping[str, Any]
"""What is remembered: numbers, texts, lists and mappings, as JSON has them."""


@runtime_checkable
class Remembers(Protocol):
    """A reward with a memory."""

    def start(self) -> Memory:
        """What is remembered before the first step."""

    def observe(self, memory: Memory, groups: Sequence[Group], /) -> Memory:
        """What is remembered after a step that drew these groups."""


@dataclass(frozen=True)
class ShortestEver:
    """Right answers are measured by the shortest one that the problem ever had (HAPO, 2505.11225).

    r = c + w f with f = cos(min(pi, pi/2 L / h)), where h is the length of the shortest right
    answer of earlier steps: f is 1 for no length, 0 at h, and never below `floor` for a right
    answer. A wrong answer has min(0, f) in its place. Without a right answer before, f is 0.
    """

    name: ClassVar[str] = "shortest_ever"
    smooth: ClassVar[bool] = True

    w: Annotated[float, Field(ge=0, description="the weight of length")] = 1.0
    floor: Annotated[
        float, Field(ge=-1, le=0, description="the least that length makes of a right answer")
    ] = -0.7

    def __post_init__(self) -> None:
        check_fields(self)

    def start(self) -> Memory:
        """Nothing is remembered of any problem."""
        return {"shortest": {}}

    def observe(self, memory: Memory, groups: Sequence[Group], /) -> Memory:
        """The shortest right answer of each problem."""
        shortest = dict(memory["shortest"])
        for group in groups:
            if group.correct.any():
                length = int(lengths(group)[group.correct].min())
                shortest[group.name] = min(length, shortest.get(group.name, length))
        return {"shortest": shortest}

    def __call__(self, group: Group, /) -> Vector:
        """[K] rewards, -w to 1 + w."""
        shortest = group.memory.get("shortest", {}).get(group.name)
        if shortest is None:
            return correctness(group)
        f = np.cos(np.minimum(np.pi, np.pi / 2 * lengths(group) / max(shortest, 1)))
        share = np.where(group.correct, np.maximum(f, self.floor), np.minimum(f, 0.0))
        return correctness(group) + self.w * share


@dataclass(frozen=True)
class LogBonus:
    """A right answer earns or loses by the logarithm of its length (Acoer, 2606.22716).

    r = c max(0, 1 + alpha log(budget / L)), where the budget is `share` times a running mean of the
    lengths of right answers. Before there is one, the group's own mean is used. A wrong answer is
    worth nothing: penalties of wrong answers made all runs of the paper collapse.
    """

    name: ClassVar[str] = "log_bonus"
    smooth: ClassVar[bool] = True

    alpha: Annotated[float, Field(ge=0, description="the weight of length")] = 0.2
    share: Annotated[float, Field(gt=0, description="of the mean length that is the budget")] = 0.85
    decay: Annotated[
        float, Field(ge=0, lt=1, description="what a step leaves of the running mean")
    ] = 0.9

    def __post_init__(self) -> None:
        check_fields(self)

    def start(self) -> Memory:
        """No length is known."""
        return {"length": None}

    def observe(self, memory: Memory, groups: Sequence[Group], /) -> Memory:
        """The running mean, with the mean length of the step's right answers."""
        right = [length for group in groups for length in lengths(group)[group.correct]]
        if not right:
            return memory
        mean, before = float(np.mean(right)), memory["length"]
        return {"length": mean if before is None else self.decay * before + (1 - self.decay) * mean}

    def __call__(self, group: Group, /) -> Vector:
        """[K] rewards, 0 or more."""
        if not group.correct.any():
            return correctness(group)
        mean = group.memory.get("length") or lengths(group)[group.correct].mean()
        bonus = self.alpha * np.log(self.share * mean / np.maximum(lengths(group), 1.0))
        return correctness(group) * np.maximum(1.0 + bonus, 0.0)


@dataclass(frozen=True)
class StepBonus:
    """A right answer within the budget earns a bonus (LASER, 2505.15612).

    r = C + alpha c [L <= B], where C is 1 for a right answer, -1/2 for a wrong one and -1 for a
    response without an answer. With `explore` (LASER-DE) a wrong answer beyond the budget earns
    alpha, so that the model goes on looking.

    With `by_difficulty` (LASER-D) there are three budgets: for easy problems, more than 2/3 of
    whose responses are right, hard ones (less than 1/3), and those between. Every `retune_every`
    steps each becomes the smallest within which a group of its difficulty is expected to have
    `expected_right` right answers, judged by the steps since. Until then the round's limit is the
    budget of all.
    """

    name: ClassVar[str] = "step_bonus"

    alpha: Annotated[float, Field(ge=0, description="the bonus")] = 0.5
    explore: Annotated[
        bool, Field(description="whether a wrong answer beyond the budget earns the bonus")
    ] = False
    by_difficulty: Annotated[
        bool, Field(description="whether budgets are found for three difficulties")
    ] = False
    retune_every: Annotated[int, Field(ge=1, description="steps between searches of budgets")] = 20
    expected_right: Annotated[
        float, Field(gt=0, description="right answers that a group has within its budget")
    ] = 1.0

    def __post_init__(self) -> None:
        check_fields(self)

    def start(self) -> Memory:
        """No budget, and nothing to find one by."""
        return {"budgets": {}, "right": {}, "groups": {}, "steps": 0}

    def observe(self, memory: Memory, groups: Sequence[Group], /) -> Memory:
        """Count right answers by difficulty; search budgets when it is time."""
        if not self.by_difficulty:
            return memory
        right = {name: list(lengths) for name, lengths in memory["right"].items()}
        count = dict(memory["groups"])
        for group in groups:
            kind = difficulty(group.correct)
            right.setdefault(kind, []).extend(lengths(group)[group.correct].tolist())
            count[kind] = count.get(kind, 0) + 1
        steps = memory["steps"] + 1
        if steps % self.retune_every:
            return {**memory, "right": right, "groups": count, "steps": steps}
        budgets = dict(memory["budgets"])
        for kind, of_kind in right.items():
            needed = int(np.ceil(self.expected_right * count[kind]))
            if of_kind:
                budgets[kind] = sorted(of_kind)[min(needed, len(of_kind)) - 1]
        return {"budgets": budgets, "right": {}, "groups": {}, "steps": steps}

    def __call__(self, group: Group, /) -> Vector:
        """[K] rewards, -1 to 1 + alpha."""
        if not len(group.correct):
            return correctness(group)
        budgets = group.memory.get("budgets", {}) if self.by_difficulty else {}
        within = lengths(group) <= budgets.get(difficulty(group.correct), budget(group))
        answered = np.ones_like(group.correct) if group.answered is None else group.answered
        worth = np.where(group.correct, 1.0, np.where(answered, -0.5, -1.0))
        bonus = np.where(group.correct, within, ~within if self.explore else False)
        return worth + self.alpha * bonus


DIFFICULTIES = ("easy", "medium", "hard")
"""By the share of a problem's answers that are right: more than 2/3, between, less than 1/3."""


def difficulty(right: ArrayLike) -> str:
    """The difficulty of a problem, of `DIFFICULTIES`, by its answers (LASER-D, 2505.15612)."""
    share = float(np.mean(right))
    return "easy" if share > 2 / 3 else "hard" if share < 1 / 3 else "medium"
