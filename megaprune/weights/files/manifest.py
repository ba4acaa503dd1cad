"""The manifest: what each tensor of a folder was when it was verified."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import megaprune
from megaprune.errors import InputError
from megaprune.files import replace_text

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
        """Write it into a folder, whole or not at all."""
        path = folder / MANIFEST
        replace_text(path, json.dumps(asdict(self), indent=1) + "\n")
        return path

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
            content = json.loads(path.read_text(encoding="utf-8"))
            tensors = {name: Digest(**entry) for name, entry in content["tensors"].items()}
            return Manifest(content["source"], tensors, content["versions"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is not a manifest: {error!r}; remove it") from error
