"""Criteria beside right and short: what is looked for in the text of a response.

Each is at most 1 and at least -1, and is meant to be one of several rewards with a weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from megaprune.algorithms.component_fields import check_fields
from megaprune.algorithms.records import Group, Vector
from megaprune.errors import InputError
from megaprune.grading.find import box_spans
from megaprune.grading.markers import count_markers
from megaprune.grading.thought import THOUGHTS, ThoughtName


@dataclass(frozen=True)
class Format:
    """The share of three things that a response does: it closes its thought, its answer has one
    box, and nothing but layout comes after the box."""

    name: ClassVar[str] = "format"

    thought: Annotated[
        ThoughtName,
        Field(description="how models of the family mark a thought (see grading.thought)"),
    ] = "think"

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, group: Group, /) -> Vector:
        """[K] rewards: 0, 1/3, 2/3 or 1."""
        return np.array([self._share(text) for text in _texts(group, self.name)], np.float64)

    def _share(self, text: str) -> float:
        answer = THOUGHTS[self.thought].answer(text)
        if answer is None:
            return 0.0
        boxes = box_spans(answer)
        # A full stop, closing mathematics and blanks belong to the box's sentence.
        ends = bool(boxes) and not answer[boxes[-1][1] :].strip(" \t\r\n.$*)]\\")
        return (1 + (len(boxes) == 1) + ends) / 3


@dataclass(frozen=True)
class Repetition:
    """Minus the share of a response's n-grams of words that stood in it before (2502.03373)."""

    name: ClassVar[str] = "repetition"

    n: Annotated[int, Field(ge=1, description="words of an n-gram")] = 20

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, group: Group, /) -> Vector:
        """[K] rewards, more than -1, at most 0."""
        return np.array([-self._share(text) for text in _texts(group, self.name)], np.float64)

    def _share(self, text: str) -> float:
        words = text.split()
        grams = [tuple(words[i : i + self.n]) for i in range(len(words) - self.n + 1)]
        return 1 - len(set(grams)) / len(grams) if grams else 0.0


@dataclass(frozen=True)
class Rechecks:
    """Minus the sentences that look again at what is found, up to a most, as a share of it.

    They are counted by the words that `megaprune analyze` counts as re-checks.
    """

    name: ClassVar[str] = "rechecks"

    most: Annotated[int, Field(ge=1, description="re-checks that cost 1")] = 10

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, group: Group, /) -> Vector:
        """[K] rewards, -1 to 0."""
        counts = [count_markers(text)["re-checks"] for text in _texts(group, self.name)]
        return -np.minimum(np.array(counts, np.float64) / self.most, 1.0)


def _texts(group: Group, reward: str) -> tuple[str, ...]:
    if len(group.text) != len(group.correct):
        raise InputError(
            f"reward {reward}: group {group.name or '(without a name)'} has no text of its "
            f"responses; expected {len(group.correct)}"
        )
    return group.text
