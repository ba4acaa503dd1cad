"""Objects among the ranks of a job. They travel through the hosts' memory, never through a GPU's.

torch.distributed's own functions put pickles into tensors of the group's backend, which lie on the
GPU with NCCL, and every rank makes room for the longest pickle as many times as there are ranks.
"""

from __future__ import annotations

import pickle
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")

START_BYTES = 1024
"""What every rank gets of each pickle at once: most are no longer."""
_SIZE_BYTES = 8

_host_group: tuple[dist.ProcessGroup | None, dist.ProcessGroup] | None = None
"""The default group, and the gloo group of the same ranks."""


def make_host_group(timeout: timedelta) -> None:
    """Make the group for objects, if the default group is not gloo's. Collective.

    Args:
        timeout: of a collective operation.
    """
    global _host_group
    if dist.get_backend() != "gloo":
        _host_group = dist.group.WORLD, dist.new_group(backend="gloo", timeout=timeout)


def _group() -> dist.ProcessGroup | None:
    if _host_group is not None and _host_group[0] is dist.group.WORLD:
        return _host_group[1]
    return None


def all_gather_object(mine: T) -> list[T]:
    """Gather the object of each rank on all ranks. Collective.

    Every rank receives START_BYTES of each pickle, and the rest of those that are longer. So a
    rank that has nothing to say sends next to nothing.
    """
    group, own = _group(), dist.get_rank()
    data = pickle.dumps(mine, pickle.HIGHEST_PROTOCOL)
    starts = torch.empty((dist.get_world_size(), _SIZE_BYTES + START_BYTES), dtype=torch.uint8)
    dist.all_gather(list(starts), _start(data), group)
    return [
        _receive(start, rank, group) if rank != own else _send(mine, data, group)
        for rank, start in enumerate(starts)
    ]


def broadcast_from_rank0(mine: T) -> T:
    """Give the object of rank 0 to all ranks. Collective."""
    group = _group()
    if dist.get_rank() == 0:
        data = pickle.dumps(mine, pickle.HIGHEST_PROTOCOL)
        dist.broadcast(_start(data), 0, group)
        return _send(mine, data, group)
    start = torch.empty(_SIZE_BYTES + START_BYTES, dtype=torch.uint8)
    dist.broadcast(start, 0, group)
    received: T = _receive(start, 0, group)
    return received


def _start(data: bytes) -> torch.Tensor:
    """The size of a pickle and its first bytes, as a tensor of one length for all."""
    start = bytearray(_SIZE_BYTES + START_BYTES)
    start[:_SIZE_BYTES] = len(data).to_bytes(_SIZE_BYTES, "little")
    first = data[:START_BYTES]
    start[_SIZE_BYTES : _SIZE_BYTES + len(first)] = first
    return torch.frombuffer(start, dtype=torch.uint8)


def _send(mine: T, data: bytes, group: dist.ProcessGroup | None) -> T:
    """Send what `_start` left out of this rank's pickle."""
    if len(data) > START_BYTES:
        rest = torch.frombuffer(bytearray(data[START_BYTES:]), dtype=torch.uint8)
        dist.broadcast(rest, dist.get_rank(), group)
    return mine


def _receive(start: torch.Tensor, rank: int, group: dist.ProcessGroup | None) -> Any:
    """Receive what `_start` left out of another rank's pickle; returns its object."""
    head = start.numpy().tobytes()
    size = int.from_bytes(head[:_SIZE_BYTES], "little")
    data = head[_SIZE_BYTES : _SIZE_BYTES + size]
    if size > START_BYTES:
        rest = torch.empty(size - START_BYTES, dtype=torch.uint8)
        dist.broadcast(rest, rank, group)
        data += rest.numpy().tobytes()
    return pickle.loads(data)
