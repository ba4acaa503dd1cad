"""Sequences of any length as one stream of tokens, and their fair division into micro-batches."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from typing import TypeAlias

import numpy as np
import torch

from megaprune.distributed.device import send
from megaprune.errors import InputError

Array: TypeAlias = np.ndarray
"""Of any element type."""

MicroBatches: TypeAlias = tuple[tuple[int, ...], ...]
"""The numbers of the samples in each micro-batch of a rank."""


@dataclass(frozen=True)
class Sample:
    """One sequence: a prompt and the response whose tokens are scored.

    Args:
        tokens: [L] token ids, prompt first.
        prompt: how many tokens the prompt has; at least 1.
        values: what a loss needs of each scored token, [L - prompt] each, by name. All samples
            of a batch have the same names.
    """

    tokens: Array
    prompt: int
    values: Mapping[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.prompt <= len(self.tokens):
            raise ValueError(f"a prompt of {self.prompt} tokens of {len(self.tokens)}")
        for name, values in self.values.items():
            if len(values) != self.scored:
                raise ValueError(f"{len(values)} of {name!r} for {self.scored} scored tokens")

    @property
    def scored(self) -> int:
        """Number of tokens after the prompt."""
        return len(self.tokens) - self.prompt


@dataclass(frozen=True)
class Packed:
    """Samples one after another, without padding between them.

    Args:
        tokens: [T] int64.
        positions: [T] int64, from 0 within each sample.
        bounds: where samples begin and end in the stream: 0, ..., T.
        predicts: [N] int64, where in the stream stands the token before each scored one.
        targets: [N] int64, the scored tokens.
        values: [N] each, by name.
        scored: how many of the N belong to each sample.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    bounds: tuple[int, ...]
    predicts: torch.Tensor
    targets: torch.Tensor
    values: dict[str, torch.Tensor]
    scored: tuple[int, ...]

    @property
    def borders(self) -> tuple[int, ...]:
        """Where samples begin and end among the N scored tokens: 0, ..., N."""
        return (0, *accumulate(self.scored))


def pack(samples: Sequence[Sample], device: torch.device, multiple: int = 1) -> Packed:
    """Put samples into one stream.

    Args:
        multiple: the stream's length is made a multiple of this by a last sequence of zeros that
            nothing is scored of (sequence parallelism divides the stream among ranks).
    """
    lengths = [len(s.tokens) for s in samples]
    filler = -sum(lengths) % multiple
    tokens = [s.tokens for s in samples]
    if filler:
        lengths.append(filler)
        tokens.append(np.zeros(filler, np.int64))
    bounds = (0, *accumulate(lengths))
    positions = np.concatenate([np.arange(n) for n in lengths])
    predicts = [
        np.arange(start + s.prompt - 1, start + len(s.tokens) - 1)
        for start, s in zip(bounds, samples, strict=False)
    ]

    def on_device(parts: Sequence[Array]) -> torch.Tensor:
        return send(torch.from_numpy(np.concatenate(parts)), device)

    stream = np.concatenate(tokens).astype(np.int64, copy=False)
    where = np.concatenate(predicts)
    return Packed(
        tokens=on_device([stream]),
        positions=on_device([positions]),
        bounds=bounds,
        predicts=on_device([where]),
        targets=on_device([stream[where + 1]]),
        values={name: on_device([s.values[name] for s in samples]) for name in samples[0].values},
        scored=tuple(s.scored for s in samples),
    )


@lru_cache(maxsize=8)
def micro_batches(
    lengths: tuple[int, ...], max_tokens: int, dp: int, multiple: int = 1, unit: int = 1
) -> tuple[MicroBatches, ...]:
    """Divide samples into micro-batches of at most `max_tokens`, alike on every rank.

    As few as `max_tokens` allows, of about the same number of tokens each, and equally many on each
    data-parallel rank, since the ranks of a pipeline take turns. A pure function: every rank finds
    the same answer, and the passes of a batch (log-probs, gradients) find it once.

    Args:
        lengths: tokens of each sample.
        dp: number of data-parallel ranks.
        multiple: the number of micro-batches of a rank is a multiple of this, as an interleaved
            pipeline wants it.
        unit: so many samples, one behind the other, stay together in their order.

    Returns:
        For each rank, for each of its micro-batches, numbers of samples. A micro-batch is empty
        where there are fewer samples than micro-batches.

    Raises:
        InputError: a sample, or a unit of them, is longer than `max_tokens`.
        ValueError: the samples are not whole units.
    """
    if unit > 1:
        return _of_units(lengths, max_tokens, dp, multiple, unit)
    if lengths and max(lengths) > max_tokens:
        raise InputError(
            f"a sample has {max(lengths)} tokens, which is more than a micro-batch may have "
            f"({max_tokens}); set max_tokens to at least that"
        )
    step = dp * multiple
    count = max(1, -(-sum(lengths) // (max_tokens * step))) * step
    longest_first = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    while (bins := _balanced(lengths, longest_first, count, max_tokens)) is None:
        count += step
    # The fullest with the emptiest: ranks get about the same.
    bins.sort(key=lambda b: -sum(lengths[i] for i in b))
    ranks: list[list[list[int]]] = [[] for _ in range(dp)]
    for row in range(0, count, dp):
        some = bins[row : row + dp]
        for rank, group in enumerate(some if row // dp % 2 == 0 else reversed(some)):
            ranks[rank].append(group)
    return tuple(tuple(map(tuple, of_rank)) for of_rank in ranks)


def _of_units(
    lengths: tuple[int, ...], max_tokens: int, dp: int, multiple: int, unit: int
) -> tuple[MicroBatches, ...]:
    """Divide units as if each were one sample."""
    if len(lengths) % unit:
        raise ValueError(f"{len(lengths)} samples; expected whole units of {unit}")
    starts = range(0, len(lengths), unit)
    totals = tuple(sum(lengths[i : i + unit]) for i in starts)
    if totals and max(totals) > max_tokens:
        raise InputError(
            f"{unit} samples that the loss takes together have {max(totals)} tokens, which is more "
            f"than a micro-batch may have ({max_tokens}); set max_tokens to at least that"
        )
    return tuple(
        tuple(tuple(i * unit + k for i in units for k in range(unit)) for units in of_rank)
        for of_rank in micro_batches(totals, max_tokens, dp, multiple)
    )


def _balanced(
    lengths: Sequence[int], longest_first: Sequence[int], count: int, max_tokens: int
) -> list[list[int]] | None:
    """Put each sample into the emptiest of `count` bins; None if a bin overflows."""
    heap = [(0, number) for number in range(count)]
    bins: list[list[int]] = [[] for _ in range(count)]
    for index in longest_first:
        filled, number = heap[0]
        if filled + lengths[index] > max_tokens:
            return None
        heapq.heapreplace(heap, (filled + lengths[index], number))
        bins[number].append(index)
    return bins
