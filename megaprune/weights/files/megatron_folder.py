"""Megatron-core distributed checkpoints (`torch_dist`): torch.distributed.checkpoint files.

`megatron.core.dist_checkpointing` needs process groups and tensors in memory. The format below it
is torch's own, and torch's planner interface asks for each tensor only when it is written, so one
process can write and read checkpoints that are larger than its memory.
"""

from __future__ import annotations

import argparse
import io
import json
import pickle
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.checkpoint.api import CheckpointException
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

from megaprune.errors import InputError
from megaprune.weights.boxes import Box, Shape
from megaprune.weights.files.folder import Rearranged, check_shape
from megaprune.weights.files.hf_folder import side_files
from megaprune.weights.files.mapped import BAND_BYTES, read_box
from megaprune.weights.layouts import Layout, Parameter, Spelling, checkpoint_layout
from megaprune.weights.model import Model, config_differences, read_config

HF_FILES = "hf"
"""Folder inside a checkpoint that keeps config.json, tokenizer files and the like."""

_EMBEDDING = "embedding.word_embeddings.weight"
_FORMAT = {
    "sharded_backend": "torch_dist",
    "sharded_backend_version": 1,
    "common_backend": "torch",
    "common_backend_version": 1,
}


@dataclass
class _Chunk:
    """A stored part of a tensor: its box, the file, and the archive's place in the file."""

    box: Box
    path: Path
    offset: int
    length: int
    data: tuple[int, Shape] | None = field(default=None)
    """First byte of the elements in the file, and their strides; known once looked for."""


class CheckpointIndex:
    """What a distributed checkpoint holds, whatever its model.

    Args:
        path: the checkpoint, or a run's folder with latest_checkpointed_iteration.txt.

    Raises:
        InputError: it is not such a checkpoint, or files are missing or truncated.
    """

    def __init__(self, path: Path):
        self.path = path = _latest(path)
        try:
            backend = json.loads((path / "metadata.json").read_text()).get("sharded_backend")
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(
                f"{path}: no readable metadata.json ({error}); expected a Megatron-core "
                f"distributed checkpoint"
            ) from error
        if backend != "torch_dist":
            raise InputError(
                f"{path}: saved as {backend}; expected torch_dist. Save it again with "
                f"--ckpt-format torch_dist"
            )
        self.metadata = _read_metadata(path)
        self.tensors: dict[str, TensorStorageMetadata] = {
            name: stored
            for name, stored in self.metadata.state_dict_metadata.items()
            if isinstance(stored, TensorStorageMetadata)
        }
        self._places: dict[str, list[tuple[MetadataIndex, Any]]] = {}
        for index, place in (self.metadata.storage_data or {}).items():
            self._places.setdefault(index.fqn, []).append((index, place))

    def chunks(self, tensor: str) -> list[_Chunk]:
        """The stored parts of a tensor, checked to be in files that are long enough."""
        stored = self.tensors[tensor]
        sizes = {tuple(chunk.offsets): tuple(chunk.sizes) for chunk in stored.chunks}
        chunks = []
        for index, place in self._places.get(tensor, []):
            if getattr(place, "transform_descriptors", None):
                raise InputError(
                    f"{self.path / place.relative_path}: {tensor} is stored transformed "
                    f"({place.transform_descriptors}); only plain storage is read"
                )
            start = tuple(index.offset or (0,) * len(stored.size))
            if start not in sizes:
                raise InputError(
                    f"{self.path / '.metadata'} is damaged: it has a place for {list(start)} of "
                    f"{tensor}, but no such part"
                )
            box = Box.whole(sizes[start]).shift(start)
            file = self.path / place.relative_path
            if not file.is_file():
                raise InputError(f"{file} is missing; it holds {list(box.slices)} of {tensor}")
            length = file.stat().st_size
            if length < place.offset + place.length:
                raise InputError(
                    f"{file}: truncated: {length} bytes, but {tensor} ends at byte "
                    f"{place.offset + place.length}"
                )
            chunks.append(_Chunk(box, file, place.offset, place.length))
        if sum(chunk.box.size for chunk in chunks) != prod(stored.size):
            raise InputError(
                f"{self.path}: {tensor} has {prod(stored.size)} elements, of which "
                f"{sum(chunk.box.size for chunk in chunks)} are stored"
            )
        return chunks


