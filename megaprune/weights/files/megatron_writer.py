"""Write Megatron-core distributed checkpoints without holding them in memory.

`megatron.core.dist_checkpointing.save` needs process groups and tensors in memory. The format below
it is torch's own, and torch's planner interface asks for each part of a tensor only when it is
written, so one process can write a checkpoint that is larger than its memory.
"""

from __future__ import annotations

import io
import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    SavePlan,
    SavePlanner,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)

from megaprune.weights.boxes import Box
from megaprune.weights.files.checkpoint_index import HF_FILES
from megaprune.weights.files.folder import Rearranged
from megaprune.weights.files.mapped import BAND_BYTES, create
from megaprune.weights.files.side_files import copy_side_files
from megaprune.weights.layouts import Parameter

_FORMAT = {
    "sharded_backend": "torch_dist",
    "sharded_backend_version": 1,
    "common_backend": "torch",
    "common_backend_version": 1,
}


def write_megatron(
    folder: Path,
    weights: Rearranged,
    extra: list[str],
    side: dict[str, Path],
    written: Callable[[str, int, bool], None],
) -> None:
    """Write weights, in a checkpoint layout, as a `torch_dist` checkpoint.

    Each parameter is stored in parts of at most `BAND_BYTES`, which are built when they are
    written.

    Args:
        extra: names of the `_extra_state` objects to write; they are empty.
        side: the Hugging Face model's other files, which are kept in `HF_FILES`.
        written: told (parameter, bytes, whether the parameter is complete) as each part is begun.
    """
    (folder / HF_FILES).mkdir()
    copy_side_files(side, folder / HF_FILES)
    # The checksum of each zip record takes longer than writing it, and torch.load ignores it.
    checksums = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        with warnings.catch_warnings():
            # It warns that there is one process even where it is told so.
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            dcp.save(
                dict.fromkeys([*extra, *(p.name for p in weights.parameters())]),
                # One thread: with more, torch loses their errors.
                storage_writer=_Writer(folder, thread_count=1, sync_files=False),
                planner=_Planner(weights, extra, written),
                no_dist=True,
            )
    except CheckpointException as error:
        # torch wraps whatever ended it, Ctrl-C included; what did is what callers handle.
        cause, _ = next(iter(error.failures.values()))
        # Torch's own errors follow from the system's, as where the disk is full: keep that.
        raise cause from cause.__context__
    finally:
        torch.serialization.set_crc32_options(checksums)
    # What dist_checkpointing.load wants to see besides torch's own files.
    common = io.BytesIO()  # given a path, torch does not tell why it could not write
    torch.save({"checkpoint_version": 3.0, "iteration": 0}, common)
    (folder / "common.pt").write_bytes(common.getvalue())
    (folder / "metadata.json").write_text(json.dumps(_FORMAT))


class _Files(FileSystem):  # type: ignore[misc]
    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[IO[bytes]]:
        """Open a file that a checkpoint consists of, which is new wherever it is written."""
        with create(Path(path)) if mode == "wb" else open(path, mode) as stream:
            yield stream


class _Writer(dcp.FileSystemWriter):  # type: ignore[misc]
    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.fs = _Files()


class _Planner(SavePlanner):  # type: ignore[misc]
    """Torch's planner for a layout: its parameters are written part by part, built on demand."""

    def __init__(
        self, weights: Rearranged, extra: list[str], written: Callable[[str, int, bool], None]
    ):
        self._weights = weights
        self._extra = extra
        self._written = written
        self._parts: dict[MetadataIndex, tuple[Parameter, Box]] = {}

    def set_up_planner(
        self, state_dict: Any, storage_meta: Any = None, is_coordinator: bool = False
    ) -> None:
        """Nothing to prepare: the weights came with the constructor."""

    def create_local_plan(self) -> SavePlan:
        """Plan an item for each part of each parameter, and one for each empty object."""
        items = [WriteItem(MetadataIndex(name), WriteItemType.BYTE_IO) for name in self._extra]
        for parameter in self._weights.parameters():
            dtype = self._weights.dtype(parameter.name)
            for number, box in enumerate(self._bands(parameter, dtype)):
                index = MetadataIndex(parameter.name, torch.Size(box.start), number)
                self._parts[index] = (parameter, box)
                data = TensorWriteData(
                    chunk=ChunkStorageMetadata(torch.Size(box.start), torch.Size(box.shape)),
                    properties=TensorProperties(dtype=dtype),
                    size=torch.Size(parameter.shape),
                )
                items.append(WriteItem(index, WriteItemType.SHARD, tensor_data=data))
        return SavePlan(items)

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        """Return the plan of the only process, and the metadata of what it writes."""
        tensors: dict[str, Any] = {}
        for item in all_plans[0].items:
            data = item.tensor_data
            if data is None:
                tensors[item.index.fqn] = BytesStorageMetadata()
                continue
            stored = tensors.setdefault(
                item.index.fqn, TensorStorageMetadata(data.properties, data.size, [])
            )
            stored.chunks.append(data.chunk)
        return all_plans, Metadata(state_dict_metadata=tensors)

    def finish_plan(self, new_plan: SavePlan) -> SavePlan:
        """Return the plan as it is."""
        return new_plan

    def resolve_data(self, write_item: WriteItem) -> torch.Tensor | io.BytesIO:
        """Build one part, or an empty object."""
        if write_item.type == WriteItemType.BYTE_IO:
            empty = io.BytesIO()
            torch.save([torch.empty(0, dtype=torch.uint8)], empty)
            return empty
        parameter, box = self._parts[write_item.index]
        part = self._weights.read(parameter.name, box).contiguous()
        self._written(parameter.name, part.nbytes, box.stop == parameter.shape)
        return part

    @staticmethod
    def _bands(parameter: Parameter, dtype: torch.dtype) -> Iterator[Box]:
        # A stack of layers is stored layer by layer, as Megatron-core itself stores it.
        whole = Box.whole(parameter.shape)
        layers = [whole]
        if len(parameter.shape) > len(parameter.pieces[0].box.shape):
            layers = list(whole.bands(whole.size // parameter.shape[0]))
        for layer in layers:
            yield from layer.bands(BAND_BYTES // dtype.itemsize)
