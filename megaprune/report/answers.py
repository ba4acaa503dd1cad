"""Files of answers, read: those of a run's validation, or all of an evaluation's set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from megaprune.errors import InputError

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Key = tuple[str, str]  # a problem: its data source and its name
Row = dict[str, Any]

OUTCOME = ["data_source", "problem", "length", "finish", "match"]
TEXT = ["number", "prompt", "response", "gold", "extracted", "why"]


@dataclass(frozen=True)
class Answers:
    """What became of the answers to some problems: arrays with one element per answer."""

    problems: list[Key]
    lengths: Array
    right: Array
    cut_off: Array


def read_answers(*files: Path) -> Answers:
    """Read files of answers without their texts."""
    column: dict[str, list[Any]] = {name: [] for name in OUTCOME}
    for file in files:
        table = _read_table(file, OUTCOME)
        for name in OUTCOME:
            column[name] += table[name].to_pylist()
    return Answers(
        problems=list(zip(column["data_source"], column["problem"], strict=True)),
        lengths=np.array(column["length"], dtype=float),
        right=np.array(column["match"], dtype=float),
        cut_off=np.array([reason == "length" for reason in column["finish"]], dtype=float),
    )


def read_rows(files: Sequence[Path], columns: Sequence[str]) -> list[Row]:
    """Some columns of every answer."""
    return [row for file in files for row in _read_table(file, [*columns]).to_pylist()]


def read_first_answers(*files: Path) -> dict[Key, Row]:
    """The answer with the lowest number to every problem, without its texts, and its `file`."""
    rows = [row | {"file": file} for file in files for row in read_rows([file], _FIRST)]
    rows.sort(key=lambda row: row["number"], reverse=True)  # so that the lowest is kept
    return {(row["data_source"], row["problem"]): row for row in rows}


def read_texts(first: Row) -> Row:
    """All of an answer but its tokens.

    Args:
        first: the answer as `read_first_answers` has it.
    """
    names = ("data_source", "problem", "number")
    wanted = [(name, "==", first[name]) for name in names]
    row: Row = _read_table(first["file"], [*OUTCOME, *TEXT], wanted).slice(0, 1).to_pylist()[0]
    return row


_FIRST = [*OUTCOME, "number"]


def _read_table(path: Path, columns: list[str], wanted: Sequence[Any] = ()) -> Any:
    """Columns of a file; without answers whose thought was closed for the model (`budget`)."""
    try:
        # No partitioning: a folder named like `lr=1e-6` is not a column.
        file = pq.ParquetFile(path)
        chosen = pq.filters_to_expression([*wanted]) if wanted else None
        if "budget" in file.schema_arrow.names:
            own = pc.field("budget").is_null()
            chosen = own if chosen is None else chosen & own
        return pq.read_table(path, columns=columns, filters=chosen, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        said = " ".join(str(error).split())
        raise InputError(
            f"{path}: cannot be read as answers ({said}); expected a file with the columns "
            f"{', '.join(columns)}, as `megaprune train` and `megaprune evaluate` write them"
        ) from error
