"""A user's own classes, in a file."""

import pytest

OWN = """
from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from megaprune.algorithms import LossOutput, maximum, mean_by_sequence, mean_by_token


@dataclass(frozen=True)
class Brevity:
    scale: Annotated[float, Field(gt=0)] = 10.0
    points: tuple[int, ...] = ()
    scope: Literal["correct", "all"] = "all"

    def __call__(self, group):
        return -group.length / self.scale


@dataclass(frozen=True)
class Ranks:
    def __call__(self, rewards):
        return rewards.argsort(1).argsort(1) - 1.0


@dataclass(frozen=True)
class Shortest:
    max_resample_rounds: int = 3

    def __call__(self, group, rewards):
        return group.length == group.length.min()


@dataclass(frozen=True)
class Plain:
    needs = frozenset({"old", "rollout"})

    def __call__(self, batch):
        ratio = (batch.log_probs - batch.old).exp()
        sums = batch.sum_by_sequence(-ratio * batch.advantage)
        return LossOutput(
            sums.sum() / batch.total_sequences,
            {"sequence_loss": mean_by_sequence(sums), "largest": maximum(ratio)},
        )


@dataclass(frozen=True)
class Returns:
    what: str

    def __call__(self, *given):
        return eval(self.what)


@dataclass(frozen=True)
class Required:
    scale: float

    def __call__(self, group):
        return group.correct


@dataclass(frozen=True)
class TwoMore:
    def __call__(self, group, more, still):
        return group.correct


@dataclass(frozen=True)
class NoCall:
    scale: float = 1.0


@dataclass(frozen=True)
class Weighs:
    weight: float = 1.0

    def __call__(self, group):
        return group.correct


@dataclass(frozen=True)
class Odd:
    scale: Nonsense = 1.0

    def __call__(self, group):
        return group.correct


@dataclass(frozen=True)
class Unhappy:
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self):
        if self.low > self.high:
            raise ValueError("low is above high")

    def __call__(self, group):
        return group.correct


class Bare:
    def __call__(self, group):
        return group.correct


def function(group):
    return group.correct
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A user's file, as `own.py` below the working directory."""
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "broken.py").write_text("import numpy\nraise RuntimeError('no such luck')\n")
    (tmp_path / "syntax.py").write_text("def broken(:\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path
