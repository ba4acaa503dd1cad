"""The length penalty of DAPO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from megaprune.algorithms.component_fields import check_fields
from megaprune.algorithms.records import Group, Vector
from megaprune.algorithms.rewards.common import SCOPE, Scope, correctness, of_scope


@dataclass(frozen=True)
class SoftOverlong:
    """Correctness less a penalty that grows over the last tokens before the limit (2503.14476).

    r = c + clip((limit - cache - length) / cache, -1, 0), with c = 1 for a right answer, else 0.
    As published the penalty does not depend on whether the answer is right: a response of `limit`
    tokens or more loses 1.
    """

    name: ClassVar[str] = "soft_overlong"

    cache: Annotated[
        int,
        Field(ge=1, description="tokens before the limit over which the penalty goes from 0 to 1"),
    ] = 1000
    scope: Annotated[Scope, Field(description=SCOPE)] = "all"

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, group: Group, /) -> Vector:
        """[K] rewards, -1 to 1."""
        beyond = (group.limit - self.cache - group.length) / self.cache
        return correctness(group) + of_scope(group, self.scope, np.clip(beyond, -1.0, 0.0))
