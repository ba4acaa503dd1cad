"""An evaluation's responses on disk: many small parquet files, written as responses finish.

EVALUATION/samples/<set>/part_<engine>_<count>.parquet; each row is one response, each of
(problem, number, exit_at) is there once.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from megaprune import schema
from megaprune.errors import InputError
from megaprune.trainer.run_dir import write_samples


class Writer:
    """Writes the responses of one engine, every few seconds.

    Args:
        folder: EVALUATION/samples.
        engine: the number of the engine, for the names of the files.
        every: seconds between files.
    """

    def __init__(self, folder: Path, engine: int, every: float):
        self._folder, self._engine, self._every = folder, engine, every
        self._rows: list[Mapping[str, Any]] = []
        self._written = time.monotonic()
        self._count = 1 + max(
            (int(path.stem.split("_")[2]) for path in folder.glob(f"*/part_{engine}_*.parquet")),
            default=0,
        )

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take rows, and write them if it is time."""
        self._rows.extend(rows)
        if self._rows and time.monotonic() - self._written > self._every:
            self.flush()

    def flush(self) -> None:
        """Write the rows that are not written yet."""
        for name in dict.fromkeys(row["set"] for row in self._rows):
            path = self._folder / name / schema.part_file(self._engine, self._count)
            write_samples(path, [row for row in self._rows if row["set"] == name])
        self._rows, self._count, self._written = [], self._count + 1, time.monotonic()


def read(folder: Path, *columns: str) -> Iterator[dict[str, Any]]:
    """Read these columns of all rows, file by file.

    Args:
        folder: EVALUATION/samples, or the folder of a set in it.
        columns: their names; those of `schema.OPTIONAL_COLUMNS` are None where a file lacks them.

    Raises:
        InputError: a file cannot be read; says which.
    """
    for path in sorted(folder.rglob(schema.PART_FILES)):
        try:
            with pq.ParquetFile(path) as file:
                there = file.schema_arrow.names
            stored = schema.stored_columns(columns, there)
            empty = dict.fromkeys(set(columns) & set(schema.OPTIONAL_COLUMNS) - set(stored))
            present = [name for name in columns if name not in empty]
            table = pq.read_table(path, columns=[stored.get(name, name) for name in present])
            for row in table.rename_columns(present).to_pylist():
                yield row | empty
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(
                f"{path} cannot be read ({' '.join(str(error).split())}); remove it, and the same "
                f"evaluation makes its responses again"
            ) from error


def file_name(name: str) -> str:
    """Turn the name of a set into the name of a folder."""
    return re.sub(r"[^\w.-]", "_", name)
