"""The manifest: what each tensor of a folder was when it was verified."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import megaprune
from megaprune.errors import InputError
from megaprune.files import RECORD, replace_text, write_files
from megaprune.weights.untrusted import are_whole, read_json_object

MANIFEST = "megaprune_manifest.json"


@dataclass(frozen=True)
class Digest:
    """What a logical tensor was: sha256 of its row-major bytes, its shape and element type."""

    sha256: str
    shape: list[int]
    dtype: str


@dataclass(frozen=True)
class Manifest:
    """Digests of every logical (Hugging Face) tensor of a folder.

    They are the same for a Hugging Face folder and for a Megatron checkpoint of the same weights.

    Args:
        source: the folder that the tensors were compared with.
        versions: of the packages that wrote it.
    """

    source: str
    tensors: dict[str, Digest]
    versions: dict[str, str]

    @staticmethod
    def of(source: Path, tensors: dict[str, Digest]) -> Manifest:
        """Make a manifest with the versions of this environment."""
        versions = {"megaprune": megaprune.__version__, "torch": torch.__version__}
        return Manifest(str(source.resolve()), tensors, versions)

    def write(self, folder: Path) -> Path:
        """Write it into a folder, whole or not at all; into the folder's record, if it has one."""
        text = json.dumps(asdict(self), indent=1) + "\n"
        if (folder / RECORD).exists():
            write_files(folder, {MANIFEST: text.encode()})
        else:
            replace_text(folder / MANIFEST, text)
        return folder / MANIFEST

    @staticmethod
    def read(folder: Path) -> Manifest | None:
        """Read the manifest of a folder; None if it has none.

        Raises:
            InputError: the file is not a manifest.
        """
        path = folder / MANIFEST
        if not path.is_file():
            return None
        try:
            content = read_json_object(path)
        except InputError as error:
            raise InputError(f"{path} is not a manifest: {error}; remove it") from error
        tensors = content.get("tensors")
        versions, source = content.get("versions"), content.get("source")
        if (
            not isinstance(tensors, dict)
            or not isinstance(versions, dict)
            or not isinstance(source, str)
            or not all(map(_is_digest, tensors.values()))
        ):
            raise InputError(f"{path} is not a manifest; remove it")
        return Manifest(source, {n: Digest(**entry) for n, entry in tensors.items()}, versions)


def _is_digest(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and entry.keys() == {"sha256", "shape", "dtype"}
        and isinstance(entry["sha256"], str)
        and isinstance(entry["dtype"], str)
        and are_whole(entry["shape"], 0, 1 << 62)
    )
