"""Problems in a file that is mapped into memory, so that all processes of a node share one copy.

The file is an Arrow IPC file without a name: it lasts as long as a process has it open or mapped,
and nothing is left of it behind the last one. It is made in the folder for temporary files
(TMPDIR), which must have room for a few kilobytes a problem.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from megaprune.errors import InputError

_SCHEMA = pa.schema(
    {
        "name": pa.string(),
        "data_source": pa.string(),
        "messages": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
        "prompt": pa.string(),
        "tokens": pa.list_(pa.int32()),
        "gold": pa.string(),
        "budget": pa.int64(),
        "prompt_key": pa.uint64(),
        "gold_key": pa.uint64(),
        "asked_format": pa.dictionary(pa.int8(), pa.string()),
    }
)
_OF_PROBLEM = ("name", "data_source", "messages", "prompt", "tokens", "gold", "budget")
_KEY = b"megaprune.problems"
_ROWS = 1024
"""How many problems are Python objects at once, when all are gone through."""


@dataclass(frozen=True)
class Problem:
    """A problem with its prompt in the words and tokens of one model.

    Args:
        name: unique in the data set, and the same whenever the data set is read.
        data_source: the collection that it is from.
        messages: the role and content of each.
        prompt: the messages in the model's chat template, up to where the model answers.
        tokens: the ids of the prompt.
        gold: the right answer.
        budget: tokens that a response should have, if the prompt says so.
    """

    name: str
    data_source: str
    messages: tuple[Mapping[str, str], ...]
    prompt: str
    tokens: tuple[int, ...]
    gold: str
    budget: int | None = None


@dataclass(frozen=True)
class Duplicates:
    """Which rows of a table repeat the prompt of an earlier one.

    Args:
        first: [rows without duplicates] int64, in order: the rows whose prompt is new.
        count: how many rows are not.
        contradicting: how many of those have another answer than the first.
    """

    first: NDArray[np.int64]
    count: int
    contradicting: int


class ProblemTable(Sequence[Problem]):
    """Problems of a mapped file; each is made into a `Problem` when it is asked for.

    Args:
        path: of the file.
        key: the one that it was written with.
        rows: which of its rows count, in order; None for all.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is another file.
    """

    def __init__(self, path: str, key: str, rows: NDArray[np.int64] | None = None):
        self._source = pa.memory_map(path)
        with pa.ipc.open_file(self._source) as reader:
            if (reader.schema.metadata or {}).get(_KEY) != key.encode():
                raise ValueError(f"{path} is not the table of problems {key}")
            self._table = reader.read_all()
        self._rows = np.arange(self._table.num_rows) if rows is None else rows

    def only(self, rows: NDArray[np.int64]) -> ProblemTable:
        """Return the same table with some of its rows alone."""
        other = object.__new__(ProblemTable)
        other._source, other._table, other._rows = self._source, self._table, rows
        return other

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> Problem: ...
    @overload
    def __getitem__(self, place: slice) -> list[Problem]: ...

    def __getitem__(self, place: int | slice) -> Problem | list[Problem]:
        if isinstance(place, slice):
            return [self[at] for at in range(*place.indices(len(self)))]
        row = int(self._rows[place])
        return _problem({name: self._table[name][row].as_py() for name in _OF_PROBLEM})

    def __iter__(self) -> Iterator[Problem]:
        columns = self._table.select(_OF_PROBLEM)
        for start in range(0, len(self), _ROWS):
            for row in columns.take(self._rows[start : start + _ROWS]).to_pylist():
                yield _problem(row)

    def duplicates(self) -> Duplicates:
        """Find the rows whose prompt is that of an earlier row, but for spaces."""
        prompts, golds = (self._table[name].to_numpy() for name in ("prompt_key", "gold_key"))
        _, first, which = np.unique(prompts, return_index=True, return_inverse=True)
        others = golds != golds[first[which]]
        return Duplicates(np.sort(first), len(prompts) - len(first), int(others.sum()))

    def asked_formats(self) -> dict[tuple[str, str], int]:
        """Count the problems by data source and by the form of answer that the prompt asks for.

        See `instructions.asked_format`; problems whose prompt asks for none are left out.
        """
        columns = self._table.select(["data_source", "asked_format"])
        plain = pa.table({"s": columns[0], "f": columns[1].cast(pa.string())})
        counted = plain.group_by(["s", "f"], use_threads=False).aggregate([([], "count_all")])
        return {
            (row["s"], row["f"]): row["count_all"]
            for row in counted.to_pylist()
            if row["f"] is not None
        }


def _problem(row: Mapping[str, Any]) -> Problem:
    fields = {**row, "messages": tuple(row["messages"]), "tokens": tuple(row["tokens"])}
    return Problem(**fields)


class ProblemTableWriter:
    """Writes a file of problems, some at a time.

    Args:
        key: that tells it from other files of problems.

    Raises:
        InputError: there is no room, or no folder for temporary files.
    """

    def __init__(self, key: str):
        self.key = key
        with _making():
            self._file = tempfile.TemporaryFile(prefix="megaprune-problems-")  # noqa: SIM115
            schema = _SCHEMA.with_metadata({_KEY: key.encode()})
            options = pa.ipc.IpcWriteOptions(unify_dictionaries=True)
            self._writer = pa.ipc.new_file(self._file, schema, options=options)
        self.count = 0

    @property
    def path(self) -> str:
        """Where other processes of this machine find the file, while this one has it open."""
        return f"/proc/{os.getpid()}/fd/{self._file.fileno()}"

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add problems: the fields of `Problem`, prompt_key, gold_key and asked_format."""
        with _making():
            self._writer.write_batch(pa.RecordBatch.from_pylist(list(rows), schema=_SCHEMA))
        self.count += len(rows)

    def finish(self) -> None:
        """Write the end of the file, which can be opened from then on."""
        with _making():
            self._writer.close()
            self._file.flush()


class _making:
    """Says what is wrong with the temporary file in words for users."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if isinstance(error, OSError):
            raise InputError(
                f"the problems cannot be kept in a temporary file ({error.strerror or error}); "
                f"make room in {tempfile.gettempdir()}, or set TMPDIR to a folder that has some"
            ) from error
