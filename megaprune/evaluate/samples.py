"""An evaluation's responses on disk: many small parquet files, written as responses finish.

EVALUATION/samples/<set>/part_<engine>_<count>.parquet; each row is one response, each of
(problem, number, budget) is there once.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from megaprune.errors import InputError
from megaprune.schema import samples_schema
from megaprune.trainer.run_lock import writing


class Writer:
    """Writes what one engine's responses are, every few seconds.

    Args:
        folder: EVALUATION/samples.
        engine: number, for the files' names.
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
        """Take rows; write if it is time."""
        self._rows.extend(rows)
        if self._rows and time.monotonic() - self._written > self._every:
            self.flush()

    def flush(self) -> None:
        """Write what there is."""
        for name in dict.fromkeys(row["set"] for row in self._rows):
            path = self._folder / name / f"part_{self._engine}_{self._count:06}.parquet"
            partial = path.with_name(path.name + ".partial")
            table = pa.Table.from_pylist(
                [r for r in self._rows if r["set"] == name], samples_schema()
            )
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    pq.write_table(table, partial, compression="zstd")
                    partial.replace(path)
                finally:
                    partial.unlink(missing_ok=True)
        self._rows, self._count, self._written = [], self._count + 1, time.monotonic()


def read(folder: Path, *columns: str) -> Iterator[dict[str, Any]]:
    """Rows with these columns, file by file.

    Args:
        folder: EVALUATION/samples, or a set's in it.

    Raises:
        InputError: a file cannot be read; says which.
    """
    for path in sorted(folder.rglob("part_*_*.parquet")):
        try:
            yield from pq.read_table(path, columns=list(columns)).to_pylist()
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(
                f"{path} cannot be read ({' '.join(str(error).split())}); remove it, and the same "
                f"evaluation makes its responses again"
            ) from error


def file_name(name: str) -> str:
    """A set's name, as a folder's."""
    return re.sub(r"[^\w.-]", "_", name)
