"""Metrics of a loss: told by micro-batch, combined so that no division of the batch can be seen.

A loss names each metric and says how it is combined:

    {"clipped": mean_by_token(clipped), "longest_ratio": maximum(ratio)}

Every micro-batch's numbers go to the host in one transfer, with its loss (`to_host`); one function
combines those of all micro-batches, replicas and updates of a step (`combine`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from megaprune.algorithms.records import LossOutput

Numbers: TypeAlias = NDArray[np.float64]
"""What one micro-batch contributes to one metric, on the host."""


class Kind(Protocol):
    """How the contributions of micro-batches become one metric."""

    def combine(self, parts: Sequence[Numbers]) -> dict[str, float]:
        """Suffix of the name -> value; nothing where nothing was counted."""


@dataclass(frozen=True)
class SumKind:
    """Contributions are sums, which are summed."""

    def combine(self, parts: Sequence[Numbers]) -> dict[str, float]:
        """The sum."""
        return {"": exact_sum(part[0] for part in parts)}


@dataclass(frozen=True)
class MeanKind:
    """Contributions are (sum, count): one mean over all that was counted."""

    def combine(self, parts: Sequence[Numbers]) -> dict[str, float]:
        """The mean."""
        count = exact_sum(part[1] for part in parts)
        return {"": exact_sum(part[0] for part in parts) / count} if count else {}


@dataclass(frozen=True)
class MaximumKind:
    """Contributions are all values' maxima, or empty."""

    def combine(self, parts: Sequence[Numbers]) -> dict[str, float]:
        """The largest."""
        every = np.concatenate(parts)
        return {"": float(every.max())} if every.size else {}


@dataclass(frozen=True)
class PercentilesKind:
    """Contributions are the values themselves."""

    points: tuple[float, ...]

    def combine(self, parts: Sequence[Numbers]) -> dict[str, float]:
        """Each percentile, interpolated linearly, as `/p50` and so on."""
        every = np.concatenate(parts)
        if not every.size:
            return {}
        return {f"/p{p:g}": float(np.percentile(every, p)) for p in self.points}


@dataclass(frozen=True, eq=False)
class Metric:
    """One metric of one micro-batch. Made by the functions below.

    Args:
        kind: how it is combined.
        share: [M] float64, what this micro-batch contributes, where the loss was computed.
        size: number of values that it was made of.
        per: "token" or "sequence" where there must be a value for each, else "".
    """

    kind: Kind
    share: torch.Tensor
    size: int
    per: str = ""


def sum_of(values: torch.Tensor) -> Metric:
    """The sum of values of any shape."""
    return Metric(SumKind(), _flat(values).sum().reshape(1), values.numel())


def mean_by_token(values: torch.Tensor, where: torch.Tensor | None = None) -> Metric:
    """The mean over tokens.

    Args:
        values: [N].
        where: [N] bool, the tokens that count; all if None.
    """
    return Metric(MeanKind(), _sum_and_count(values, where), values.numel(), "token")


def mean_by_sequence(values: torch.Tensor, where: torch.Tensor | None = None) -> Metric:
    """The mean over sequences, each of which counts alike.

    Args:
        values: [S].
        where: [S] bool, the sequences that count; all if None.
    """
    return Metric(MeanKind(), _sum_and_count(values, where), values.numel(), "sequence")


def maximum(values: torch.Tensor) -> Metric:
    """The largest of values of any shape."""
    flat = _flat(values)
    return Metric(MaximumKind(), flat.max().reshape(1) if len(flat) else flat, len(flat))


def percentiles(values: torch.Tensor, *points: float) -> Metric:
    """Percentiles of values of any shape, exact over the whole batch.

    All values travel to every rank: 8 bytes of each.

    Args:
        points: between 0 and 100, such as 50, 95.
    """
    if not points or not all(0 <= p <= 100 for p in points):
        raise ValueError(f"percentiles at {points}; expected numbers between 0 and 100")
    flat = _flat(values)
    return Metric(PercentilesKind(points), flat, len(flat))


@dataclass(frozen=True)
class Share:
    """A micro-batch's loss and metrics on the host.

    Args:
        loss: its share of the batch's loss.
        parts: what it contributes to each metric.
    """

    loss: float
    parts: Mapping[str, tuple[Kind, Numbers]] = field(default_factory=dict)


def to_host(output: LossOutput) -> Share:
    """Fetch a micro-batch's loss and all of its metrics, in one transfer."""
    import torch

    shares = [metric.share.to(output.loss.device) for metric in output.metrics.values()]
    flat = torch.cat([_flat(output.loss), *shares]).cpu().numpy()
    borders = np.cumsum([1, *(len(share) for share in shares)])[:-1]
    loss, *rest = np.split(flat, borders) if len(borders) else [flat]
    parts = {
        name: (metric.kind, numbers)
        for (name, metric), numbers in zip(output.metrics.items(), rest, strict=True)
    }
    return Share(float(loss[0]), parts)


def combine(shares: Iterable[Share]) -> tuple[float, dict[str, float]]:
    """The loss and the metrics of a batch from the shares of all its micro-batches, in any order.

    Raises:
        ValueError: a metric is of one kind in one micro-batch and of another in the next.
    """
    every = list(shares)
    parts: dict[str, list[Numbers]] = {}
    kinds: dict[str, Kind] = {}
    for share in every:
        for name, (kind, numbers) in share.parts.items():
            if kinds.setdefault(name, kind) != kind:
                raise ValueError(f"metric {name!r} is a {kinds[name]} and a {kind}; expected one")
            parts.setdefault(name, []).append(numbers)
    metrics = {
        name + suffix: value
        for name, kind in kinds.items()
        for suffix, value in kind.combine(parts[name]).items()
    }
    return exact_sum(share.loss for share in every), metrics


def exact_sum(numbers: Iterable[float]) -> float:
    """A sum that does not depend on the order; inf and nan stay what they are."""
    listed = [float(number) for number in numbers]
    return math.fsum(listed) if all(map(math.isfinite, listed)) else sum(listed)


def _flat(values: torch.Tensor) -> torch.Tensor:
    return values.detach().double().reshape(-1)


def _sum_and_count(values: torch.Tensor, where: torch.Tensor | None) -> torch.Tensor:
    import torch

    flat = _flat(values)
    if where is None:
        return torch.stack([flat.sum(), flat.new_tensor(len(flat))])
    chosen = where.detach().reshape(-1).bool()
    counted = flat.where(chosen, flat.new_zeros(()))
    return torch.stack([counted.sum(), chosen.double().sum()])
