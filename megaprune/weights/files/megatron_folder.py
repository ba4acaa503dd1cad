"""A decoder in a Megatron-core distributed checkpoint."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from megaprune.errors import InputError
from megaprune.weights.arguments import compare_arguments
from megaprune.weights.boxes import Box
from megaprune.weights.files.checkpoint_index import HF_FILES, CheckpointIndex, Chunk, locate
from megaprune.weights.files.folder import check_shape, dtype_name, otherwise_named
from megaprune.weights.files.hf_folder import DTYPES
from megaprune.weights.files.mapped import read_box
from megaprune.weights.files.megatron_arguments import training_arguments
from megaprune.weights.files.side_files import (
    side_file_notes,
    side_files,
    without_quantization,
)
from megaprune.weights.files.vocabulary import look_at
from megaprune.weights.files.wrong_folder import check_described
from megaprune.weights.generation_fields import generation_differences
from megaprune.weights.layouts import Layout, Spelling, checkpoint_layout
from megaprune.weights.model import Model, config_differences, read_config
from megaprune.weights.untrusted import check_stays_in, named, shown

_EMBEDDING = "embedding.word_embeddings.weight"
_HEAD = "output_layer.weight"


class MegatronFolder:
    """A decoder in a Megatron-core distributed checkpoint; optimizer state is passed over.

    Args:
        path: the checkpoint, or a folder of checkpoints, of which the latest is taken.
        hf: a Hugging Face folder (or its config.json) of the same model. Needed where the
            checkpoint does not keep these files itself; else it must agree with what it keeps.
        trust: pass over what its pickles have of classes that are not known, instead of refusing
            it. Nothing of it is run either way.
        keep_vocabulary: rows beyond config.json's vocab_size that are no padding are part of the
            model, whose `config` then says so.
        ignored: training arguments that are not known here, and change nothing.
        strict: refuse such rows if they are not kept, instead of saying so in `lost`.

    Raises:
        InputError: no such checkpoint, another model than the configuration or the arguments that
            training stored say, or files missing or truncated.
    """

    format = "megatron-torch_dist"

    def __init__(
        self,
        path: Path,
        hf: Path | None = None,
        trust: bool = False,
        *,
        keep_vocabulary: bool = False,
        ignored: Collection[str] = (),
        strict: bool = True,
    ):
        self._index = CheckpointIndex(path, trust)
        self.path = path = self._index.path
        self.notes: list[str] = []
        self._hf = path / HF_FILES
        config, where = self._config(hf)
        self.config, quantization = without_quantization(config)
        if quantization:
            self.notes.append(
                f"the config.json of {self._hf} says that weights are quantized ({quantization}); "
                f"those of the checkpoint are plain, and this is not passed on"
            )
        self.notes += side_file_notes(self._hf)
        self.model = Model.from_config(self.config, str(self._hf / "config.json"))
        self.spelling = self._spelling()
        common = self._index.common()
        self.args = training_arguments(*common, trust) if common else {}
        self._compare_arguments(where, common[0] if common else path, ignored)
        self.layout: Layout = checkpoint_layout(self.model, self.spelling)
        self._check()
        self._chunks = {p.name: self._index.chunks(p.name) for p in self.layout.ranks[0]}
        self.lost = ""
        self._settle_vocabulary(keep_vocabulary, strict)

    def dtype(self, parameter: str) -> torch.dtype:
        """Return the element type of a parameter."""
        return self._index.tensors[parameter].dtype

    def read(self, parameter: str, box: Box) -> torch.Tensor:
        """Return elements of a parameter: on the file's pages where a stored part has them all."""
        dtype = self.dtype(parameter)
        parts = [
            (common, chunk)
            for chunk in self._chunks[parameter]
            if (common := chunk.box.intersect(box))
        ]
        if len(parts) == 1:
            return self._stored(parameter, parts[0][1], box, dtype)
        if sum(common.size for common, _ in parts) != box.size:
            raise InputError(f"{self.path}: {parameter}{box} is stored with gaps or twice")
        whole = torch.empty(box.shape, dtype=dtype)
        for common, chunk in parts:
            whole[common.within(box).slices] = self._stored(parameter, chunk, common, dtype)
        return whole

    def side_files(self) -> dict[str, Path]:
        """Return configuration, tokenizer and licence files, by name."""
        return side_files(self._hf)

    def _stored(self, name: str, chunk: Chunk, box: Box, dtype: torch.dtype) -> torch.Tensor:
        if chunk.data is None:
            chunk.data = locate(name, chunk, dtype)
        offset, strides = chunk.data
        return read_box(chunk.path, offset, dtype, strides, box.within(chunk.box))

    def _config(self, hf: Path | None) -> tuple[dict[str, Any], str]:
        """Return the configuration, and the file that it is in."""
        check_stays_in(self._hf, self.path)
        stored = read_config(self._hf) if self._hf.is_dir() else None
        if hf is None:
            if stored is None:
                raise InputError(
                    f"{self.path} keeps no config.json (no folder {HF_FILES}/): give a Hugging "
                    f"Face folder of the same model (to-hf: with --hf; verify: as the other folder)"
                )
            return stored, str(self._hf / "config.json")
        check_described(hf)
        given = read_config(hf)
        if stored is not None:
            differences = config_differences(given, stored)
            if differences:
                raise InputError(
                    f"{hf} is another model than {self.path / HF_FILES / 'config.json'}, which is "
                    f"stored in the checkpoint: {'; '.join(differences)}"
                )
            kept = generation_differences((stored, self._hf), (given, hf))
            self.notes += [f"generation differs from that of {hf}, and is kept: {d}" for d in kept]
        else:
            self._hf = hf if hf.is_dir() else hf.parent
        return given, str(hf)

    def _compare_arguments(self, where: str, common: Path, ignored: Collection[str]) -> None:
        """Refuse a configuration that the stored arguments contradict; note what nothing shows.

        Args:
            where: the file with the configuration.
            common: the file with the arguments.
        """
        rows = self.spelling.padded_vocab
        seen = compare_arguments(self.args, self.config, self.model, rows, ignored)
        if seen.differences:
            raise InputError(
                f"{where} is another model than the arguments that training stored in {common}: "
                f"{'; '.join(seen.differences)}"
            )
        if seen.unknown:
            raise InputError(
                f"{common} has training arguments that are not known here, and may change the "
                f"model: {', '.join(seen.unknown)}. For those that change nothing of what the "
                f"trained model computes, give --ignore-argument NAME"
            )
        if used := [name for name in ignored if name in self.args]:
            values = ", ".join(f"{named(name)}={shown(self.args[name])}" for name in used)
            self.notes.append(f"of the training arguments, {values} were ignored, as asked for")
        if seen.unknown_off:
            self.notes.append(
                f"training arguments that are not known here are off (None, False, 0 or empty), "
                f"and are taken to change nothing: {', '.join(seen.unknown_off)}"
            )
        if seen.rounding:
            self.notes.append(
                f"training computed in other number formats than the weights are stored in "
                f"({', '.join(seen.rounding)}); a Hugging Face model does not"
            )
        # What the checkpoint itself keeps was written with the weights.
        if seen.trusted and self._hf != self.path / HF_FILES:
            names = ", ".join(dict.fromkeys(seen.trusted))
            self.notes.append(
                f"taken on trust from {where}, and from what its architecture is, since neither "
                f"the checkpoint's arguments nor its tensors show it: {names}"
            )

    def _settle_vocabulary(self, keep: bool, strict: bool) -> None:
        """Keep rows beyond config.json's vocab_size that are no padding, or refuse or note them."""
        names = [self.spelling.prefix + name for name in (_EMBEDDING, _HEAD)]
        shapes = {p.name: p.shape for p in self.layout.ranks[0] if p.name in names}
        seen = look_at(self.read, shapes, self.model.vocab, self.args, self.side_files())
        if not seen.problem:
            self.notes += seen.notes
            return
        if keep:
            self.config = {**self.config, "vocab_size": seen.tokens}
            self.model = replace(self.model, vocab=seen.tokens)
            self.layout = checkpoint_layout(self.model, self.spelling)
            self.notes += seen.notes
        elif strict:
            raise InputError(f"{self.path}: {seen.problem}")
        else:
            self.lost = seen.problem
            self.notes.append(f"{self.path}: {seen.problem}")

    def _spelling(self) -> Spelling:
        names = [n for n in self._index.tensors if n.endswith(_EMBEDDING) and "optim" not in n]
        if not names:
            raise InputError(
                f"{self.path}: no tensor {_EMBEDDING}: not a checkpoint of a GPTModel. It holds "
                f"{', '.join(map(named, sorted(self._index.tensors)[:3])) or 'no tensors'} ..."
            )
        embedding = min(names, key=len)
        prefix = embedding.removesuffix(_EMBEDDING)
        return Spelling(
            stacked=f"{prefix}decoder.layers.mlp.linear_fc2.weight" in self._index.tensors,
            padded_vocab=self._index.tensors[embedding].shape[0],
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
                    f"{otherwise_named(name, stored)}"
                )
            check_shape(str(self.path), name, stored[name].shape, parameter.shape)
            if stored[name].dtype not in DTYPES.values():
                count = sum(t.dtype not in DTYPES.values() for t in stored.values())
                raise InputError(
                    f"{self.path}: tensor {name} is of type {dtype_name(stored[name].dtype)}; "
                    f"expected one of {', '.join(map(dtype_name, DTYPES.values()))}; {count} of "
                    f"{len(stored)} tensors are of other types. Without its scales, such a "
                    f"tensor does not say its values: save the checkpoint in bfloat16"
                )
        for name in stored:
            if name not in expected and "optimizer" not in name and "_extra_state" not in name:
                raise InputError(
                    f"{self.path}: tensor {named(name)} is not part of "
                    f"{self.model.family.architecture} with this config.json; it would be lost"
                )
