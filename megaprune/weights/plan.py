"""From one layout to another: which bytes go where, each exactly once.

A plan is made on paper. It knows boxes and ranks; files, processes and devices are the business of
whoever executes it. Source and target ranks with the same number are one process: what it already
holds is copied locally and never travels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from megaprune.weights.boxes import Box
from megaprune.weights.layouts.base import Layout, Piece, Shard


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
class Plan:
    """Everything that must be copied to turn one layout into another.

    Args:
        source, target: the layouts.
        copies: in the order of the target's ranks and parameters. Copies that continue each other
            on both sides are one.
    """

    source: Layout
    target: Layout
    copies: tuple[Copy, ...]

    def received(self) -> list[int]:
        """Elements that each target rank gets from other ranks."""
        return self._travelling(len(self.target.ranks), lambda copy: copy.target.rank)

    def sent(self) -> list[int]:
        """Elements that each source rank sends to other ranks."""
        return self._travelling(len(self.source.ranks), lambda copy: copy.source.rank)

    def messages(self) -> int:
        """Pairs of ranks between which anything travels: one coalesced message each."""
        return len({(c.source.rank, c.target.rank) for c in self.copies if not c.local})

    def lower_bound(self) -> list[int]:
        """Elements that each target rank needs and does not hold: no plan can receive fewer."""
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
                    rest = _subtract([piece.box], have.get(piece.tensor, ()))
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
        """Parameter-to-parameter transfers that are more than one block of memory on either side.

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

    def _travelling(self, ranks: int, rank_of: Callable[[Copy], int]) -> list[int]:
        totals = [0] * ranks
        for copy in self.copies:
            if not copy.local:
                totals[rank_of(copy)] += copy.size
        return totals


def plan(source: Layout, target: Layout) -> Plan:
    """Plan how to fill `target` from `source`.

    What a rank holds already, it copies locally. Every other element comes from one source rank:
    one that sends to this target rank already if there is one (few messages), else the one that has
    least to send so far (replicas share the work), else the nearest.

    Raises:
        ValueError: the layouts are of different models, or the source lacks part of a tensor.
    """
    if dict(source.tensors) != dict(target.tensors):
        raise ValueError("source and target lay out different models: their tensors differ")
    holders = _holders(enumerate(source.ranks))
    load = [0] * len(source.ranks)
    copies: list[Copy] = []
    for rank, shard in enumerate(target.ranks):
        own = _holders([(rank, source.ranks[rank])] if rank < len(source.ranks) else [])
        senders: set[int] = set()
        found: list[list[Copy]] = [[] for _ in shard]
        wanted = [(index, piece) for index, p in enumerate(shard) for piece in p.pieces]
        # Where there is little choice first: what many ranks hold can then come along with it.
        wanted.sort(key=lambda item: max(map(len, holders[item[1].tensor].values()), default=0))
        for index, piece in wanted:
            for box, choices, part in _cover(piece, own[piece.tensor], holders[piece.tensor]):
                held = min(
                    choices, key=lambda h: (h.rank not in senders, load[h.rank], abs(h.rank - rank))
                )
                if held.rank != rank:
                    load[held.rank] += part.size
                    senders.add(held.rank)
                at = Place(held.rank, held.parameter, part.carried(box, held.at))
                to = Place(rank, shard[index].name, part.carried(piece.box, piece.at))
                found[index].append(Copy(at, to))
        copies.extend(copy for group in found for copy in _joined(group))
    return Plan(source, target, tuple(copies))


class _Held(NamedTuple):
    """A place where all of some box is held."""

    rank: int
    parameter: str
    at: Box


_Holders = dict[Box, list[_Held]]


def _holders(ranks: Iterable[tuple[int, Shard]]) -> dict[str, _Holders]:
    """For each tensor: the boxes it is held in, and who holds each."""
    holders: dict[str, _Holders] = defaultdict(dict)
    for rank, shard in ranks:
        for parameter in shard:
            for piece in parameter.pieces:
                held = _Held(rank, parameter.name, piece.at)
                holders[piece.tensor].setdefault(piece.box, []).append(held)
    return holders


def _cover(wanted: Piece, *choices: _Holders) -> Iterator[tuple[Box, list[_Held], Box]]:
    """Divide a wanted piece among held boxes: (held box, who holds it, the part taken from it).

    What is among the first choices is taken from there.
    """
    missing = [wanted.box]
    for holders in choices:
        for box, held in holders.items():
            if not missing:
                return
            taken = [part for m in missing if (part := m.intersect(box))]
            if taken:
                yield from ((box, held, part) for part in taken)
                missing = _subtract(missing, [box])
    if missing:
        raise ValueError(f"the source lacks {missing[0]} of {wanted.tensor}")


def _subtract(boxes: Iterable[Box], others: Iterable[Box]) -> list[Box]:
    rest = list(boxes)
    for other in others:
        rest = [part for box in rest for part in box.subtract(other)]
    return rest


def _joined(copies: list[Copy]) -> list[Copy]:
    """The same copies, those that continue each other on both sides made one."""
    joined: list[Copy] = []
    for copy in sorted(copies, key=lambda c: c.target.box.start):
        longer = _continued(joined[-1], copy) if joined else None
        if longer:
            joined[-1] = longer
        else:
            joined.append(copy)
    return joined


def _continued(one: Copy, other: Copy) -> Copy | None:
    places = []
    axes = set()
    for a, b in ((one.source, other.source), (one.target, other.target)):
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
