"""Plans of copies from one layout to another: which bytes go where, each exactly once.

A plan is made on paper. It knows boxes and ranks; files, processes and devices are the business of
whoever executes it. Source and target ranks with the same number are one process: what it already
holds is copied locally and never travels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from megaprune.weights.boxes import Box
from megaprune.weights.layouts.base import Layout, Shard


class Place(NamedTuple):
    """A box of one parameter of one rank."""

    rank: int
    parameter: str
    box: Box


class Copy(NamedTuple):
    """Elements that go from one place to another, both row-major and of the same shape.

    The shapes are the same but for leading dimensions of extent 1.
    """

    source: Place
    target: Place

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.source.box.size

    @property
    def local(self) -> bool:
        """Whether the target rank holds the elements already."""
        return self.source.rank == self.target.rank


@dataclass(frozen=True)
class CopyPlan:
    """Everything that must be copied to turn one layout into another.

    Args:
        source, target: the layouts.
        copies: in the order of the target's ranks and parameters. Copies that continue each other
            on both sides are one.
    """

    source: Layout
    target: Layout
    copies: tuple[Copy, ...]

    @cached_property
    def traffic(self) -> dict[tuple[int, int], int]:
        """Elements that travel, by (source rank, target rank)."""
        elements: dict[tuple[int, int], int] = defaultdict(int)
        for copy in self.copies:
            if not copy.local:
                elements[copy.source.rank, copy.target.rank] += copy.size
        return dict(elements)

    def received(self) -> list[int]:
        """Count the elements that each target rank gets from other ranks."""
        totals = [0] * len(self.target.ranks)
        for (_, target), elements in self.traffic.items():
            totals[target] += elements
        return totals

    def sent(self) -> list[int]:
        """Count the elements that each source rank sends to other ranks."""
        totals = [0] * len(self.source.ranks)
        for (source, _), elements in self.traffic.items():
            totals[source] += elements
        return totals

    def messages(self) -> int:
        """Count the pairs of ranks between which anything travels: a coalesced message each."""
        return len(self.traffic)

    def lower_bound(self) -> list[int]:
        """Count the elements that each target rank needs and does not hold: none gets fewer."""
        held: list[dict[str, list[Box]]] = []
        for shard in self.source.ranks:
            boxes = defaultdict(list)
            for parameter in shard:
                for piece in parameter.pieces:
                    boxes[piece.tensor].append(piece.box)
            held.append(boxes)
        bounds = []
        for rank, shard in enumerate(self.target.ranks):
            have = held[rank] if rank < len(held) else {}
            missing = 0
            for parameter in shard:
                for piece in parameter.pieces:
                    own = have.get(piece.tensor)
                    rest = _subtract(piece.box, own) if own else [piece.box]
                    missing += sum(box.size for box in rest)
            bounds.append(missing)
        return bounds

    @cached_property
    def transfers(self) -> dict[tuple[int, str, int, str], list[Copy]]:
        """Copies by (source rank, its parameter, target rank, its parameter)."""
        groups = defaultdict(list)
        for copy in self.copies:
            key = (copy.source.rank, copy.source.parameter, copy.target.rank, copy.target.parameter)
            groups[key].append(copy)
        return dict(groups)

    def permuting(self) -> int:
        """Count the transfers of a parameter that are more than one block of memory on either side.

        Zero means that every transfer is a plain memory copy: the source's local arrangement is the
        target's.
        """
        shapes = [
            [{p.name: p.shape for p in shard} for shard in layout.ranks]
            for layout in (self.source, self.target)
        ]

        def one_block(copies: list[Copy]) -> bool:
            return len(copies) == 1 and all(
                place.box.is_one_run(side[place.rank][place.parameter])
                for side, place in zip(shapes, (copies[0].source, copies[0].target), strict=True)
            )

        return sum(not one_block(copies) for copies in self.transfers.values())


def plan(source: Layout, target: Layout) -> CopyPlan:
    """Make the plan that fills `target` from `source`.

    What a rank holds already, it copies locally. Every other element comes from one source rank:
    one that sends to this target rank already if there is one (few messages), else the one that has
    least to send so far (replicas share the work), else the nearest.

    Raises:
        ValueError: the layouts are of different models, or the source lacks part of a tensor, or
            holds it in boxes that overlap without being equal.
    """
    if dict(source.tensors) != dict(target.tensors):
        raise ValueError("source and target lay out different models: their tensors differ")
    holders = _holders(source)
    load = [0] * len(source.ranks)
    copies: list[Copy] = []
    # Replicas share one shard, and with it all that does not depend on the rank.
    parts_of: dict[int, list[_Part]] = {}
    for rank, shard in enumerate(target.ranks):
        if id(shard) not in parts_of:
            parts_of[id(shard)] = _parts(shard, holders)
        chosen: dict[int, int] = {}
        senders: set[int] = set()
        into: list[list[Copy]] = [[] for _ in shard]
        for part in parts_of[id(shard)]:
            if rank in part.places:
                sender = rank
            else:
                group = id(part.ranks)
                if group not in chosen:
                    chosen[group] = min(
                        part.ranks, key=lambda r: (r not in senders, load[r], abs(r - rank))
                    )
                    senders.add(chosen[group])
                sender = chosen[group]
                load[sender] += part.size
            to = Place(rank, shard[part.into].name, part.to)
            into[part.into].append(Copy(part.places[sender], to))
        for group_of_copies in into:
            copies.extend(_joined(group_of_copies) if len(group_of_copies) > 1 else group_of_copies)
    return CopyPlan(source, target, tuple(copies))


class _Held(NamedTuple):
    """A box of a tensor, and the places where all of it is held."""

    box: Box
    places: dict[int, Place]


class _Part(NamedTuple):
    """A part of a target parameter, all of which each of its source ranks holds.

    Args:
        into: which parameter of its shard, by number.
        to: the part's box of it.
        ranks: who holds the part; the same object for all parts with the same holders.
        places: where in the holders' parameters it is, by rank.
    """

    into: int
    to: Box
    size: int
    ranks: tuple[int, ...]
    places: dict[int, Place]


def _holders(source: Layout) -> dict[str, list[_Held]]:
    """Return, for each tensor, the boxes it is held in, and by whom."""
    holders: dict[str, dict[Box, dict[int, Place]]] = defaultdict(dict)
    for rank, shard in enumerate(source.ranks):
        for parameter in shard:
            for piece in parameter.pieces:
                places = holders[piece.tensor].setdefault(piece.box, {})
                places.setdefault(rank, Place(rank, parameter.name, piece.at))
    return {t: [_Held(*item) for item in boxes.items()] for t, boxes in holders.items()}


def _parts(shard: Shard, holders: dict[str, list[_Held]]) -> list[_Part]:
    """Divide a target shard by who holds what; where there is least choice of sender first.

    What many ranks hold can then come along with it.
    """
    groups: dict[tuple[int, ...], tuple[int, ...]] = {}
    parts = []
    for index, parameter in enumerate(shard):
        for piece in parameter.pieces:
            covered = 0
            for held in holders.get(piece.tensor, ()):
                box = piece.box.intersect(held.box)
                if box is None:
                    continue
                covered += box.size
                ranks = tuple(held.places)
                places = {
                    rank: Place(rank, place.parameter, box.carried(held.box, place.box))
                    for rank, place in held.places.items()
                }
                to = box.carried(piece.box, piece.at)
                group = groups.setdefault(ranks, ranks)
                parts.append(_Part(index, to, box.size, group, places))
            if covered != piece.box.size:
                boxes = [held.box for held in holders.get(piece.tensor, ())]
                missing = _subtract(piece.box, boxes)
                seen = f"lacks {missing[0]}" if missing else "has overlapping boxes"
                raise ValueError(f"the source {seen} of {piece.tensor}")
    return sorted(parts, key=lambda part: len(part.ranks))


def _subtract(box: Box, others: Iterable[Box]) -> list[Box]:
    rest = [box]
    for other in others:
        rest = [part for box in rest for part in box.subtract(other)]
    return rest


def _joined(copies: list[Copy]) -> list[Copy]:
    """Join the copies that continue each other on both sides."""
    joined: list[Copy] = []
    for copy in sorted(copies, key=lambda c: c.target.box.start):
        longer = _continued(joined[-1], copy) if joined else None
        if longer:
            joined[-1] = longer
        else:
            joined.append(copy)
    return joined


def _continued(copy: Copy, following: Copy) -> Copy | None:
    places = []
    axes = set()
    for a, b in ((copy.source, following.source), (copy.target, following.target)):
        if (a.rank, a.parameter) != (b.rank, b.parameter):
            return None
        differing = [
            d
            for d in range(len(a.box.start))
            if (a.box.start[d], a.box.stop[d]) != (b.box.start[d], b.box.stop[d])
        ]
        if len(differing) != 1 or a.box.stop[differing[0]] != b.box.start[differing[0]]:
            return None
        axes.add(differing[0] - len(a.box.start))
        places.append(Place(a.rank, a.parameter, Box(a.box.start, b.box.stop)))
    return Copy(*places) if len(axes) == 1 else None
