"""Storages whose bytes are in the host's memory for a while, so that the device has room."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from megaprune.distributed.device import device, synchronize
from megaprune.errors import InputError

_ALIGNMENT = 512
"""Bytes; each storage begins at a multiple of it, whatever the type of its elements."""

_BUFFER_BYTES = 32 << 30
"""Size of a buffer, at most, unless a single storage is larger: drivers have limits."""


_PURPOSE = "actor.offload (actor.offload=none needs none)"


class HostBuffer:
    """Bytes in the host's memory, page-locked where there is a GPU: it copies those fastest.

    torch's own page-locked memory is rounded up to powers of two, which is too much where sizes are
    tens of gigabytes. Here ordinary memory is registered with the driver.

    Args:
        nbytes: how many.
        purpose: what they are for, as the error says it.

    Raises:
        InputError: the host cannot lock as much.
    """

    def __init__(self, nbytes: int, purpose: str):
        self.data = torch.empty(nbytes, dtype=torch.uint8)
        if device().type == "cuda" and nbytes:
            status = int(torch.cuda.cudart().cudaHostRegister(self.data.data_ptr(), nbytes, 0))
            if status:
                raise InputError(
                    f"the host cannot page-lock {nbytes / 1e9:.1f} GB for {purpose} (CUDA error "
                    f"{status}); give the job more of the host's memory (`megaprune plan` says how "
                    f"much)"
                )
            # The argument keeps the memory until it is no longer registered.
            weakref.finalize(self, _unregister, self.data).atexit = False


def _unregister(data: torch.Tensor) -> None:
    torch.cuda.check_error(torch.cuda.cudart().cudaHostUnregister(data.data_ptr()))


@dataclass(frozen=True)
class _Away:
    """A storage that was emptied, and its bytes in the host's memory."""

    storage: torch.UntypedStorage
    host: torch.Tensor


class OffloadedStorages:
    """Storages that leave the device together, and come back together.

    A storage is emptied, not replaced: all tensors that look into it (Megatron-core's buffers,
    their buckets and shards, the sources of a weight sync) are what they were once it is back, and
    must not be read before. The host's memory is kept for the next time.
    """

    def __init__(self) -> None:
        self._buffers: list[HostBuffer] = []
        self._sizes: list[int] = []
        self._away: dict[int, _Away] = {}
        self._redirected: list[tuple[torch.Tensor, torch.Tensor]] = []

    def offload(
        self, tensors: Iterable[torch.Tensor], redirected: Iterable[torch.Tensor] = ()
    ) -> None:
        """Copy the storages of some tensors to the host's memory, and empty them.

        Does nothing if they are away already.

        Args:
            tensors: of the device.
            redirected: tensors in these storages that are to show the bytes in the host's memory
                meanwhile. No parameter of a model may be among them: torch forgets the hooks of a
                parameter's gradient when its data move to another device.
        """
        if self._away:
            return
        storages = {
            storage._cdata: storage
            for storage in (tensor.untyped_storage() for tensor in tensors)
            # On a CPU, what numpy or a file has a hold on cannot be emptied, and stays.
            if storage.device.type != "cpu" or storage.resizable()
        }
        places = self._places([storage.nbytes() for storage in storages.values()])
        for (key, storage), host in zip(storages.items(), places, strict=True):
            host.copy_(_bytes(storage), non_blocking=True)
            self._away[key] = _Away(storage, host)
        synchronize()
        for tensor in {id(tensor): tensor for tensor in redirected}.values():
            self._redirected.append((tensor, tensor.data))
            tensor.data = self.on_host(tensor)
        for storage in storages.values():
            storage.resize_(0)

    def reload(self) -> None:
        """Give all storages their memory and their bytes again.

        On a GPU the copies may still be under way; what is computed next waits for them.
        """
        for away in self._away.values():
            away.storage.resize_(away.host.nbytes)
            _bytes(away.storage).copy_(away.host, non_blocking=True)
        for tensor, data in self._redirected:
            tensor.data = data
        self._away.clear()
        self._redirected.clear()

    def on_host(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor as it lies in the host's memory; itself, if its storage is not away."""
        away = self._away.get(tensor.untyped_storage()._cdata)
        if away is None:
            return tensor.detach()
        start = away.host.storage_offset() // tensor.element_size() + tensor.storage_offset()
        empty = torch.empty(0, dtype=tensor.dtype)
        return empty.set_(away.host.untyped_storage(), start, tensor.size(), tensor.stride())

    def _places(self, sizes: list[int]) -> list[torch.Tensor]:
        """Bytes of the host's memory for storages of these sizes; the last ones, if they fit."""
        places: list[tuple[int, int]] = []
        filled: list[int] = []
        for size in sizes:
            padded = -(-size // _ALIGNMENT) * _ALIGNMENT
            if not filled or filled[-1] + padded > _BUFFER_BYTES:
                filled.append(0)
            places.append((len(filled) - 1, filled[-1]))
            filled[-1] += padded
        if sizes != self._sizes:
            synchronize()  # copies from the old ones may be under way
            self._buffers.clear()  # before there are new ones
            self._buffers = [HostBuffer(nbytes, _PURPOSE) for nbytes in filled]
            self._sizes = sizes
        return [
            self._buffers[number].data[start : start + size]
            for (number, start), size in zip(places, sizes, strict=True)
        ]


def _bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    """All bytes of a storage, as a tensor that looks into it."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
