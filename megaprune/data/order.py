"""The order in which problems are drawn. A run takes the next ones, and saves the order's state.

The default, `ShuffledOrder`, gives each problem once an epoch. Epochs run into each other: a batch
may end one epoch and begin the next. A user's own order (a curriculum) is a class with the methods
of `ProblemOrder`; `observe` tells it how the groups went.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from megaprune import user_code
from megaprune.errors import InputError


@lru_cache(maxsize=2)  # a step takes several times from an epoch, or from two
def epoch(count: int, number: int, seed: int) -> NDArray[np.int64]:
    """Return the order of an epoch: a permutation of `count` problems, [count] int64, read-only.

    Problems are sorted by the raw 64-bit outputs of PCG64 seeded by SeedSequence([seed, number]).
    Numpy promises that these never change, which it does not of `Generator.permutation`.

    Raises:
        InputError: the seed is negative.
    """
    if seed < 0:
        raise InputError(f"seed={seed}; expected 0 or more")
    raw = np.random.PCG64(np.random.SeedSequence([seed, number])).random_raw(count)
    order = np.argsort(raw, kind="stable")
    order.flags.writeable = False
    return order


def batch(count: int, size: int, step: int, seed: int) -> list[int]:
    """Return the problems of a step, of which each takes `size`: numbers in [0, count).

    With more problems in a batch than there are, or where two epochs meet, a number may come twice.

    Args:
        count: problems there are.
        size: problems of a step.
        step: from 0.
        seed: decides the order of every epoch.

    Raises:
        ValueError: there are no problems, the batch is empty or the step negative.
        InputError: the seed is negative.
    """
    if count < 1 or size < 1 or step < 0:
        raise ValueError(f"step {step} of {size} out of {count} problems")
    return between(count, step * size, (step + 1) * size, seed)


def between(count: int, start: int, stop: int, seed: int) -> list[int]:
    """Return the problems at places [start, stop) of the endless sequence of all epochs."""
    first, last = start // count, (stop - 1) // count
    orders = np.concatenate([epoch(count, number, seed) for number in range(first, last + 1)])
    problems: list[int] = orders[start - first * count : stop - first * count].tolist()
    return problems


@dataclass(frozen=True)
class GroupResult:
    """How the responses to one problem went.

    Args:
        problem: its number.
        accuracy: share of right responses.
        reward: mean reward.
        length: mean tokens of a response.
    """

    problem: int
    accuracy: float
    reward: float
    length: float


class ProblemOrder(Protocol):
    """An order of problems. It is built with the number of problems and the run's seed."""

    def take(self, count: int) -> list[int]:
        """Return the next `count` problems, by number, behind those of the last call."""
        ...

    def observe(self, results: Sequence[GroupResult]) -> None:
        """Learn how the groups of a step went, in the order in which they were taken."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on here: numbers, texts, lists, tables."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        ...


class ShuffledOrder:
    """Every epoch gives each problem once, in an order of its own.

    Args:
        count: problems there are.
        seed: decides the order of every epoch.

    Raises:
        InputError: the seed is negative.
    """

    def __init__(self, count: int, seed: int):
        self._count, self._seed, self._position = count, seed, 0
        epoch(1, 0, seed)  # refuses a negative seed at once

    def take(self, count: int) -> list[int]:
        """Return the next problems of the endless sequence of all epochs."""
        start, self._position = self._position, self._position + count
        return between(self._count, start, self._position, self._seed) if count else []

    def observe(self, results: Sequence[GroupResult]) -> None:
        """Do nothing: the order does not depend on how groups go."""

    def state_dict(self) -> dict[str, Any]:
        """Return how many problems were taken."""
        return {"position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind the problems that were taken."""
        self._position = int(state["position"])


def take_problems(order: ProblemOrder, count: int, problems: int) -> list[int]:
    """The next `count` problems of an order, which may be the user's own.

    Args:
        problems: how many there are.

    Raises:
        InputError: it gives another number of them, or numbers that no problem has.
    """
    taken = order.take(count)
    numbers = [int(number) for number in taken]
    if len(numbers) != count or not all(0 <= number < problems for number in numbers):
        raise InputError(
            f"data.order: {type(order).__name__}.take({count}) gave {taken!r}; expected {count} "
            f"numbers of problems, from 0 to {problems - 1}"
        )
    return numbers


def make_order(name: str, count: int, seed: int) -> ProblemOrder:
    """Make the order of problems that a configuration names.

    Args:
        name: "shuffled", or a class of the user's own as module:Class or path/to/file.py:Class.
        count: problems there are.
        seed: of the run.

    Raises:
        InputError: there is no such order, or it lacks one of the methods of `ProblemOrder`.
    """
    if name == "shuffled":
        return ShuffledOrder(count, seed)
    if not user_code.is_own(name):
        raise InputError(
            f"data.order={name}; expected shuffled, or a class of your own as module:Class or "
            f"path/to/file.py:Class"
        )
    order_class: Any = user_code.load(name, "an order of problems")
    methods = ("take", "observe", "state_dict", "load_state_dict")
    if missing := [m for m in methods if not callable(getattr(order_class, m, None))]:
        raise InputError(
            f"data.order={name} has no method {', '.join(missing)}; expected a class with "
            f"{', '.join(methods)}"
        )
    order: ProblemOrder = order_class(count, seed)
    return order
