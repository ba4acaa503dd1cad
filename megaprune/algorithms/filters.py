"""Which responses are learned from: a group and its rewards [K] -> [K] bool. Numpy alone.

A group of which nothing is kept is replaced by another problem's, as far as the filter's
`max_resample_rounds` lets more problems be drawn. Of a response that is left out in a group that
stays the advantage is 0. With `baseline_of_kept` the advantages of the others are as if it had not
been drawn.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from megaprune.algorithms.component_fields import check_fields
from megaprune.algorithms.records import Group, Vector
from megaprune.errors import InputError


class Filter(Protocol):
    """Which of a group's responses are learned from."""

    def __call__(self, group: Group, rewards: Vector, /) -> NDArray[np.bool_]:
        """[K] bool."""


@dataclass(frozen=True)
class KeepAll:
    """Everything is learned from."""

    name: ClassVar[str] = "none"

    def __call__(self, group: Group, rewards: Vector, /) -> NDArray[np.bool_]:
        """[K] True."""
        return np.ones(len(rewards), np.bool_)


@dataclass(frozen=True)
class NoSignal:
    """Groups whose rewards are all equal are replaced (dynamic sampling, DAPO 2503.14476).

    A group of one is kept: there is nothing that its reward could equal.
    """

    name: ClassVar[str] = "no_signal"

    max_resample_rounds: Annotated[
        int,
        Field(
            ge=0,
            description="how many times data.train_batch_size more problems may be drawn to "
            "replace groups; what is still missing then is made up by groups without signal",
        ),
    ] = 2

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, group: Group, rewards: Vector, /) -> NDArray[np.bool_]:
        """[K], all True or all False."""
        signal = len(rewards) == 1 or bool((rewards != rewards[0]).any())
        return np.full(len(rewards), signal)


@dataclass(frozen=True)
class KeepShortest:
    """The k shortest responses of a group are learned from (GFPO, 2508.09726).

    `by=length` keeps the shortest ones; `by=efficiency` those with the most reward for a token. Of
    equals the earlier ones are kept. The group's baseline and deviation are those of the kept ones.
    """

    name: ClassVar[str] = "keep_shortest"
    baseline_of_kept: ClassVar[bool] = True

    k: Annotated[int, Field(ge=2, description="responses of a group; all if there are no more")] = 8
    by: Annotated[
        Literal["length", "efficiency"],
        Field(description="the shortest, or those with the most reward for a token"),
    ] = "length"

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def keeps(self) -> int:
        """How many responses of a group are kept."""
        return self.k

    def __call__(self, group: Group, rewards: Vector, /) -> NDArray[np.bool_]:
        """[K], of which k are True."""
        tokens = np.maximum(group.length, 1)
        cost = tokens if self.by == "length" else -rewards / tokens
        kept: NDArray[np.bool_] = np.zeros(len(rewards), np.bool_)
        kept[np.argsort(cost, kind="stable")[: self.k]] = True
        return kept


@dataclass(frozen=True)
class ShortestRight:
    """The m shortest right responses of a group are learned from, if there are any.

    With the loss `sft` this is the fine-tuning that O1-Pruner (2501.12570) is compared with. Of
    equals the earlier ones are kept.
    """

    name: ClassVar[str] = "shortest_right"

    m: Annotated[int, Field(ge=1, description="responses of a group; all if there are no more")] = 2
    max_resample_rounds: Annotated[
        int,
        Field(
            ge=0,
            description="how many times data.train_batch_size more problems may be drawn to "
            "replace groups without a right response",
        ),
    ] = 0

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, group: Group, rewards: Vector, /) -> NDArray[np.bool_]:
        """[K], of which m are True, or as many as are right."""
        kept: NDArray[np.bool_] = np.zeros(len(rewards), np.bool_)
        kept[_right_by_length(group)[: self.m]] = True
        return kept


@dataclass(frozen=True)
class RightPair:
    """The shortest and the longest right response of a group are learned from, as a pair.

    A group that has no two right responses of different lengths is left out. With a loss of pairs,
    `dpo` or `simpo`, and a reward that falls with the length of right responses, this is the
    preference that O1-Pruner (2501.12570) is compared with. Of equals the earlier ones are kept.
    """

    name: ClassVar[str] = "right_pair"
    keeps: ClassVar[int] = 2

    max_resample_rounds: Annotated[
        int,
        Field(
            ge=0,
            description="how many times data.train_batch_size more problems may be drawn to "
            "replace groups without such a pair",
        ),
    ] = 2

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, group: Group, rewards: Vector, /) -> NDArray[np.bool_]:
        """[K], of which two are True, or none."""
        kept: NDArray[np.bool_] = np.zeros(len(rewards), np.bool_)
        right = _right_by_length(group)
        if not len(right) or group.length[right[0]] == group.length[right[-1]]:
            return kept
        longest = right[np.argmax(group.length[right])]
        kept[[right[0], longest]] = True
        return kept


@dataclass(frozen=True)
class DropCutOff:
    """Responses that did not end are not learned from (overlong filtering, DAPO 2503.14476).

    The group's baseline is still that of all its responses.
    """

    name: ClassVar[str] = "drop_cut_off"

    max_resample_rounds: Annotated[
        int,
        Field(
            ge=0,
            description="how many times data.train_batch_size more problems may be drawn to "
            "replace groups none of whose responses ended",
        ),
    ] = 0

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, group: Group, rewards: Vector, /) -> NDArray[np.bool_]:
        """[K], the responses that ended."""
        return group.finished.copy()


@dataclass(frozen=True)
class PassRateBand:
    """Groups are learned from whose share of right answers is within a band.

    Of the groups above it a share is kept all the same: easy problems teach short answers
    (2511.01937). Which ones is a matter of the problem's name alone.
    """

    name: ClassVar[str] = "pass_rate"

    low: Annotated[float, Field(ge=0, le=1, description="the least share of right answers")] = 0.1
    high: Annotated[float, Field(ge=0, le=1, description="the largest share")] = 0.9
    keep_easy: Annotated[
        float, Field(ge=0, le=1, description="share of problems above the band that are kept")
    ] = 0.0
    max_resample_rounds: Annotated[
        int,
        Field(
            ge=0,
            description="how many times data.train_batch_size more problems may be drawn to "
            "replace groups",
        ),
    ] = 2

    def __post_init__(self) -> None:
        check_fields(self)
        if self.low > self.high:
            raise InputError(f"low={self.low}; expected no more than high={self.high}")

    def __call__(self, group: Group, rewards: Vector, /) -> NDArray[np.bool_]:
        """[K], all True or all False."""
        rate = float(group.correct.mean()) if len(rewards) else 0.0
        kept = self.low <= rate <= self.high or (rate > self.high and self._is_kept(group.name))
        return np.full(len(rewards), kept)

    def _is_kept(self, name: str) -> bool:
        digest = hashlib.sha256(name.encode()).digest()
        return int.from_bytes(digest[:8], "big") < self.keep_easy * 2**64


def _right_by_length(group: Group) -> NDArray[np.intp]:
    """The numbers of a group's right responses, the shortest first, of equals the earlier one."""
    right = np.flatnonzero(group.correct)
    return right[np.argsort(group.length[right], kind="stable")]
