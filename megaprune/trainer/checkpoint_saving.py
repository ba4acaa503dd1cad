"""One checkpoint on its way to the disk: a thread of each rank writes it while training goes on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy

from megaprune.actor.host_memory import HostBuffer
from megaprune.actor.megatron_versions import SAVE_OPTIONS
from megaprune.distributed.device import synchronize
from megaprune.distributed.objects import all_gather_object, broadcast_from_rank0
from megaprune.distributed.world import raise_on_all_ranks
from megaprune.weights.files.checkpoint_index import HF_FILES
from megaprune.weights.files.digests import CheckpointRecord, PartDigest, digest_parts
from megaprune.weights.files.side_files import copy_side_files
from megaprune.weights.files.staging import staged


class HostCopies:
    """Copies of a GPU's tensors in page-locked memory, which is kept for those of the next save."""

    def __init__(self) -> None:
        self._buffers: dict[str, HostBuffer] = {}

    def of(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Begin to copy a tensor; `synchronize` ends it. The copy before, of this name, is gone.

        Raises:
            InputError: the host has too little memory.
        """
        buffer = self._buffers.get(name)
        if buffer is None or buffer.data.nbytes != tensor.nbytes:
            self._buffers[name] = buffer = HostBuffer(tensor.nbytes, "checkpoints")
        copy = buffer.data.view(tensor.dtype).view(tensor.shape)
        return copy.copy_(tensor, non_blocking=True)


class Saving:
    """A checkpoint that is being written. Methods are collective.

    Args:
        path: its place; it gets this name when it is whole.
        state: what Megatron-core saves.
        side: the Hugging Face model's other files, by name.
        nbytes: about what it takes.
        record: what is known of it; digests are added.
        copies: of the checkpoint before, whose memory is used again.

    Raises:
        InputError: the disk is too full.
    """

    def __init__(
        self,
        path: Path,
        state: dict[str, Any],
        side: dict[str, Path],
        nbytes: int,
        record: CheckpointRecord,
        copies: HostCopies,
    ):
        self.path, self._record = path, record
        self._parts: dict[str, list[PartDigest]] = {}
        self._staged = ExitStack()
        partial = path
        with raise_on_all_ranks():
            if dist.get_rank() == 0:
                partial = self._staged.enter_context(staged(path, True, nbytes))
        self._partial = partial = broadcast_from_rank0(partial)
        # A plain queue: the results come from a thread, not from Megatron-core's own processes.
        filesystem_async._results_queue = queue.Queue()
        self._error: Exception | None = None
        storages = _storages(state)
        with self._undone_by_errors():
            self._request: AsyncRequest = dist_checkpointing.save(
                state,
                str(partial),
                TorchDistSaveShardedStrategy("torch_dist", 1, thread_count=1),
                async_sharded_save=True,
                **SAVE_OPTIONS,
            )
            if dist.get_rank() == 0:
                (partial / HF_FILES).mkdir()
                copy_side_files(side, partial / HF_FILES)
        self._thread = threading.Thread(target=self._write, args=(self._held(storages, copies),))
        self._thread.start()

    def done(self) -> bool:
        """Whether all ranks have written."""
        return all(all_gather_object(not self._thread.is_alive()))

    def finish(self, before_naming: Callable[[], None]) -> None:
        """Wait for all ranks, then give the checkpoint its name.

        Args:
            before_naming: called on the first rank before that.
        """
        self._thread.join()
        errors = [e for e in all_gather_object(str(self._error or "")) if e]
        with self._undone_by_errors():
            if self._error is not None:
                raise self._error
            if errors:
                raise RuntimeError(f"another rank could not write {self.path}: {errors[0]}")
            for end in self._request.finalize_fns:
                end()
            parts = all_gather_object(self._parts)
            with raise_on_all_ranks():
                if dist.get_rank() == 0:
                    before_naming()
                    for of_rank in parts:
                        self._record.parts.update(of_rank)
                    self._record.write(self._partial)
                    self._staged.close()

    @contextmanager
    def _undone_by_errors(self) -> Iterator[None]:
        """What was written so far is removed if an error passes; a full disk is called that."""
        try:
            yield
        except BaseException as error:
            self._staged.__exit__(type(error), error, error.__traceback__)
            raise

    def _held(self, storages: set[int], copies: HostCopies) -> list[Any]:
        """What this rank is to write, in the host's memory and apart from what training changes.

        Args:
            storages: addresses of the storages of the state that is saved.
            copies: where tensors of a GPU go.
        """

        def held(item: Any, tensor: torch.Tensor) -> torch.Tensor:
            if tensor.device.type == "cuda":
                return copies.of(str(item.index), tensor)
            # What has another storage than the state is a copy that Megatron-core has made.
            return tensor.clone() if tensor.untyped_storage().data_ptr() in storages else tensor

        if self._request.async_fn is None:
            return []
        buckets = [
            (path, key, (data, [(item, held(item, tensor)) for item, tensor in tensors]))
            for path, key, (data, tensors) in self._request.async_fn_args[1]
        ]
        synchronize()  # the GPU has copied
        return buckets

    def _write(self, buckets: list[Any]) -> None:
        # Megatron-core would fork processes here, out of one that holds CUDA and vLLM's threads.
        written: dict[int, Any] = {}
        try:
            for number, bucket in enumerate(buckets):
                results: queue.Queue[Any] = queue.Queue()
                count: queue.Queue[int] = queue.Queue()
                count.put(number)
                filesystem_async.FileSystemWriterAsync.write_preloaded_data(
                    self._request.async_fn.args[0], number, bucket, results, count, True
                )
                _, result = results.get()
                if isinstance(result, Exception):
                    raise result
                self._parts[bucket[1]] = digest_parts(Path(bucket[0]), map(_place, result))
                written[number] = result
        except Exception as error:  # noqa: BLE001 (of a thread: `finish` raises it)
            self._error = error
            return
        if buckets:
            filesystem_async._results_queue.put(written)


def _storages(state: dict[str, Any]) -> set[int]:
    """The addresses of all storages of a state in the host's memory."""
    tensors = (getattr(value, "data", None) for value in nested_values(state))
    return {
        tensor.untyped_storage().data_ptr()
        for tensor in tensors
        if isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu"
    }


def _place(result: Any) -> tuple[str, list[int] | None, int, int]:
    """Tell where torch.distributed.checkpoint has written something, for `digest_parts`."""
    index, place = result.index, result.storage_data
    start = None if index.offset is None else list(index.offset)
    return index.fqn, start, place.offset, place.length
