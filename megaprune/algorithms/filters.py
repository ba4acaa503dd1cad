"""Which responses are learned from: a group and its rewards [K] -> [K] bool. Numpy alone.

A group of which nothing is kept is replaced by another problem's, as far as the filter's
`max_resample_rounds` lets more problems be drawn. Of a response that is left out in a group that
stays the advantage is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from megaprune.algorithms.component_fields import check_fields
from megaprune.algorithms.records import Group, Vector


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