class MegatronFolder:
    """A decoder in a Megatron-core distributed checkpoint; optimizer state is passed over.

    Args:
        path: the checkpoint, or a run's folder with latest_checkpointed_iteration.txt.
        hf: a Hugging Face folder (or its config.json) of the same model. Needed where the
            checkpoint does not keep these files itself; else it must agree with what it keeps.

    Raises:
        InputError: no such checkpoint, another model than the configuration says, or files
            missing or truncated.
    """

    format = "megatron-torch_dist"

    def __init__(self, path: Path, hf: Path | None = None):
        self._index = CheckpointIndex(path)
        self.path = path = self._index.path
        self.notes: list[str] = []
        self._hf = path / HF_FILES
        self.config = self._config(hf)
        self.model = Model.from_config(self.config, str(self._hf / "config.json"))
        self.spelling = self._spelling()
        self.layout: Layout = checkpoint_layout(self.model, self.spelling)
        self._check()
        self._chunks = {p.name: self._index.chunks(p.name) for p in self.layout.ranks[0]}

    def dtype(self, parameter: str) -> torch.dtype:
        """Element type of a parameter."""
        return self._index.tensors[parameter].properties.dtype

    def read(self, parameter: str, box: Box) -> torch.Tensor:
        """Elements of a parameter: on the file's pages where one stored part has them all."""
        dtype = self.dtype(parameter)
        parts = [
            (common, chunk)
            for chunk in self._chunks[parameter]
            if (common := chunk.box.intersect(box))
        ]
        if len(parts) == 1:
            return self._stored(parameter, parts[0][1], box, dtype)
        whole = torch.empty(box.shape, dtype=dtype)
        for common, chunk in parts:
            whole[common.within(box).slices] = self._stored(parameter, chunk, common, dtype)
        return whole

    def side_files(self) -> dict[str, Path]:
        """Configuration, tokenizer and licence files, by name."""
        return side_files(self._hf)

    def _stored(self, name: str, chunk: _Chunk, box: Box, dtype: torch.dtype) -> torch.Tensor:
        if chunk.data is None:
            chunk.data = _locate(name, chunk, dtype)
        offset, strides = chunk.data
        return read_box(chunk.path, offset, dtype, strides, box.within(chunk.box))

    def _config(self, hf: Path | None) -> dict[str, Any]:
        stored = read_config(self._hf) if self._hf.is_dir() else None
        if hf is None:
            if stored is None:
                raise InputError(
                    f"{self.path} keeps no config.json (no folder {HF_FILES}/): give the Hugging "
                    f"Face folder of the same model with --hf"
                )
            return self._agreeing(stored, str(self._hf / "config.json"))
        given = read_config(hf)
        if stored is not None:
            differences = config_differences(given, stored)
            if differences:
                raise InputError(
                    f"{hf} is another model than {self.path / HF_FILES / 'config.json'}, which is "
                    f"stored in the checkpoint: {'; '.join(differences)}"
                )
        else:
            self._hf = hf if hf.is_dir() else hf.parent
        return self._agreeing(given, str(hf))

    def _agreeing(self, config: dict[str, Any], where: str) -> dict[str, Any]:
        """The configuration, once compared with the arguments that Megatron-LM stored."""
        args = _training_arguments(self.path / "common.pt")
        if args:
            differences = config_differences(config, _as_config(args, config))
            if differences:
                raise InputError(
                    f"{where} is another model than the arguments that training stored in "
                    f"{self.path / 'common.pt'}: {'; '.join(differences)}"
                )
        return config

    def _spelling(self) -> Spelling:
        names = [n for n in self._index.tensors if n.endswith(_EMBEDDING) and "optim" not in n]
        if not names:
            raise InputError(
                f"{self.path}: no tensor {_EMBEDDING}: not a checkpoint of a GPTModel. It holds "
                f"{', '.join(sorted(self._index.tensors)[:3]) or 'no tensors'} ..."
            )
        embedding = min(names, key=len)
        prefix = embedding.removesuffix(_EMBEDDING)
        return Spelling(
            stacked=f"{prefix}decoder.layers.mlp.linear_fc2.weight" in self._index.tensors,
            padded_vocab=self._index.tensors[embedding].size[0],
            prefix=prefix,
        )

    def _check(self) -> None:
        """Compare names and shapes with those that the configuration makes."""
        expected = {p.name: p for p in self.layout.ranks[0]}
        stored = self._index.tensors
        if self.spelling.padded_vocab < self.model.vocab:
            raise InputError(
                f"{self.path}: {self.spelling.prefix}{_EMBEDDING} has "
                f"{self.spelling.padded_vocab} rows; config.json says vocab_size="
                f"{self.model.vocab}"
            )
        for name, parameter in expected.items():
            if name not in stored:
                raise InputError(
                    f"{self.path}: tensor {name} is missing; config.json "
                    f"({self.model.family.architecture}, {self.model.layers} layers, "
                    f"tie_word_embeddings={str(self.model.tied).lower()}) has it"
                )
            check_shape(str(self.path), name, tuple(stored[name].size), parameter.shape)
        prefix = self.spelling.prefix
        own = tuple(prefix + part for part in ("embedding.", "decoder.", "output_layer."))
        for name in stored:
            if name.startswith(own) and name not in expected and "_extra_state" not in name:
                raise InputError(
                    f"{self.path}: tensor {name} is not part of {self.model.family.architecture} "
                    f"with this config.json; it would be lost"
                )


