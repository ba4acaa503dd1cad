"""The cosine reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from megaprune.algorithms.component_fields import check_fields
from megaprune.algorithms.records import Group, Vector
from megaprune.algorithms.rewards.common import lengths


@dataclass(frozen=True)
class Cosine:
    """Worth goes along half a cosine, from a response of no token to one of the limit (2502.03373).

    r = end + (begin - end) (1 + cos(pi length / limit)) / 2, where a right answer goes from
    `right_short` to `right_long` and a wrong one from `wrong_short` to `wrong_long`. A response
    that reaches the limit without an end is worth `exceeded`.

    As published a wrong answer is worth more the longer it is, so that the model goes on looking.
    """

    name: ClassVar[str] = "cosine"

    right_short: Annotated[float, Field(description="a right answer of no length")] = 2.0
    right_long: Annotated[float, Field(description="a right answer of the limit's length")] = 1.0
    wrong_short: Annotated[float, Field(description="a wrong answer of no length")] = -10.0
    wrong_long: Annotated[float, Field(description="a wrong answer of the limit's length")] = 0.0
    exceeded: Annotated[float, Field(description="a response that did not end")] = -10.0

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, group: Group, /) -> Vector:
        """[K] rewards."""
        share = np.minimum(lengths(group) / group.limit, 1.0)
        short = np.where(group.correct, self.right_short, self.wrong_short)
        long = np.where(group.correct, self.right_long, self.wrong_long)
        along = long + (short - long) * (1.0 + np.cos(np.pi * share)) / 2.0
        return np.where(group.finished, along, self.exceeded)
