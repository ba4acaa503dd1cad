"""Folders of weights on disk, in either format, and the way from one to the other."""

from __future__ import annotations

from pathlib import Path

from megaprune.errors import InputError
from megaprune.weights.files.folder import Folder
from megaprune.weights.files.hf_folder import HfFolder
from megaprune.weights.files.megatron_folder import MegatronFolder, is_checkpoint


def open_folder(path: Path, hf: Path | None = None) -> Folder:
    """Open a folder of either format.

    Args:
        hf: where to take config.json from for a Megatron checkpoint that does not keep it.

    Raises:
        InputError: there is no such folder, or it holds neither format.
    """
    if not path.is_dir():
        raise InputError(f"{path} is not a folder; expected a Hugging Face model or a checkpoint")
    if is_checkpoint(path):
        return MegatronFolder(path, hf)
    if (path / "config.json").is_file():
        return HfFolder(path)
    raise InputError(
        f"{path} holds neither config.json (a Hugging Face model) nor metadata.json (a "
        f"Megatron-core checkpoint)"
    )
