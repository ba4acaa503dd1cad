"""Rows of parquet files of anyone's making: read in parts, or refused by file and row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from megaprune.errors import InputError
from megaprune.foreign_text import printable

_ROWS = 1024

_NO_VALUE = (ValueError, OverflowError, TypeError, KeyError, RecursionError, NotImplementedError)
"""What pyarrow raises for a value that Python has none for: a date after the year 9999, say, or
text that is not UTF-8."""


def read_parquet_rows(
    file: Path,
    choose: Callable[[pa.Schema], Sequence[str] | None],
    rows: int = _ROWS,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a file as Python objects, each after the words for its place.

    Args:
        file: counted from row 0.
        choose: returns the columns to be read, None for all; it raises InputError where the file's
            are not the right ones.
        rows: how many are Python objects at once.

    Raises:
        InputError: the file cannot be read as parquet, or a row of it.
    """
    number = 0
    try:
        with pq.ParquetFile(file) as parquet:
            schema = parquet.schema_arrow
            columns = choose(schema)
            wanted = schema.names if columns is None else columns
            if twice := sorted(name for name in set(wanted) if schema.names.count(name) > 1):
                raise InputError(
                    f"{file} has the column {twice[0]!r} more than once; rename or remove one"
                )
            for part in parquet.iter_batches(rows, columns=columns):
                for row in _objects(part, file, number):
                    yield f"{file}, row {number}", row
                    number += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = printable(" ".join(str(error).split()))[:300]
        raise InputError(
            f"{file} cannot be read as parquet ({reason}); expected a whole parquet file: copy it "
            f"again if it was cut off, or convert it to parquet"
        ) from error


def _objects(part: pa.RecordBatch, file: Path, first: int) -> list[dict[str, Any]]:
    """Return the rows of a part; where there is a bad one, an error names it."""
    try:
        objects: list[dict[str, Any]] = part.to_pylist()
        return objects
    except _NO_VALUE:
        for at in range(part.num_rows):
            for column in part.schema.names:
                try:
                    part.slice(at, 1).select([column]).to_pylist()
                except _NO_VALUE as error:
                    raise InputError(
                        f"{file}, row {first + at}, column {column}: what it has is no value "
                        f"({type(error).__name__}: {printable(str(error))[:200]}); expected text, "
                        f"numbers, and lists and objects of them"
                    ) from error
        raise
