"""Conversions of a folder to the other format: streamed, verified, and whole or not there."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch

from megaprune.errors import InputError
from megaprune.weights.files.checkpoint_index import HF_FILES, latest_checkpoint
from megaprune.weights.files.digests import check_whole
from megaprune.weights.files.folder import Folder, Rearranged, dtype_name
from megaprune.weights.files.hf_folder import HfFolder
from megaprune.weights.files.hf_writer import write_hf
from megaprune.weights.files.manifest import Manifest
from megaprune.weights.files.megatron_folder import MegatronFolder
from megaprune.weights.files.megatron_writer import write_megatron
from megaprune.weights.files.side_files import copy_side_files, without_quantization
from megaprune.weights.files.staging import staged
from megaprune.weights.files.vocabulary import token_count
from megaprune.weights.files.wrong_folder import check_checkpoint
from megaprune.weights.layouts import Spelling, checkpoint_layout, extra_states, hf_layout
from megaprune.weights.layouts.sharding import round_up
from megaprune.weights.verify import Begin, compare

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""What weights can be converted to, by name."""


@dataclass(frozen=True)
class Conversion:
    """A conversion that was made: the folder, its tensors and bytes, and notes on the input."""

    out: Path
    tensors: int
    nbytes: int
    verified: bool
    notes: list[str]


def hf_to_megatron(
    hf: Path,
    out: Path,
    begin: Begin,
    *,
    dtype: torch.dtype | None = None,
    vocab_multiple: int = 1,
    overwrite: bool = False,
    check: bool = True,
) -> Conversion:
    """Write a Hugging Face folder as a Megatron-core distributed checkpoint.

    `megatron.core.dist_checkpointing.load` reads it into a `GPTModel` of any tp, pp and vpp.

    Args:
        dtype: convert elements to this; as they are if None.
        vocab_multiple: pad the vocabulary with rows of zeros to a multiple of this. Megatron-core
            pads by itself when it loads a model with more rows, so 1 serves every layout.
        overwrite: replace `out` if it is a model folder.
        check: before `out` appears, read it back and compare every tensor with its source.

    Raises:
        InputError: the input is not whole, or `out` cannot be written, or it is not what it should
            be. Nothing is left of `out` then.
    """
    if vocab_multiple < 1:
        raise InputError(f"--pad-vocab-to-multiple-of is {vocab_multiple}; expected 1 or more")
    folder = HfFolder(hf)
    padded = round_up(folder.model.vocab, vocab_multiple)
    weights = Rearranged(
        folder, checkpoint_layout(folder.model, Spelling(stacked=True, padded_vocab=padded)), dtype
    )
    with staged(out, overwrite, weights.nbytes(), hf) as partial:
        progress = begin("writing", len(weights.parameters()), weights.nbytes())
        write_megatron(partial, weights, extra_states(folder.model), folder.side_files(), progress)
        notes = _fit_config(partial / HF_FILES / "config.json", weights, folder.model.vocab)
        notes += [*_vanished(weights), *_tokens_without_rows(folder)]
        if check:
            _proved(folder, MegatronFolder(partial, strict=False), begin, dtype)
    return Conversion(
        out, len(folder.model.tensors()), weights.nbytes(), check, folder.notes + notes
    )


