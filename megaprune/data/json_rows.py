"""Rows of JSON files in the forms that they are published in.

JSON lines      an object a line, or a list a line, the first with the names of the columns
a list          of objects, or of lists, the first with the names of the columns
an object       of a list of these under a name such as "data" (with the columns' names under
                "columns", as pandas writes it, or each row under "row", as the hub's viewer does),
                or of the columns, each a list
Lists without names have columns 0, 1, and so on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from megaprune.errors import InputError

PlacedRow = tuple[str, dict[str, Any]]
"""Where a row stands, in words ("x.jsonl, line 3"), and its columns."""

_LONGEST_LINE = 1 << 28
"""Bytes; a list of problems may be all in one line."""

_LISTS = ("data", "rows", "records", "examples", "instances", "items", "problems", "questions")
_NAME = re.compile(r"[A-Za-z_][\w.-]*")


def read_json_rows(file: Path) -> Iterator[PlacedRow]:
    """Yield the rows of a file; JSON lines are read one by one.

    Raises:
        InputError: it is not of one of these forms; names the line or the row.
    """
    lines = text_lines(file)
    filled = ((at, line) for at, line in enumerate(lines, 1) if line.strip())
    number, first = next(filled, (1, ""))
    second = next(filled, None)
    try:
        value = json.loads(first) if first.strip() else None
    except (ValueError, RecursionError) as error:
        # The first lines of a document, or a bad line of many.
        if second is None and first.lstrip().startswith("["):
            raise _not_json(str(file), error, "one list of objects") from error
        if second is None or _is_whole(second[1]):
            raise _not_json(f"{file}, line {number}", error, "one object a line") from error
        text = "".join([first, second[1], *(line for _, line in filled)])
        yield from _of_document(_parsed(text, str(file), "one list of objects"), file)
        return
    if second is None and (isinstance(value, list) or _listed(value) is not None):
        yield from _of_document(value, file)
        return
    numbered = chain([(number, first)] if first.strip() else [], [second] if second else [], filled)
    parsed = (
        (f"{file}, line {at}", _parsed(line, f"{file}, line {at}", "one object a line"))
        for at, line in numbered
    )
    yield from _of_rows(parsed)


def _is_whole(line: str) -> bool:
    """Say whether a line is a row by itself, as those of JSON lines are."""
    try:
        return isinstance(json.loads(line), dict | list) and line.strip() not in ("{}", "[]")
    except (ValueError, RecursionError):
        return False


def _of_document(value: Any, file: Path) -> Iterator[PlacedRow]:
    rows: Any = value
    names: Sequence[str] | None = None
    if isinstance(value, dict):
        rows = _listed(value)
        if rows is None:
            raise InputError(
                f"{file}: one object of {', '.join(map(str, value)) or 'nothing'}; expected a list "
                f"of problems, alone or under a name such as {_LISTS[0]!r}"
            )
        if isinstance(columns := value.get("columns"), list) and all(
            isinstance(name, str) for name in columns
        ):
            names = columns
    yield from _of_rows(((f"{file}, row {at}", row) for at, row in enumerate(rows)), names)


def _of_rows(
    rows: Iterable[tuple[str, Any]], names: Sequence[str] | None = None
) -> Iterator[PlacedRow]:
    """Yield rows that are objects, or lists with the names of their columns in the first."""
    for at, (where, row) in enumerate(rows):
        if isinstance(row, dict):
            yield where, row["row"] if isinstance(row.get("row"), dict) else row
        elif not isinstance(row, list):
            raise InputError(
                f"{where}: {type(row).__name__}; expected an object of columns and values"
            )
        elif at == 0 and names is None and _are_names(row):
            names = row
        else:
            columns = list(map(str, range(len(row)))) if names is None else names
            if len(columns) != len(row):
                raise InputError(
                    f"{where}: {len(row)} values for the columns {', '.join(columns)}; expected "
                    f"one for each"
                )
            yield where, dict(zip(columns, row, strict=True))


def _are_names(row: Sequence[Any]) -> bool:
    names = [name for name in row if isinstance(name, str) and _NAME.fullmatch(name)]
    return bool(row) and len(set(names)) == len(row)


def _listed(value: Any) -> list[Any] | None:
    """Return the rows that an object has under a name, or in columns; None if it has none."""
    if not isinstance(value, Mapping):
        return None
    for name in _LISTS:
        rows = value.get(name)
        if isinstance(rows, list) and all(isinstance(row, dict | list) for row in rows):
            return rows
        if isinstance(rows, dict) and (inner := _columns(rows)) is not None:
            return inner
    return _columns(value)


def _columns(value: Mapping[str, Any]) -> list[Any] | None:
    """Return the rows of an object of columns, each a list or, as pandas has it, by row."""
    columns = {
        name: list(column.values()) if isinstance(column, dict) else column
        for name, column in value.items()
    }
    lengths = {len(column) if isinstance(column, list) else -1 for column in columns.values()}
    if len(columns) < 2 or len(lengths) != 1 or min(lengths) < 1:
        return None
    messages = (
        isinstance(item, dict) and "role" in item for column in columns.values() for item in column
    )
    if any(messages) or not all(isinstance(item, str) for item in next(iter(columns.values()))):
        return None  # one row, whose values are lists
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def text_lines(file: Path) -> Iterator[str]:
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
        raise _not_json(where, error, expected) from error


def _not_json(where: str, error: Exception, expected: str) -> InputError:
    return InputError(f"{where}: not JSON ({error}); expected {expected}")
