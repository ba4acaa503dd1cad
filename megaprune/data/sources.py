"""Rows of problem sets as they are published: local files, and repositories on the hub.

A source is a file (parquet, JSON lines, a JSON list, CSV), a folder of parquet files, or

    hub:OWNER/NAME              a repository of data sets with one data file
    hub:OWNER/NAME:PATTERN      its files whose path the shell pattern fits, as main/test-*.parquet
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megaprune.data.hub import fetch
from megaprune.errors import InputError

HUB = "hub:"

_LONGEST_LINE = 1 << 28
"""Bytes; a list of problems may be all in one line."""

PlacedRow = tuple[str, dict[str, Any]]
"""Where a row stands, in words ("x.jsonl, line 3"), and its columns."""


@dataclass(frozen=True)
class SourceFiles:
    """The files of a data set, to be read row by row.

    Args:
        name: as it was asked for.
        files: here.
        commit: of the repository that they are from.
    """

    name: str
    files: tuple[Path, ...]
    commit: str | None = None

    def rows(self) -> Iterator[PlacedRow]:
        """Yield all rows of all files, in order.

        Raises:
            InputError: a file cannot be read, or a line of it; names it.
        """
        for file in self.files:
            try:
                yield from _READERS[file.suffix.lower()](file)
            except OSError as error:
                raise InputError(f"{file} cannot be read: {error.strerror or error}") from error


def open_source(name: str, revision: str | None = None) -> SourceFiles:
    """Locate the files of a source; those of the hub are fetched.

    Args:
        name: as the module says.
        revision: branch, tag or commit of a repository; the main branch if None.

    Raises:
        InputError: there are no such files, or they are of no known format.
    """
    if name.startswith(HUB):
        repository, _, pattern = name.removeprefix(HUB).partition(":")
        fetched = fetch(repository, pattern, revision, tuple(_READERS))
        return SourceFiles(name, fetched.files, fetched.commit)
    if revision is not None:
        raise InputError(f"--revision {revision}: {name} is here; a revision is one of the hub's")
    path = Path(name)
    if not path.exists():
        raise InputError(
            f"there is no {path}; expected a file, a folder of parquet files, or hub:OWNER/NAME"
        )
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path} has no *.parquet files; give a folder that has, or a file")
    if files[0].suffix.lower() not in _READERS:
        raise InputError(f"{path}: expected a file ending in {', '.join(_READERS)}")
    return SourceFiles(name, tuple(files))


def _parquet(file: Path) -> Iterator[PlacedRow]:
    from megaprune.data.parquet_rows import read_parquet_rows

    yield from read_parquet_rows(file, lambda _: None)


def _csv(file: Path) -> Iterator[PlacedRow]:
    import csv

    number = 0
    try:
        for number, row in enumerate(csv.DictReader(_lines(file), strict=True), 1):
            if None in row:
                raise InputError(f"{file}, row {number}: more values than the first line names")
            yield f"{file}, row {number}", dict(row)
    except csv.Error as error:
        raise InputError(f"{file}, row {number + 1}: cannot be read as CSV ({error})") from error


def _json(file: Path) -> Iterator[PlacedRow]:
    """Read JSON lines, or one list."""
    first = next((line.lstrip() for line in _lines(file) if line.strip()), "")
    if first.startswith("["):
        rows = _parsed("".join(_lines(file)), str(file), "one list of objects")
        for number, row in enumerate(rows):
            yield _object(row, f"{file}, row {number}")
        return
    for number, line in enumerate(_lines(file), 1):
        if line.strip():
            where = f"{file}, line {number}"
            yield _object(_parsed(line, where, "one object a line"), where)


def _lines(file: Path) -> Iterator[str]:
    """Yield the lines of a text file; what is not UTF-8 is refused by its line."""
    with file.open("rb") as lines:
        number = 0
        while line := lines.readline(_LONGEST_LINE + 1):
            number += 1
            if len(line) > _LONGEST_LINE:
                raise InputError(
                    f"{file}, line {number}: more than {_LONGEST_LINE} bytes; expected a problem a "
                    f"line"
                )
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{file}, line {number}: not UTF-8 text ({error.reason}); convert it to UTF-8"
                ) from error


def _parsed(text: str, where: str, expected: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error}); expected {expected}") from error


def _object(row: Any, where: str) -> PlacedRow:
    if not isinstance(row, dict):
        raise InputError(f"{where}: {type(row).__name__}; expected an object of columns and values")
    return where, row


_READERS: Mapping[str, Callable[[Path], Iterator[PlacedRow]]] = {
    ".parquet": _parquet,
    ".jsonl": _json,
    ".json": _json,
    ".csv": _csv,
}
