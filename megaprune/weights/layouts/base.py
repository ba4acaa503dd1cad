"""Layouts: which part of which logical tensor lies where in which rank's parameters.

A logical tensor is a Hugging Face tensor, named as in the checkpoint. Every other arrangement of
the same weights is described in terms of these, and nothing else in the project knows how a fused
or sharded parameter is put together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from megaprune.weights.boxes import Box, Shape


class Piece(NamedTuple):
    """`box` of the logical `tensor` lies in box `at` of a parameter.

    Both boxes have the same shape, but for leading dimensions of extent 1 that `at` may have more
    (a layer's place in a parameter that stacks all layers).
    """

    tensor: str
    box: Box
    at: Box


@dataclass(frozen=True, slots=True)
class Parameter:
    """A stored tensor of a rank: pieces of logical tensors, and padding, which holds zeros."""

    name: str
    shape: Shape
    pieces: tuple[Piece, ...]
    padding: tuple[Box, ...] = ()

    @property
    def size(self) -> int:
        """Number of elements, padding included."""
        return prod(self.shape)


Shard = tuple[Parameter, ...]
"""Every parameter of one rank."""


@dataclass(frozen=True)
class Layout:
    """Where every logical tensor lies, for every rank.

    Args:
        tensors: shape of each logical tensor, by name.
        ranks: what each rank holds. Ranks that hold the same (data-parallel replicas) may share
            one `Shard` object.
    """

    tensors: Mapping[str, Shape]
    ranks: tuple[Shard, ...]


def divisible(what: str, amount: int, by: str, parts: int) -> int:
    """Divide `amount` by `parts`, or raise a ValueError that says which values would do."""
    if parts > 0 and amount % parts == 0:
        return amount // parts
    raise ValueError(f"{by}={parts} does not divide {what}={amount}; choose {divisors(amount)}")


def divisors(amount: int) -> str:
    """List the divisors of `amount`, for a message: "1, 2 or 4"."""
    return one_of([n for n in range(1, amount + 1) if amount % n == 0])


def one_of(values: list[int]) -> str:
    """Write numbers as a choice: "1, 2 or 4"."""
    words = [str(v) for v in values]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1]
