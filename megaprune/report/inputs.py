"""What each path is that a report is to be written of, seen from its files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from megaprune.errors import InputError

_KINDS = {  # a file that only this kind of folder has: the kind, and what writes it
    "rounds.json": ("pruning", "prune"),
    "metrics.jsonl": ("run", "train"),
    "summary.json": ("evaluation", "evaluate"),
    "analysis.json": ("analysis", "analyze"),
}
_BEGUN = {  # what such a folder has before that file
    "round_*_limit_*": ("rounds.json", "when its first round has ended"),
    "samples/*/*.parquet": ("summary.json", "when all answers are there"),
    "replies.jsonl": ("analysis.json", "when it ends"),
    "samples/*.parquet": ("metrics.jsonl", "with its first step"),
    "validation/*.parquet": ("metrics.jsonl", "with its first step"),
}


def kind_of(path: Path) -> str:
    """What a folder is of: "run", "pruning", "evaluation" or "analysis".

    Raises:
        InputError: it is of none of them, or what makes it has only begun.
    """
    if not path.is_dir():
        raise InputError(
            f"{path}: no such folder; expected the folder of a run, a pruning or an evaluation"
        )
    for name, (kind, _) in _KINDS.items():
        if (path / name).is_file():
            return kind
    for pattern, (name, when) in _BEGUN.items():
        if any(path.glob(pattern)):
            raise InputError(
                f"{path / name}: no such file; `megaprune {_KINDS[name][1]}` writes it {when}: run "
                f"the same command again, it goes on where it was"
            )
    files = ", ".join(f"{name} (`megaprune {command}`)" for name, (_, command) in _KINDS.items())
    raise InputError(f"{path}: has none of the files that tell what it is: {files}")


def each_once(paths: Iterable[Path]) -> list[Path]:
    """Without those that are the same folder as one before."""
    found: dict[Path, Path] = {}
    for path in paths:
        found.setdefault(path.resolve(), path)
    return [*found.values()]


def by_kind(paths: Sequence[Path]) -> dict[str, list[Path]]:
    """Paths that one page can be made of, by their kind; each once.

    Raises:
        InputError: they are of kinds that do not go together.
    """
    found: dict[str, list[Path]] = {}
    for path in each_once(paths):
        found.setdefault(kind_of(path), []).append(path)
    subjects = {kind: some for kind, some in found.items() if kind != "analysis"}
    count = sum(map(len, subjects.values()))
    if count == 0:
        raise InputError(
            f"{paths[0]}: an analysis is shown beside what it is of; give that folder too"
        )
    if count > 1 and [*subjects] != ["evaluation"]:
        said = ", ".join(f"{kind} {path}" for kind, some in subjects.items() for path in some)
        raise InputError(
            f"expected one run, one pruning, or any number of evaluations on a page; found {said}"
        )
    return found
