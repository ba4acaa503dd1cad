"""Folders of weights on disk, in either format, and the way from one to the other."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from megaprune.weights.files.checkpoint_index import kept_config
from megaprune.weights.files.folder import Folder
from megaprune.weights.files.hf_folder import HfFolder
from megaprune.weights.files.kind import is_checkpoint
from megaprune.weights.files.megatron_folder import MegatronFolder
from megaprune.weights.files.wrong_folder import EITHER, check_hugging_face


def config_of(path: Path) -> Path | None:
    """Return the folder whose config.json describes a folder of either format, if there is one."""
    if is_checkpoint(path):
        return kept_config(path)
    return path if (path / "config.json").is_file() else None


def open_folder(
    path: Path,
    hf: Path | None = None,
    trust: bool = False,
    keep_vocabulary: bool = False,
    ignored: Collection[str] = (),
) -> Folder:
    """Open a folder of either format, to compare it.

    Args:
        hf: where to take config.json from for a Megatron checkpoint that does not keep it.
        trust, keep_vocabulary, ignored: as for `MegatronFolder`.

    Raises:
        InputError: there is no such folder, or it holds neither format.
    """
    if is_checkpoint(path):
        return MegatronFolder(
            path,
            None if kept_config(path) else hf,
            trust,
            keep_vocabulary=keep_vocabulary,
            ignored=ignored,
            strict=False,
        )
    check_hugging_face(path, EITHER)
    return HfFolder(path)
