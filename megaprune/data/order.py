"""Which problems a step takes: a pure function of step and seed, so that resuming needs no state.

Each epoch has an order of its own, and epochs run into each other: a batch may end one epoch and
begin the next. Within an epoch each problem comes exactly once, whatever the size of a batch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from megaprune.errors import InputError


def epoch(count: int, number: int, seed: int) -> NDArray[np.int64]:
    """The order of an epoch: a permutation of `count` problems, [count] int64.

    Problems are sorted by the raw 64-bit outputs of PCG64 seeded by SeedSequence([seed, number]).
    Numpy promises that these never change, which it does not of `Generator.permutation`.

    Raises:
        InputError: the seed is negative.
    """
    if seed < 0:
        raise InputError(f"seed={seed}; expected 0 or more")
    raw = np.random.PCG64(np.random.SeedSequence([seed, number])).random_raw(count)
    return np.argsort(raw, kind="stable")


def batch(count: int, size: int, step: int, seed: int) -> list[int]:
    """The problems of a step: `size` numbers in [0, count).

    With more problems in a batch than there are, or where two epochs meet, a number may come twice.

    Args:
        count: problems there are.
        size: problems of a step.
        step: from 0.
        seed: of all epochs' orders.

    Raises:
        ValueError: there are no problems, the batch is empty or the step negative.
        InputError: the seed is negative.
    """
    if count < 1 or size < 1 or step < 0:
        raise ValueError(f"step {step} of {size} out of {count} problems")
    start, stop = step * size, (step + 1) * size
    first, last = start // count, (stop - 1) // count
    orders = np.concatenate([epoch(count, number, seed) for number in range(first, last + 1)])
    taken: list[int] = orders[start - first * count : stop - first * count].tolist()
    return taken
