"""What rewards of length share: which lengths they look at."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from megaprune.algorithms.records import Group, Vector

Scope: TypeAlias = Literal["correct", "all"]
"""Whose length counts: that of right answers only, or that of all."""

SCOPE = "whose length counts: of right answers (correct), or of all responses (all)"


def correctness(group: Group) -> Vector:
    """[K] 1 for a right answer, else 0, whatever its length."""
    return group.correct.astype(np.float64)


def lengths(group: Group) -> Vector:
    """[K] tokens of each response, as float64."""
    return group.length.astype(np.float64)


def of_scope(group: Group, scope: Scope, values: Vector) -> Vector:
    """[K] the values where the scope includes the response, else 0."""
    return np.where(group.correct, values, 0.0) if scope == "correct" else values