def is_checkpoint(path: Path) -> bool:
    """Whether a folder looks like a Megatron-core distributed checkpoint, or a run that has one."""
    return any((path / name).is_file() for name in ("metadata.json", _TRACKER))


def kept_config(path: Path) -> Path | None:
    """The folder of Hugging Face files inside a checkpoint, if it keeps them."""
    kept = _latest(path) / HF_FILES
    return kept if kept.is_dir() else None


_TRACKER = "latest_checkpointed_iteration.txt"


def _latest(path: Path) -> Path:
    """The checkpoint that a Megatron-LM run folder names as its latest; else the path itself."""
    tracker = path / _TRACKER
    if (path / "metadata.json").exists() or not tracker.is_file():
        return path
    word = tracker.read_text().strip()
    name = word if word == "release" else f"iter_{int(word):07}" if word.isdigit() else None
    if name is None or not (path / name).is_dir():
        raise InputError(f"{tracker} names {word!r}, which is not a checkpoint in {path}")
    return path / name


def _read_metadata(path: Path) -> Metadata:
    try:
        return dcp.FileSystemReader(path).read_metadata()
    except FileNotFoundError as error:
        raise InputError(
            f"{path / '.metadata'} is missing: the checkpoint was not completely written or copied"
        ) from error
    except Exception as error:  # unpickling a damaged file can raise anything
        raise InputError(f"{path / '.metadata'} cannot be read: {error!r}") from error


