"""Rows of problem sets as they are published: local files, and repositories on the hub.

A source is a file (parquet, JSON lines, JSON, CSV), a folder of parquet files, or

    hub:OWNER/NAME              a repository of data sets with one data file
    hub:OWNER/NAME:PATTERN      its files whose path the shell pattern fits, as main/test-*.parquet
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from megaprune.data.json_rows import PlacedRow, read_json_rows, text_lines
from megaprune.errors import InputError
from megaprune.hub import fetch

HUB = "hub:"


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
        for number, row in enumerate(csv.DictReader(text_lines(file), strict=True), 1):
            if None in row:
                raise InputError(f"{file}, row {number}: more values than the first line names")
            yield f"{file}, row {number}", dict(row)
    except csv.Error as error:
        raise InputError(f"{file}, row {number + 1}: cannot be read as CSV ({error})") from error


_READERS: Mapping[str, Callable[[Path], Iterator[PlacedRow]]] = {
    ".parquet": _parquet,
    ".jsonl": read_json_rows,
    ".json": read_json_rows,
    ".csv": _csv,
}
