"""Rewards that compare a response with those that the reference model gave to the same problem.

What a problem carries as `reference` (see `Group.extra`) is a mapping: `length`, the mean tokens of
its responses or a list of the tokens of each, and `accuracy`, the share of right ones or a list of
which are right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from megaprune.algorithms.component_fields import check_fields
from megaprune.algorithms.records import Group, Vector
from megaprune.algorithms.rewards.common import correctness, lengths
from megaprune.errors import InputError


@dataclass(frozen=True)
class Harmonize:
    """O1-Pruner's length-harmonizing reward (2501.12570), for responses of the policy itself.

    r = Lref / L - 1 + lam (c - Aref), with the mean length and the accuracy of the reference
    model's responses to the problem. As published a wrong answer, too, earns by being short.
    """

    name: ClassVar[str] = "harmonize"
    smooth: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = True

    lam: Annotated[float, Field(ge=0, description="the weight of accuracy")] = 2.0

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, group: Group, /) -> Vector:
        """[K] rewards, more than -1 - lam."""
        reference = {name: _mean(_carried(group, self.name, name)) for name in _NAMES}
        shorter = reference["length"] / np.maximum(lengths(group), 1.0) - 1.0
        return shorter + self.lam * (correctness(group) - reference["accuracy"])


@dataclass(frozen=True)
class Profile:
    """A right answer loses where it is long beside the reference model's right answers.

    `threshold`: it loses `penalty` if its length is at least the mean plus `deviations` times the
    population's deviation of theirs. `band`: it keeps all of its worth up to `low` times their
    mean, `floor` of it from `high` times their mean on, and in between it falls along a line.

    Where fewer than two of the reference's answers are right nothing is known, and nothing changes.
    A wrong answer is worth nothing.
    """

    name: ClassVar[str] = "profile"
    needs_reference: ClassVar[bool] = True

    form: Annotated[
        Literal["threshold", "band"],
        Field(description="a flat penalty beyond a threshold, or a factor that falls in a band"),
    ] = "threshold"
    deviations: Annotated[
        float, Field(ge=0, description="of the reference's lengths above their mean")
    ] = 1.0
    penalty: Annotated[float, Field(ge=0, le=1, description="beyond the threshold")] = 0.5
    low: Annotated[float, Field(gt=0, description="the band's beginning, in mean lengths")] = 1.0
    high: Annotated[float, Field(gt=0, description="the band's end, in mean lengths")] = 2.0
    floor: Annotated[float, Field(ge=0, le=1, description="the factor beyond the band")] = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.high <= self.low:
            raise InputError(f"high={self.high}; expected more than low={self.low}")

    def __call__(self, group: Group, /) -> Vector:
        """[K] rewards, 0 to 1."""
        right = self._right_lengths(group)
        if len(right) < 2:
            return correctness(group)
        if self.form == "threshold":
            long = lengths(group) >= right.mean() + self.deviations * right.std()
            return correctness(group) * (1.0 - self.penalty * long)
        along = (lengths(group) / right.mean() - self.low) / (self.high - self.low)
        return correctness(group) * (1.0 - (1.0 - self.floor) * np.clip(along, 0.0, 1.0))

    def _right_lengths(self, group: Group) -> NDArray[np.float64]:
        """Tokens of each right answer of the reference."""
        length, accuracy = (_carried(group, self.name, name) for name in _NAMES)
        if not isinstance(length, Sequence) or not isinstance(accuracy, Sequence):
            raise InputError(
                f"reward profile: group {group.name or '(without a name)'} has reference.length="
                f"{length} and reference.accuracy={accuracy}; expected lists, one entry for each "
                f"response of the reference model"
            )
        if len(length) != len(accuracy):
            raise InputError(
                f"reward profile: group {group.name or '(without a name)'} has {len(length)} "
                f"entries of reference.length and {len(accuracy)} of reference.accuracy"
            )
        return np.array([n for n, right in zip(length, accuracy, strict=True) if right], float)


_NAMES = ("length", "accuracy")


def _carried(group: Group, reward: str, name: str) -> Any:
    """A part of what a problem carries as `reference`."""
    reference = group.extra.get("reference")
    value = reference.get(name) if isinstance(reference, dict) else None
    if value is None:
        raise InputError(
            f"reward {reward}: group {group.name or '(without a name)'} carries no "
            f"reference.{name}; it is had from responses of the reference model to the problem"
        )
    return value


def _mean(value: Any) -> float:
    return float(np.mean(value))