class _Slice(io.RawIOBase):
    """A part of a file as a file of its own, for torch.load."""

    def __init__(self, path: Path, offset: int, length: int):
        self._file = path.open("rb")
        self._offset, self._length, self._at = offset, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        size = max(0, min(len(buffer), self._length - self._at))
        self._file.seek(self._offset + self._at)
        count = self._file.readinto(memoryview(buffer)[:size])
        self._at += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _locate(name: str, chunk: _Chunk, dtype: torch.dtype) -> tuple[int, Shape]:
    """Find a chunk's elements inside the archive that torch.save made of it."""
    try:
        # Under a fake mode torch.load reads the archive's directory, not the elements.
        with FakeTensorMode(), _Slice(chunk.path, chunk.offset, chunk.length) as archive:
            saved = torch.load(archive, map_location="cpu", weights_only=True)
        shape, seen = tuple(saved.shape), saved.dtype
        first = saved.untyped_storage()._checkpoint_offset
    except Exception as error:  # a damaged archive can raise anything
        raise InputError(
            f"{chunk.path}: {name}{list(chunk.box.slices)} at byte {chunk.offset} is damaged: "
            f"{str(error).partition('. ')[0].partition(chr(10))[0]}"
        ) from error
    if prod(shape) != chunk.box.size or seen != dtype:
        raise InputError(
            f"{chunk.path}: {name}{list(chunk.box.slices)} is stored as {seen} {list(shape)}; "
            f"the checkpoint's metadata says {dtype} {list(chunk.box.shape)}"
        )
    strides = saved.view(chunk.box.shape).stride()
    return chunk.offset + first + saved.storage_offset() * dtype.itemsize, tuple(strides)


def _training_arguments(common: Path) -> argparse.Namespace | None:
    """The `args` that Megatron-LM keeps in common.pt, if it does."""
    if not common.is_file():
        return None
    try:
        state = torch.load(
            common, map_location="cpu", weights_only=False, pickle_module=_InertPickle
        )
    except Exception as error:  # unpickling a damaged file can raise anything
        raise InputError(f"{common} cannot be read: {error!r}") from error
    args = state.get("args") if isinstance(state, dict) else None
    return args if isinstance(args, argparse.Namespace) else None


class _Inert:
    """Stands for an object of a class that is not needed: it takes anything and does nothing."""

    def __init__(self, *_: Any, **__: Any):
        pass

    def __setstate__(self, _: Any) -> None:
        pass


class _InertPickle:
    """A pickle module that makes namespaces and dictionaries and runs no code of the file's choice.

    What a trainer pickles beside them (enums and classes of its own) need not be importable here.
    """

    class Unpickler(pickle.Unpickler):
        """Knows a few harmless classes by name."""

        def find_class(self, module: str, name: str) -> Any:
            """The class if it is harmless, else a class that stands for it."""
            if (module, name) in {
                ("argparse", "Namespace"),
                ("types", "SimpleNamespace"),
                ("collections", "OrderedDict"),
            }:
                return super().find_class(module, name)
            return type(name, (_Inert,), {})


def _as_config(args: argparse.Namespace, config: dict[str, Any]) -> dict[str, Any]:
    """Megatron-LM's arguments in config.json's terms; what they do not say is left as it is."""
    spelled = {
        "num_hidden_layers": getattr(args, "num_layers", None),
        "hidden_size": getattr(args, "hidden_size", None),
        "intermediate_size": getattr(args, "ffn_hidden_size", None),
        "num_attention_heads": getattr(args, "num_attention_heads", None),
        "head_dim": getattr(args, "kv_channels", None),
        "rms_norm_eps": getattr(args, "norm_epsilon", None),
    }
    if getattr(args, "group_query_attention", False):
        spelled["num_key_value_heads"] = getattr(args, "num_query_groups", None)
    if hasattr(args, "untie_embeddings_and_output_weights"):
        spelled["tie_word_embeddings"] = not args.untie_embeddings_and_output_weights
    base = getattr(args, "rotary_base", None)
    result = {**config, **{k: v for k, v in spelled.items() if v is not None}}
    if base is not None:
        result["rope_parameters"] = {**(config.get("rope_parameters") or {}), "rope_theta": base}
    return result


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
    kept = folder / HF_FILES
    kept.mkdir()
    for name, path in side.items():
        (kept / name).write_bytes(path.read_bytes())
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
                storage_writer=dcp.FileSystemWriter(folder, thread_count=1, sync_files=False),
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


class _Planner(SavePlanner):  # type: ignore[misc]
    """Writes a layout's parameters part by part, each built on demand."""

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
        """One item for each part of each parameter, and one for each empty object."""
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
        """The plan of the only process, and the metadata of what it writes."""
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
        """The plan as it is."""
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
