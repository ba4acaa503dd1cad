"""What a folder is: decided here, once, before anything in it is read."""

from __future__ import annotations

import os
import re
from enum import Enum
from pathlib import Path

from megaprune.files import RECORD
from megaprune.weights.files.digests import DIGESTS

TRACKER = "latest_checkpointed_iteration.txt"
"""File beside the checkpoints of a run that says which is the latest, for Megatron's own tools."""

METADATA = "metadata.json"
"""File in a checkpoint that says in which format it is."""

COMMON = "common.pt"
"""File in a checkpoint with what is not divided among ranks, up to Megatron-core 0.18."""

COMMON_OBJECT = "common_state/shard_0_1"
"""What Megatron-core 0.19 has in its place: an object that lies beside the tensors."""

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

_OF_HUGGING_FACE = ("config.json", INDEX, SINGLE)
_OF_CHECKPOINT = (METADATA, ".metadata", COMMON)


class FolderKind(Enum):
    """The kinds of folders that hold a model."""

    HUGGING_FACE = "a Hugging Face model"
    CHECKPOINT = "a Megatron-core checkpoint"
    CHECKPOINTS = "a folder of Megatron-core checkpoints"
    OTHER = "neither a Hugging Face model nor a Megatron-core checkpoint"


def kind_of(path: Path) -> FolderKind:
    """Return what a folder is, by the names of what lies in it; nothing is read.

    A folder with anything of a Hugging Face model is that, whatever lies beside: files of
    a checkpoint are pickles, and are read in no folder but one that can be nothing else.
    """

    def has(name: str) -> bool:
        return os.path.lexists(path / name)

    if not path.is_dir():
        return FolderKind.OTHER
    if any(map(has, _OF_HUGGING_FACE)):
        return FolderKind.HUGGING_FACE
    if has(TRACKER) and not has(METADATA):
        return FolderKind.CHECKPOINTS
    if any(map(has, _OF_CHECKPOINT)):
        return FolderKind.CHECKPOINT
    if iterations(path):
        return FolderKind.CHECKPOINTS
    return FolderKind.OTHER


def is_checkpoint(path: Path) -> bool:
    """Say whether a folder is a Megatron-core checkpoint, or one of several."""
    return kind_of(path) in (FolderKind.CHECKPOINT, FolderKind.CHECKPOINTS)


def sign_of_hugging_face(path: Path) -> str:
    """Return the name that makes a folder one of Hugging Face's kind."""
    return next(name for name in _OF_HUGGING_FACE if os.path.lexists(path / name))


def iterations(folder: Path) -> list[Path]:
    """List the checkpoints in a run's folder by their steps; no other folder of such a name."""
    by_step = {
        step_of(path): path
        for path in folder.glob("iter_*")
        if re.fullmatch(r"iter_[0-9]{7,}", path.name) and path.name == f"iter_{step_of(path):07}"
        if path.is_dir() and any(os.path.lexists(path / n) for n in (METADATA, DIGESTS, RECORD))
    }
    return [by_step[step] for step in sorted(by_step)]


def step_of(checkpoint: Path) -> int:
    """Return the step that a checkpoint's name says."""
    return int(checkpoint.name.removeprefix("iter_"))
