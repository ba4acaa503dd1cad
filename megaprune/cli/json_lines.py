"""Objects from a file of JSON lines, or from stdin; what is wrong is told with its line."""

from __future__ import annotations

import contextlib
import difflib
import json
import sys
from collections.abc import Iterator, Mapping
from typing import IO, Any

from megaprune.errors import InputError

PlacedObject = tuple[str, dict[str, Any]]
"""Where an object stands, in words ("x.jsonl, line 3"), and the object."""

_LENGTH_LIMIT = 1 << 53  # which a float64 holds exactly

_LISTS = {bool: "true and false", int: "whole numbers", str: "texts"}


@contextlib.contextmanager
def open_input(name: str) -> Iterator[IO[str]]:
    """Open a file to read text from; - is stdin."""
    if name == "-":
        yield sys.stdin
    else:
        with open(name, encoding="utf-8") as file:
            yield file


def objects_of(lines: IO[str], name: str, keys: str) -> Iterator[PlacedObject]:
    """Yield the objects of an open file, one for each line that is not blank.

    Args:
        name: of the file, for messages.
        keys: what an object is to have, for messages.

    Raises:
        InputError: a line is not UTF-8 or not an object.
    """
    try:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield (where := f"{name}, line {number}"), _object(line, where, keys)
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not UTF-8 text ({error.reason})") from error


def required_key(row: Mapping[str, Any], key: str, where: str) -> Any:
    """The value of a key that must be there.

    Raises:
        InputError: it is not; says the nearest.
    """
    if key in row:
        return row[key]
    near = difflib.get_close_matches(key, row, n=1)
    raise InputError(
        f"{where}: key {key!r} is missing" + (f"; there is {near[0]!r}" if near else "")
    )


def list_of(kind: type, row: Mapping[str, Any], key: str, where: str) -> list[Any]:
    """A list of an object whose entries are all of a type; 1 and 0 are true and false.

    Raises:
        InputError: there is none, or an entry is of another type.
    """
    values = required_key(row, key, where)
    if kind is bool and isinstance(values, list):  # 1 and 0, as tables have them
        values = [bool(v) if type(v) is int and v in (0, 1) else v for v in values]
    if not isinstance(values, list) or not all(type(value) is kind for value in values):
        raise InputError(f"{where}: {key} is {row[key]!r}; expected a list of {_LISTS[kind]}")
    return values


def lists_of_responses(
    row: Mapping[str, Any],
    where: str,
    kinds: Mapping[str, type],
    required: tuple[str, ...] = ("correct", "length"),
) -> dict[str, list[Any]]:
    """The lists [K] that an object has of its K responses, `correct` among them.

    Args:
        kinds: keys, and the type of their entries; those that are not there are left out.
        required: keys that must be there.

    Raises:
        InputError: one is missing, of another type or length, or a length is negative.
    """
    keys = [key for key in kinds if key in row or key in required]
    lists = {key: list_of(kinds[key], row, key, where) for key in keys}
    count = len(lists["correct"])
    if wrong := [key for key, values in lists.items() if len(values) != count]:
        raise InputError(
            f"{where}: {len(lists[wrong[0]])} entries of {wrong[0]} and {count} of correct; "
            f"expected as many"
        )
    for key in ("length", "thought_length"):
        if wrong_lengths := [n for n in lists.get(key, []) if not 0 <= n < _LENGTH_LIMIT]:
            raise InputError(
                f"{where}: {key} is {wrong_lengths[0]}; expected 0 or more and less than 2^53"
            )
    return lists


def _object(line: str, where: str, keys: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error}); expected one object a line") from error
    if not isinstance(row, dict):
        raise InputError(f"{where}: {type(row).__name__}; expected an object with {keys}")
    return row
