"""Which model drew an evaluation's responses: digests that its folder keeps, identity.json."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from megaprune import schema
from megaprune.errors import InputError
from megaprune.files import replace_text
from megaprune.weights.files.hf_folder import HfFolder

PARTS = {
    "config": "config.json",
    "weights": "weights",
    "tokenizer": "tokenizer",
    "chat_template": "chat template",
}
"""What is digested, and what it is called."""

_SAMPLE_BYTES = 4096
"""Of each tensor, from its begin and from its middle."""

_UNIMPORTANT = ("_name_or_path", "transformers_version", "torch_dtype", "dtype")
"""Keys of config.json that do not change what the model says."""


def model_identity(folder: Path, tokenizer: Any) -> dict[str, str]:
    """Digest a model: what it is, some of each tensor, its vocabulary and its chat template.

    Args:
        folder: a Hugging Face folder.
        tokenizer: that of the folder.

    Returns:
        A SHA-256 for each of `PARTS`. It does not depend on how weights are divided among files.

    Raises:
        InputError: the folder is no model.
    """
    files = HfFolder(folder)
    config = {key: value for key, value in files.config.items() if key not in _UNIMPORTANT}
    weights = hashlib.sha256()
    for name, stored in sorted(files.tensors.items()):
        size = prod(stored.shape) * stored.dtype.itemsize
        weights.update(f"{name} {stored.dtype} {list(stored.shape)}\n".encode())
        with stored.path.open("rb") as file:
            for start in (0, size // 2):
                file.seek(stored.offset + start)
                weights.update(file.read(min(_SAMPLE_BYTES, size - start)))
    vocabulary = [tokenizer.get_vocab(), tokenizer.eos_token]
    return {
        "config": _digest(config),
        "weights": weights.hexdigest(),
        "tokenizer": _digest(vocabulary),
        "chat_template": _digest(tokenizer.chat_template),
    }


def record_identity(out: Path, identity: Mapping[str, str]) -> None:
    """Keep the identity of the model in an evaluation's folder.

    Raises:
        InputError: the folder's responses are another model's.
    """
    path = out / schema.IDENTITY_FILE
    if path.is_file():
        if different := differing_parts(read_identity(out), identity):
            raise InputError(
                f"{out} has responses of another model than the folder of model= has now: "
                f"{different}; give another out=..."
            )
    elif not any((out / schema.SAMPLES_FOLDER).rglob(schema.PART_FILES)):
        # A folder that has responses already is of a time when this was not kept.
        replace_text(path, json.dumps(dict(identity), indent=2) + "\n")


def read_identity(out: Path) -> dict[str, str]:
    """Read the identity of the model that drew an evaluation's responses.

    Raises:
        InputError: it is not there, or cannot be read.
    """
    path = out / schema.IDENTITY_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {name: str(content[name]) for name in PARTS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} cannot be read ({error!r}), which says which model drew the responses; "
            f"expected the folder of a `megaprune evaluate`"
        ) from error


def differing_parts(theirs: Mapping[str, str], ours: Mapping[str, str]) -> str:
    """What two models differ in, in words; empty if in nothing."""
    return ", ".join(
        f"another {words} ({theirs[name][:12]}, not {ours[name][:12]})"
        for name, words in PARTS.items()
        if theirs[name] != ours[name]
    )


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
