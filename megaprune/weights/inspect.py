"""What a folder of weights holds, without reading the weights."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

from megaprune.errors import InputError
from megaprune.weights.boxes import Shape
from megaprune.weights.files.checkpoint_index import HF_FILES, CheckpointIndex
from megaprune.weights.files.folder import dtype_name
from megaprune.weights.files.hf_folder import HfFolder
from megaprune.weights.files.kind import is_checkpoint
from megaprune.weights.files.manifest import MANIFEST, Manifest
from megaprune.weights.files.megatron_folder import MegatronFolder
from megaprune.weights.files.wrong_folder import EITHER, check_hugging_face
from megaprune.weights.untrusted import named


@dataclass(frozen=True)
class StoredEntry:
    """A stored tensor: its name, shape, type, bytes and the files it lies in."""

    name: str
    shape: Shape
    dtype: str
    nbytes: int
    files: list[str]


@dataclass(frozen=True)
class FolderContents:
    """The list of what a folder holds.

    Args:
        path: the folder, a run's latest checkpoint resolved.
        format: "hugging-face" or "megatron-torch_dist".
        architecture: from config.json, or why it is not known.
        entries: every stored tensor.
        notes: what a user should know.
    """

    path: Path
    format: str
    architecture: str
    entries: list[StoredEntry]
    notes: list[str]


def inspect(path: Path, trust: bool = False) -> FolderContents:
    """List a folder of either format; a checkpoint needs no configuration for it.

    Args:
        trust: as for `MegatronFolder`.

    Raises:
        InputError: it is neither format, or files are missing or truncated.
    """
    if is_checkpoint(path):
        return _checkpoint(path, trust)
    check_hugging_face(path, EITHER)
    folder = HfFolder(path)
    entries = [
        StoredEntry(
            name,
            stored.shape,
            dtype_name(stored.dtype),
            prod(stored.shape) * stored.dtype.itemsize,
            [stored.path.name],
        )
        for name, stored in folder.tensors.items()
    ]
    notes = [*folder.notes, _manifest_note(path)]
    return FolderContents(path, HfFolder.format, folder.model.family.architecture, entries, notes)


def _checkpoint(path: Path, trust: bool) -> FolderContents:
    index = CheckpointIndex(path, trust)
    entries = [
        StoredEntry(
            name,
            stored.shape,
            dtype_name(stored.dtype),
            prod(stored.shape) * stored.dtype.itemsize,
            sorted({chunk.path.name for chunk in index.chunks(name)}),
        )
        for name, stored in index.tensors.items()
    ]
    notes = [_manifest_note(index.path)]
    architecture = "unknown: the checkpoint keeps no config.json"
    if (index.path / HF_FILES).is_dir():
        try:
            folder = MegatronFolder(index.path, trust=trust)
            architecture = folder.model.family.architecture
            notes += folder.notes
        except InputError as error:  # it is looked at because something may be wrong with it
            architecture = "unknown"
            notes.append(f"it cannot be converted: {error}")
    return FolderContents(index.path, MegatronFolder.format, architecture, entries, notes)


def _manifest_note(path: Path) -> str:
    manifest = Manifest.read(path)
    if manifest is None:
        return f"not verified: there is no {MANIFEST}"
    source = named(manifest.source)
    return f"{MANIFEST}: {len(manifest.tensors)} tensors were equal to those of {source}"
