"""Weight syncs among running processes: a plan of copies, carried out.

Every rank holds a source shard (the model in training) and a target shard (the engine that
generates). What a rank has already is copied in place; the rest travels in few large messages
through two bounded buffers. Works on any torch.distributed backend, on the device of the tensors.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

import torch
import torch.distributed as dist

from megaprune import schema
from megaprune.distributed.device import device, synchronize
from megaprune.weights.boxes import Box
from megaprune.weights.copy_plan import Copy, CopyPlan

BUFFER_BYTES = 240 << 20
"""Bytes of all messages that a rank has under way at once, in and out."""

_DIGEST_BYTES = 8 << 20
"""Bytes whose digest is computed at once."""

Tensors = Mapping[str, torch.Tensor]


class WeightsDiffer(RuntimeError):
    """A target does not hold what its source holds; the message names ranks and parameters."""


@dataclass
class SyncStats:
    """What a sync has moved on this rank.

    Args:
        bytes_sent, bytes_received: counted at the messages themselves, buffers that were handed
            over and filled; local copies are not among them.
        messages: how many were sent.
        rounds: of messages; the messages of a round are under way together.
        seconds: by stage: "local" copies, "pack" and "unpack" buffers, "travel".
    """

    bytes_sent: int = 0
    bytes_received: int = 0
    messages: int = 0
    rounds: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def over_all_ranks(self) -> dict[str, int]:
        """Sum the bytes and messages that all ranks sent. Collective."""
        sums = torch.tensor([self.bytes_sent, self.messages], device=device())
        dist.all_reduce(sums)
        return dict(zip((schema.SYNC_BYTES, schema.SYNC_MESSAGES), sums.tolist(), strict=True))


class WeightSync:
    """A plan of copies, bound to this rank's tensors, to be carried out again and again.

    Args:
        plan: from the layout of the sources to the layout of the targets, one rank per process.
        source, target: this rank's tensors, by the names of the layouts. Targets are written in
            place and must stay the same tensors.
        dtype: of every target on every rank; elements are converted to it before they travel.
        group: the processes; all of them if None.
        buffer_bytes: of messages under way on a rank at once.
        verify_every: each so many runs end with `verify`; none does if 0.

    Raises:
        ValueError: tensors are missing or have another shape than in the plan's layouts.
    """

    def __init__(
        self,
        plan: CopyPlan,
        source: Tensors,
        target: Tensors,
        dtype: torch.dtype,
        *,
        group: dist.ProcessGroup | None = None,
        buffer_bytes: int = BUFFER_BYTES,
        verify_every: int = 0,
    ):
        self.plan = plan
        self._verify_every, self._runs = verify_every, 0
        self._rank = dist.get_rank(group)
        self._group = group
        self._source, self._target = source, target
        self._dtype = dtype
        self._padding = [(p.name, box) for p in plan.target.ranks[self._rank] for box in p.padding]
        self._check()
        self._local: list[Copy] = []
        sending: dict[int, list[Copy]] = {}
        receiving: dict[int, list[Copy]] = {}
        for copy in plan.copies:
            if copy.local and copy.target.rank == self._rank:
                self._local.append(copy)
            elif copy.source.rank == self._rank:
                sending.setdefault(copy.target.rank, []).append(copy)
            elif copy.target.rank == self._rank:
                receiving.setdefault(copy.source.rank, []).append(copy)
        limit = self._message_elements(buffer_bytes)
        self._out = {peer: list(_messages(copies, limit)) for peer, copies in sending.items()}
        self._in = {peer: list(_messages(copies, limit)) for peer, copies in receiving.items()}
        self._sending, self._receiving = sending, receiving
        # NCCL sets up a group at its first use, which must be everybody's.
        dist.barrier(group)

    def _check(self) -> None:
        for what, layout, tensors in (
            ("source", self.plan.source, self._source),
            ("target", self.plan.target, self._target),
        ):
            expected = {p.name: p.shape for p in layout.ranks[self._rank]}
            seen = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            if seen != expected:
                odd = sorted(set(seen.items()) ^ set(expected.items()))[:4]
                raise ValueError(f"{what} of rank {self._rank} is not as in its layout: {odd}")
        wrong = {n: t.dtype for n, t in self._target.items() if t.dtype != self._dtype}
        if wrong:
            raise ValueError(f"targets are not {self._dtype}: {wrong}")

    def _message_elements(self, buffer_bytes: int) -> int:
        """Return the buffers' share of one of a rank's concurrent messages, alike on all ranks."""
        degree: dict[int, int] = {}
        for pair in self.plan.traffic:
            for rank in pair:
                degree[rank] = degree.get(rank, 0) + 1
        return max(1, buffer_bytes // self._dtype.itemsize // max(degree.values(), default=1))

    @torch.no_grad()
    def run(self) -> SyncStats:
        """Bring every target up to its source. Collective.

        Raises:
            WeightsDiffer: as `verify` does, where this run ends with it.
        """
        stats = self._move()
        self._runs += 1
        if self._verify_every and self._runs % self._verify_every == 0:
            self.verify()
        return stats

    def _move(self) -> SyncStats:
        stats = SyncStats(seconds=dict.fromkeys(("local", "pack", "travel", "unpack"), 0.0))
        clock = _Clock(stats.seconds)
        with clock("local"):
            for copy in self._local:
                _part(self._target, copy.target.parameter, copy.target.box).copy_(
                    _part(self._source, copy.source.parameter, copy.source.box)
                )
            for name, box in self._padding:
                _part(self._target, name, box).zero_()
        stats.rounds = max(map(len, (*self._out.values(), *self._in.values())), default=0)
        for number in range(stats.rounds):
            operations, arriving = [], []
            with clock("pack"):
                for peer, messages in self._out.items():
                    if number < len(messages):
                        buffer = self._packed(messages[number])
                        operations.append(self._operation(dist.isend, buffer, peer))
                        stats.bytes_sent += buffer.nbytes
                        stats.messages += 1
                for peer, messages in self._in.items():
                    if number < len(messages):
                        buffer = self._buffer(messages[number])
                        operations.append(self._operation(dist.irecv, buffer, peer))
                        arriving.append((messages[number], buffer))
                        stats.bytes_received += buffer.nbytes
            with clock("travel"):
                for request in dist.batch_isend_irecv(operations) if operations else ():
                    request.wait()
            with clock("unpack"):
                for message, buffer in arriving:
                    self._unpack(message, buffer)
            del operations, arriving
        return stats

    @torch.no_grad()
    def verify(self) -> None:
        """Compare digests of what each target holds with those of its sources. Collective.

        Raises:
            WeightsDiffer: on all ranks, if any target differs anywhere.
        """
        device = next(iter(self._target.values())).device
        expected, operations = {}, []
        for peer, copies in self._sending.items():
            digests = torch.stack([self._source_digest(copy) for copy in copies])
            operations.append(self._operation(dist.isend, digests, peer))
        for peer, copies in self._receiving.items():
            expected[peer] = torch.empty(len(copies), dtype=torch.int64, device=device)
            operations.append(self._operation(dist.irecv, expected[peer], peer))
        for request in dist.batch_isend_irecv(operations) if operations else ():
            request.wait()
        pairs = [(copies, expected[peer]) for peer, copies in self._receiving.items()]
        if self._local:
            pairs.append(
                (self._local, torch.stack([self._source_digest(copy) for copy in self._local]))
            )
        differing = []
        for copies, should in pairs:
            held = torch.stack(
                [
                    digest(_part(self._target, c.target.parameter, c.target.box), self._dtype)
                    for c in copies
                ]
            )
            for index in (held != should).nonzero()[:, 0].tolist():
                copy = copies[index]
                differing.append(
                    f"rank {self._rank}: {copy.target.parameter}{copy.target.box} is not what rank "
                    f"{copy.source.rank} has in {copy.source.parameter}{copy.source.box}"
                )
        for name, box in self._padding:
            if _part(self._target, name, box).any():
                differing.append(f"rank {self._rank}: padding {name}{box} is not zero")
        everyone: list[list[str]] = [[] for _ in range(dist.get_world_size(self._group))]
        dist.all_gather_object(everyone, differing, self._group)
        lines = [line for rank in everyone for line in rank]
        if lines:
            more = f"\n... and {len(lines) - 20} more" if len(lines) > 20 else ""
            raise WeightsDiffer(
                f"{len(lines)} parts of the weights differ after a sync:\n"
                + "\n".join(lines[:20])
                + more
            )

    def _source_digest(self, copy: Copy) -> torch.Tensor:
        return digest(_part(self._source, copy.source.parameter, copy.source.box), self._dtype)

    def _packed(self, message: list[Copy]) -> torch.Tensor:
        buffer = self._buffer(message)
        for copy, span in _spans(message, buffer):
            part = _part(self._source, copy.source.parameter, copy.source.box)
            span.view(part.shape).copy_(part)
        return buffer

    def _unpack(self, message: list[Copy], buffer: torch.Tensor) -> None:
        for copy, span in _spans(message, buffer):
            part = _part(self._target, copy.target.parameter, copy.target.box)
            part.copy_(span.view(part.shape))

    def _buffer(self, message: list[Copy]) -> torch.Tensor:
        device = next(iter(self._target.values())).device
        return torch.empty(sum(c.size for c in message), dtype=self._dtype, device=device)

    def _operation(self, kind: object, buffer: torch.Tensor, peer: int) -> dist.P2POp:
        ranks = dist.get_process_group_ranks(self._group or dist.group.WORLD)
        return dist.P2POp(kind, buffer, ranks[peer], self._group)


def digest(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a number that changes if any element does, once converted to `dtype`: int64, [].

    The sum of the 8-byte words of the elements, each mixed and times an odd number that depends on
    its place, modulo 2^64: one word that differs always shows; that several cancel out has a chance
    of about 2^-60. Both sides must have the same shape.
    """
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    factors = _factors(_DIGEST_BYTES // 8, tensor.device)
    bands = Box.whole(tuple(tensor.shape)).bands(_DIGEST_BYTES // dtype.itemsize)
    for number, band in enumerate(bands):
        flat = tensor[band.slices].to(dtype).reshape(-1).contiguous().view(torch.uint8)
        if flat.storage_offset() % 8 or len(flat) % 8:
            flat = torch.nn.functional.pad(flat, (0, -len(flat) % 8)).clone()
        words = flat.view(torch.int64)
        for start in range(0, len(words), len(factors)):  # a row may be longer than a band
            part = words[start : start + len(factors)]
            # Top bits reach low ones: what flips signs would otherwise be the same in any place.
            mixed = _shifted(part, 32).mul_(-0x61C8864680B583EB)
            mixed = _shifted(mixed, 29)
            total += mixed.mul_(factors[: len(part)]).sum() * (2 * (number + start) + 1)
    return total


def _shifted(words: torch.Tensor, bits: int) -> torch.Tensor:
    return (words >> bits).bitwise_and_((1 << (64 - bits)) - 1).bitwise_xor_(words)


@cache
def _factors(count: int, device: torch.device) -> torch.Tensor:
    """Odd numbers that have nothing to do with each other: splitmix64's finaliser of 0, 1, ..."""
    place = torch.arange(count, device=device)
    place = (place ^ (place >> 30)) * -0x40A7B892E31B1A47
    place = (place ^ (place >> 27)) * -0x6B2FB644ECCEEE15
    return (place ^ (place >> 31)) | 1


def _messages(copies: list[Copy], limit: int) -> Iterator[list[Copy]]:
    """Fill messages of at most `limit` elements; both ends of a pair make the same ones."""
    message: list[Copy] = []
    held = 0
    for copy in copies:
        for box in copy.target.box.bands(limit):
            whole = copy.target.box
            part = Copy(
                copy.source._replace(box=box.carried(whole, copy.source.box)),
                copy.target._replace(box=box),
            )
            if message and held + part.size > limit:
                yield message
                message, held = [], 0
            message.append(part)
            held += part.size
    if message:
        yield message


def _spans(message: list[Copy], buffer: torch.Tensor) -> Iterator[tuple[Copy, torch.Tensor]]:
    start = 0
    for copy in message:
        yield copy, buffer[start : start + copy.size]
        start += copy.size


def _part(tensors: Tensors, name: str, box: Box) -> torch.Tensor:
    return tensors[name][box.slices]


class _Clock:
    """A clock that adds up the seconds of each stage, on the device."""

    def __init__(self, seconds: dict[str, float]):
        self._seconds = seconds

    def __call__(self, stage: str) -> _Clock:
        self._stage = stage
        return self

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        synchronize()
        self._seconds[self._stage] += time.perf_counter() - self._start