def megatron_to_hf(
    megatron: Path,
    out: Path,
    begin: Begin,
    *,
    hf: Path | None = None,
    dtype: torch.dtype | None = None,
    max_shard: int = 5 * 10**9,
    overwrite: bool = False,
    check: bool = True,
    trust: bool = False,
    digests: str = "full",
    keep_vocabulary: bool = False,
    ignored: Collection[str] = (),
) -> Conversion:
    """Write a Megatron-core distributed checkpoint as a Hugging Face folder.

    Optimizer state and vocabulary padding stay behind. What of the stored arguments or of the
    vocabulary contradicts config.json is refused.

    Args:
        megatron: the checkpoint, or a folder of checkpoints, of which the latest is taken.
        hf: where to take config.json and tokenizer files from if the checkpoint does not keep them;
            refused if it is of another model than the checkpoint.
        dtype: convert elements to this; as they are if None.
        max_shard: bytes of a safetensors shard at the most.
        overwrite: replace `out` if it is a model folder.
        check: before `out` appears, read it back and compare every tensor with its source.
        trust: pass over what the checkpoint's pickles have of classes that are not known, instead
            of refusing it. Nothing of it is run either way.
        digests: how much of a run's checkpoint is compared with the digests in it first: one of
            `digests.VERIFY`. Only what is read is.
        keep_vocabulary: keep rows beyond config.json's vocab_size that are no padding, and write a
            config.json that says so, instead of refusing the checkpoint.
        ignored: training arguments that are not known here, and change nothing.

    Raises:
        InputError: as for `hf_to_megatron`; or the checkpoint is damaged.
    """
    check_checkpoint(megatron)
    checkpoint = latest_checkpoint(megatron)
    check_whole(checkpoint, digests, ())  # the small files, before anything in them is believed
    folder = MegatronFolder(
        checkpoint, hf, trust, keep_vocabulary=keep_vocabulary, ignored=ignored, strict=False
    )
    check_whole(checkpoint, digests, {parameter.name for parameter in folder.layout.ranks[0]})
    if folder.lost:
        raise InputError(f"{folder.path}: {folder.lost}")
    weights = Rearranged(folder, hf_layout(folder.model), dtype)
    with staged(out, overwrite, weights.nbytes(), folder.path, *([hf] if hf else [])) as partial:
        progress = begin("writing", len(weights.parameters()), weights.nbytes())
        copy_side_files(folder.side_files(), partial)
        notes = _fit_config(partial / "config.json", weights, folder.model.vocab)
        write_hf(partial, weights, max_shard, progress)
        notes += _vanished(weights)
        if check:
            _proved(folder, HfFolder(partial), begin, dtype)
    return Conversion(
        out, len(folder.model.tensors()), weights.nbytes(), check, folder.notes + notes
    )


def _proved(source: Folder, written: Folder, begin: Begin, dtype: torch.dtype | None) -> None:
    """Compare what was written with its source and leave the manifest, or raise."""
    result = compare(source, written, begin, dtype)
    if result.differences:
        raise InputError(
            f"what was written to {written.path} is not what {source.path} holds (a failing disk "
            f"or memory?): {'; '.join(result.differences[:5])}"
        )
    Manifest.of(source.path, result.digests).write(written.path)


def _tokens_without_rows(folder: HfFolder) -> list[str]:
    tokens, words = token_count(folder.side_files())
    if tokens <= folder.model.vocab:
        return []
    return [
        f"{words}; the model has {folder.model.vocab} rows. Tokens beyond them have no weights, "
        f"and beside this tokenizer rows of padding are not taken for padding"
    ]


def _fit_config(config: Path, weights: Rearranged, vocab_size: int) -> list[str]:
    """Make config.json describe the weights beside it: plain, of their type and number of tokens.

    Loaders convert to the type that it names, and quantize as it says.

    Returns a note if the type changed; the folder that was read has noted a quantization.
    """
    types = {dtype_name(weights.dtype(p.name)) for p in weights.parameters()}
    given = json.loads(config.read_text(encoding="utf-8"))
    content, _ = without_quantization(given)
    keys = [key for key in ("dtype", "torch_dtype") if content.get(key)]
    content["vocab_size"] = vocab_size
    notes = []
    if len(types) == 1 and not all(content[key] in types for key in keys):
        (dtype,) = types
        content.update(dict.fromkeys(keys, dtype))
        notes = [f"config.json now says {dtype}, which the weights are"]
    if content != given:
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        config.write_text(text, encoding="utf-8")
    return notes


def _vanished(weights: Rearranged) -> list[str]:
    """Say which tensors lost many of their elements to zero, as too small for the new type."""
    if not weights.vanished:
        return []
    worst = max(weights.vanished, key=lambda name: weights.vanished[name])
    others = len(weights.vanished) - 1
    more = f" ({others} more tensors lost many too)" if others else ""
    return [
        f"{weights.vanished[worst]} elements of {worst} are too small for the new type and became "
        f"zero{more}; bfloat16 keeps them"
    ]
