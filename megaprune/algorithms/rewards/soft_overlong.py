"""The length penalty of DAPO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from megaprune.algorithms.component_fields import check_fields
from megaprune.algorithms.records import Group, Vector


@dataclass(frozen=True)
class SoftOverlong:
    """Correctness less a penalty that grows over the last tokens before the limit (2503.14476).

    r = c + clip((limit - cache - length) / cache, -1, 0), with c = 1 for a right answer, else 0.
    The penalty does not depend on whether the answer is right: a response of `limit` tokens or
    more loses 1.
    """

    name: ClassVar[str] = "soft_overlong"

    cache: Annotated[
        int,
        Field(ge=1, description="tokens before the limit over which the penalty goes from 0 to 1"),
    ] = 1000

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, group: Group, /) -> Vector:
        """[K] rewards, -1 to 1."""
        beyond = (group.limit - self.cache - group.length) / self.cache
        return group.correct.astype(np.float64) + np.clip(beyond, -1.0, 0.0)
