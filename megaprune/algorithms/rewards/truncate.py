"""The reward of ThinkPrune and DLER."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from megaprune.algorithms.component_fields import check_fields
from megaprune.algorithms.records import Group, Vector


@dataclass(frozen=True)
class Truncate:
    """1 for a right answer that was finished within the limit, else 0 (ThinkPrune, 2504.01296).

    A right answer in a response that was cut off is worth nothing, nor is one that a larger
    sampling limit than the round's let through, unless `cut_off` says otherwise.

    With an `easy_limit` the limit depends on the difficulty (DA-DLER, 2510.15110): where at least
    the share `easy_from` of a group's responses is right and finished within the round's limit, the
    group has the smaller limit. Where thoughts are measured, `easy_limit` is a thought's, and the
    round's limit is still that of the whole response.
    """

    name: ClassVar[str] = "truncate"

    cut_off: Annotated[
        Literal["zero", "keep", "soft"],
        Field(
            description="what a right answer beyond the limit is worth: nothing (zero), as much as "
            "within it (keep), or soft_value (soft)"
        ),
    ] = "zero"
    soft_value: Annotated[
        float, Field(ge=0, le=1, description="of a right answer beyond the limit, with soft")
    ] = 0.5
    easy_limit: Annotated[
        int | None,
        Field(ge=1, description="tokens, for groups that are mostly right; null: none"),
    ] = None
    easy_from: Annotated[
        float,
        Field(gt=0, le=1, description="share of right answers from which easy_limit holds"),
    ] = 0.5

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, group: Group, /) -> Vector:
        """[K] rewards, 0 to 1."""
        within = group.finished & (group.response_length <= group.limit)
        right = group.correct & within
        if self.easy_limit is not None and right.size and right.mean() >= self.easy_from:
            within &= group.length <= self.easy_limit
        beyond = {"zero": 0.0, "keep": 1.0, "soft": self.soft_value}[self.cut_off]
        return np.where(group.correct, np.where(within, 1.0, beyond), 0.0)
