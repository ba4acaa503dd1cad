"""Comparisons of two folders of weights: read from disk, byte by byte."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch

from megaprune.errors import InputError
from megaprune.weights.boxes import Box
from megaprune.weights.files import config_of, open_folder
from megaprune.weights.files.checkpoint_index import latest_checkpoint
from megaprune.weights.files.digests import CheckpointRecord, Damaged, damage, is_own
from megaprune.weights.files.folder import Folder, Rearranged, dtype_name
from megaprune.weights.files.kind import is_checkpoint
from megaprune.weights.files.manifest import MANIFEST, Digest, Manifest
from megaprune.weights.files.mapped import BAND_BYTES
from megaprune.weights.generation_fields import generation_differences
from megaprune.weights.layouts import hf_layout
from megaprune.weights.model import Model, config_differences
from megaprune.weights.untrusted import named, shown

Progress = Callable[[str, int, bool], None]
"""Called with (tensor, bytes, whether the tensor is complete) as work goes on."""

Begin = Callable[[str, int, int], Progress]
"""Called with (what is done, tensors, bytes) when a pass over the weights begins."""


@dataclass
class VerifyResult:
    """What a comparison of two folders, or of a folder and its manifest, has shown.

    Args:
        tensors, nbytes: how much was compared.
        differences: one line for each thing that differs; none if the folders hold the same.
        generation: one line for each field of generation (the tokens that end a response, the
            temperature, ...) that differs; no part of the model.
        digests: of every tensor of the second folder.
        notes: what a user should know although nothing is wrong.
    """

    tensors: int = 0
    nbytes: int = 0
    differences: list[str] = field(default_factory=list)
    generation: list[str] = field(default_factory=list)
    digests: dict[str, Digest] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def verify(
    first: Path,
    second: Path,
    begin: Begin,
    dtype: torch.dtype | None = None,
    trust: bool = False,
    keep_vocabulary: bool = False,
    ignored: Collection[str] = (),
) -> VerifyResult:
    """Compare a folder with another that it should equal, and with its manifest if it has one.

    Every logical tensor of `second` is compared with that of `first` by its bytes (so that NaN
    equals NaN, and 0.0 is not -0.0), its padding must be zero (that of `first` may have moved, but
    as one: else it is no padding), and the configurations must be of the same model. If all is well
    and `second` has no manifest, it gets one.

    Args:
        dtype: the first folder's elements are converted to this before they are compared.
        trust, keep_vocabulary, ignored: as for `MegatronFolder`.

    Raises:
        InputError: a folder cannot be read at all.
    """
    configs = (config_of(path) for path in (first, second))
    hf = next((config for config in configs if config), None)
    reference, folder = (
        open_folder(path, hf, trust, keep_vocabulary, ignored) for path in (first, second)
    )
    manifest = Manifest.read(folder.path)
    result = compare(reference, folder, begin, dtype)
    if manifest is not None:
        result.differences += _against_manifest(result.digests, manifest)
    elif not result.differences:
        try:
            note = f"wrote {Manifest.of(reference.path, result.digests).write(folder.path)}"
        except OSError as error:  # the folder need only be readable
            note = f"{folder.path / MANIFEST} was not written: {error.strerror}"
        result.notes.append(note)
    return result


def verify_manifest(path: Path, begin: Begin, trust: bool = False) -> VerifyResult:
    """Compare one folder with the manifest in it, or a run's checkpoint with its digests.

    Raises:
        InputError: it has neither, or cannot be read at all.
    """
    if is_checkpoint(path) and is_own(checkpoint := latest_checkpoint(path)):
        return _against_digests(checkpoint)
    folder = open_folder(path, trust=trust)
    manifest = Manifest.read(folder.path)
    if manifest is None:
        raise InputError(
            f"{folder.path} has no {MANIFEST}: give a second folder to compare it with, which "
            f"writes one"
        )
    result = compare(None, folder, begin)
    result.differences += _against_manifest(result.digests, manifest)
    return result


def compare(
    first: Folder | None, second: Folder, begin: Begin, dtype: torch.dtype | None = None
) -> VerifyResult:
    """Digest every logical tensor of `second` and compare it with `first`, in bounded memory.

    Args:
        first: what `second` should hold; if None, only its padding is looked at.
        dtype: the first folder's elements are converted to this before they are compared.
    """
    folders = [second] if first is None else [first, second]
    result = VerifyResult(notes=[note for folder in folders for note in folder.notes])
    if first is not None:
        result.differences += [
            f"config.json: {line}" for line in config_differences(first.config, second.config)
        ]
        described = [(side.config, side.side_files()["config.json"]) for side in (first, second)]
        result.generation = generation_differences(*described)
        if first.lost:
            result.differences.append(f"{first.path}: {first.lost}")
        if first.model != second.model:
            # What only one file says, and the other leaves to another default, is found here.
            result.differences = result.differences or _model_differences(first.model, second.model)
            return result
    logical = hf_layout(second.model)
    expected = None if first is None else Rearranged(first, logical, dtype)
    seen = Rearranged(second, logical)
    progress = begin("verifying", len(logical.tensors), seen.nbytes())
    # Hashing and comparing let go of Python's lock; more tensors at a time would take more memory.
    with ThreadPoolExecutor(2) as pool:
        jobs = {
            tensor: pool.submit(_compare_tensor, expected, seen, tensor, progress)
            for tensor in logical.tensors
        }
        try:
            for tensor, job in jobs.items():
                result.digests[tensor], nbytes, difference = job.result()
                result.tensors += 1
                result.nbytes += nbytes
                if difference:
                    result.differences.append(f"{tensor}: {difference}")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    result.differences += _padding(second)
    return result


def _model_differences(first: Model, second: Model) -> list[str]:
    numbers = [(f.name, getattr(first, f.name), getattr(second, f.name)) for f in fields(Model)]
    return [f"config.json: {name}: {a} against {b}" for name, a, b in numbers if a != b]


def _compare_tensor(
    expected: Rearranged | None, seen: Rearranged, tensor: str, progress: Progress
) -> tuple[Digest, int, str]:
    """Return digest, bytes, and what differs (nothing: an empty string)."""
    whole, dtype = Box.whole(seen.layout.tensors[tensor]), seen.dtype(tensor)
    difference, rows = "", []
    if expected is not None and expected.dtype(tensor) != dtype:
        difference = f"type {dtype_name(expected.dtype(tensor))} against {dtype_name(dtype)}"
        expected = None
    sha, nbytes = hashlib.sha256(), 0
    for band in whole.bands(BAND_BYTES // dtype.itemsize):
        data = _bytes(seen, tensor, band)
        if expected is not None:
            rows += _differing_rows(data, _bytes(expected, tensor, band), band)
        sha.update(data.numpy().data)
        nbytes += data.numel()
        progress(tensor, data.numel(), band.stop == whole.stop)
        del data  # before the next band is read
    if expected is not None and rows:
        difference = _described(expected, seen, tensor, rows)
    return Digest(sha.hexdigest(), list(whole.shape), dtype_name(dtype)), nbytes, difference


def _differing_rows(data: torch.Tensor, wanted: torch.Tensor, band: Box) -> list[int]:
    if torch.equal(data, wanted):
        return []
    differ = (data != wanted).reshape(band.shape[0], -1).any(1).nonzero().flatten()
    return [int(row) + band.start[0] for row in differ]


def _bytes(side: Rearranged, tensor: str, box: Box) -> torch.Tensor:
    return side.read(tensor, box).contiguous().view(torch.uint8).flatten()


def _described(expected: Rearranged, seen: Rearranged, tensor: str, rows: list[int]) -> str:
    """Say where a tensor differs: how many rows, which, and the first elements that do."""
    whole = Box.whole(seen.layout.tensors[tensor])
    row = Box((rows[0], *whole.start[1:]), (rows[0] + 1, *whole.stop[1:]))
    a, b = (side.read(tensor, row).reshape(-1) for side in (expected, seen))
    column = int((_bytes(expected, tensor, row) != _bytes(seen, tensor, row)).nonzero()[0])
    column //= b.itemsize
    index = [rows[0], column][: len(whole.shape)]
    return (
        f"{len(rows)} of {whole.shape[0]} rows differ, from row {rows[0]} to {rows[-1]}; first "
        f"{index}: {a[column].item()!r} against {b[column].item()!r}"
        + ("; that row is all zeros" if not b.any() else "")
    )


def _padding(folder: Folder) -> list[str]:
    """List padding that is not zero, a line for each parameter."""
    differences = []
    for parameter in folder.layout.ranks[0]:
        rows: list[int] = []
        for box in parameter.padding:
            for band in box.bands(BAND_BYTES // folder.dtype(parameter.name).itemsize):
                bad = folder.read(parameter.name, band).ne(0).any(1).nonzero().flatten()
                rows += (bad + band.start[0]).tolist()
        if rows:
            differences.append(
                f"{parameter.name} in {folder.path}: {len(rows)} padding rows are not zero, "
                f"the first is row {rows[0]}"
            )
    return differences


def _against_manifest(digests: dict[str, Digest], manifest: Manifest) -> list[str]:
    differences = []
    for tensor in sorted(digests.keys() | manifest.tensors.keys()):
        seen, listed = digests.get(tensor), manifest.tensors.get(tensor)
        if seen is None or listed is None:
            where = "the manifest" if listed is None else "the weights"
            differences.append(f"{named(tensor)}: missing from {where}")
        elif seen != listed:
            differences.append(
                f"{tensor}: the manifest has {_in_words(listed)}, the files hold {_in_words(seen)}"
            )
    return differences


def _against_digests(checkpoint: Path) -> VerifyResult:
    lines = damage(checkpoint)
    try:
        record = CheckpointRecord.read(checkpoint)
    except Damaged:  # the only line says so
        record = None
    parts = [part for parts in record.parts.values() for part in parts] if record else []
    names = {part.tensor for part in parts if part.tensor}
    return VerifyResult(len(names), sum(part.length for part in parts), lines)


def _in_words(digest: Digest) -> str:
    kind = named(digest.dtype)
    return f"{kind} {shown(digest.shape)} sha256 {named(digest.sha256[:16])}..."
