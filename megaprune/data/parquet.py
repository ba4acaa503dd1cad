"""Parquet files in verl's columns, read as they are.

data_source     text
prompt          list of {role: text, content: text}
reward_model    {ground_truth: text or number, ...}, or that as JSON text
extra_info      {index: text or number, split: text, budget: number, ...}; may be absent, and so may
                its fields
ability         text; may be absent

Other columns and fields are ignored. A data set is one file, or a folder of *.parquet files, which
are taken by name.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from megaprune.data import remedy
from megaprune.data.parquet_rows import read_parquet_rows
from megaprune.errors import InputError
from megaprune.files import new_file

_NEEDED = ("data_source", "prompt", "reward_model")
_LONGEST = 1 << 20
"""Characters of a text at most; no problem has so many, and a tokenizer may not end with more."""

_TEXT = pa.string()
_SCHEMA = pa.schema(
    {
        "data_source": _TEXT,
        "prompt": pa.list_(pa.struct({"role": _TEXT, "content": _TEXT})),
        "ability": _TEXT,
        "reward_model": pa.struct({"ground_truth": _TEXT, "style": _TEXT}),
        "extra_info": pa.struct({"split": _TEXT, "index": pa.int64()}),
    }
)


@dataclass(frozen=True)
class ProblemRow:
    """One problem with its prompt, as verl's columns store it.

    Args:
        data_source: the collection that it is from.
        messages: the role and content of each.
        gold: the right answer.
        index: its number or name in the collection, if it has one.
        split: "train" or "test", say.
        ability: what it takes to solve it.
        budget: tokens that a response should have, if the prompt says so.
    """

    data_source: str
    messages: Sequence[Mapping[str, str]]
    gold: str
    index: int | str | None = None
    split: str = "train"
    ability: str = "math"
    budget: int | None = None


def read_parquet(path: Path) -> Iterator[tuple[str, ProblemRow]]:
    """Yield each row of a file or folder after the words for its place ("x.parquet, row 3").

    Rows are counted from 0 in each file.

    Raises:
        InputError: there is no such file, it is not parquet, has no rows, lacks a column, or a row
            has what cannot be used; the message names file, row and column.
    """
    is_empty = True
    for file in problem_files(path):
        for where, row in read_parquet_rows(file, partial(_columns_of, file=file)):
            is_empty = False
            try:
                problem = _row(row, where)
            except InputError as error:
                raise InputError(f"{error}{remedy.of_row(file, row)}") from error
            yield where, problem
    if is_empty:
        raise InputError(f"{path} has no rows; expected one problem or more: write it again")


def write_parquet(
    path: Path,
    rows: Sequence[ProblemRow],
    extra_info: Sequence[Mapping[str, str]] = (),
    about: Mapping[str, str] | None = None,
) -> None:
    """Write a file in verl's columns, whole or not at all.

    Indices must be whole numbers or absent.

    Args:
        extra_info: more fields of that column, for each row; none if empty.
        about: metadata of the schema.

    Raises:
        InputError: the file cannot be written there.
    """
    columns = [_columns(row) for row in rows]
    for column, extra in zip(columns, extra_info, strict=bool(extra_info)):
        column["extra_info"] |= extra
    names = dict.fromkeys(name for extra in extra_info for name in extra)
    own = [] if all(row.budget is None for row in rows) else [("budget", pa.int64())]
    fields = [*_SCHEMA.field("extra_info").type, *own, *((name, _TEXT) for name in names)]
    info = pa.struct(fields)
    at = _SCHEMA.get_field_index("extra_info")
    schema = _SCHEMA.set(at, pa.field("extra_info", info)).with_metadata(about)
    table = pa.Table.from_pylist(columns, schema=schema)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(path) as new:
            pq.write_table(table, new)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error}; choose another place") from error


def _columns(row: ProblemRow) -> dict[str, Any]:
    return {
        "data_source": row.data_source,
        "prompt": list(row.messages),
        "ability": row.ability,
        "reward_model": {"ground_truth": row.gold, "style": "rule"},
        "extra_info": {"split": row.split, "index": row.index, "budget": row.budget},
    }


def problem_files(path: Path) -> list[Path]:
    """Return the files of a data set, in order.

    Raises:
        InputError: there are none.
    """
    if path.is_dir():
        files = sorted(path.glob("*.parquet"))
        if not files:
            instead = remedy.of_format(path) or "give a folder that has, or a file"
            raise InputError(f"{path} has no *.parquet files; {instead}")
        return files
    if not path.exists():
        instead = remedy.of_format(path) or "expected a parquet file or a folder of them"
        raise InputError(f"there is no {path}; {instead}")
    if other := remedy.of_format(path):
        raise InputError(other)
    return [path]


def _columns_of(schema: pa.Schema, file: Path) -> list[str]:
    """Return the columns that are read."""
    for column in _NEEDED:
        if column not in schema.names:
            raise InputError(
                f"{file} lacks the column {column!r}: it has {schema.names}; expected "
                f"{list(_NEEDED)}: rename or add it{remedy.of_columns(file, schema.names)}"
            )
    return [column for column in _SCHEMA.names if column in schema.names]


def _row(row: Mapping[str, Any], where: str) -> ProblemRow:
    messages = _typed(row["prompt"], list, "a list of {role, content}", f"{where}, column prompt")
    if not messages:
        raise InputError(
            f"{where}, column prompt: an empty list; expected one message or more: "
            f"fill it or remove the row"
        )
    info = row.get("extra_info") or {}
    index = _typed(info, dict, "{index, split, ...}", f"{where}, column extra_info").get("index")
    return ProblemRow(
        data_source=_text(row["data_source"], f"{where}, column data_source"),
        messages=[_message(m, f"{where}, column prompt[{i}]") for i, m in enumerate(messages)],
        gold=_gold(row["reward_model"], f"{where}, column reward_model"),
        index=None if index is None else _answer(index, f"{where}, column extra_info.index"),
        split=_name(info.get("split"), "train", f"{where}, column extra_info.split"),
        ability=_name(row.get("ability"), "math", f"{where}, column ability"),
        budget=_budget(info.get("budget"), f"{where}, column extra_info.budget"),
    )


def _budget(value: Any, where: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 1:
        raise InputError(f"{where}: {shown(value)}; expected a number of tokens, 1 or more")
    return int(value)


def _name(value: Any, default: str, where: str) -> str:
    return _answer(value, where) if value else default


def _message(message: Any, where: str) -> dict[str, str]:
    fields = _typed(message, dict, "{role, content}", where)
    return {name: _text(fields.get(name), f"{where}.{name}") for name in ("role", "content")}


def _gold(value: Any, where: str) -> str:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{where}: text that is not JSON ({shown(value)}); expected "
                f"{{ground_truth, ...}}: put the answer into its field ground_truth"
            ) from error
    fields = _typed(value, dict, "{ground_truth, ...}", where)
    return _answer(fields.get("ground_truth"), f"{where}.ground_truth")


def _answer(value: Any, where: str) -> str:
    """Return text as it is, and a number as it is written; a whole number has no point."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, float) or not math.isfinite(value):
        return _text(value, where, "text or a finite number")
    return str(int(value)) if value == int(value) else repr(value)


def _text(value: Any, where: str, expected: str = "text") -> str:
    text: str = _typed(value, str, expected, where)
    if not text.strip():
        raise InputError(f"{where}: empty; expected {expected}: fill it or remove the row")
    check_text(text, where)
    return text


def check_text(text: str, where: str) -> None:
    """Refuse text that is too long for a problem, or that no file can hold."""
    if len(text) > _LONGEST:
        raise InputError(
            f"{where}: {len(text)} characters; expected {_LONGEST} at most: remove the row"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where}: {text[error.start]!r} at character {error.start} is half of a pair, and no "
            f"text (it is not UTF-8); write the character whole, or remove the row"
        ) from error


def shown(value: Any) -> str:
    """Show the beginning of a value, however large or deep it is."""
    text = reprlib.Repr().repr(value)
    return text if len(text) <= 60 else text[:60] + "..."


def _typed(value: Any, kind: type, expected: str, where: str) -> Any:
    if isinstance(value, kind):
        return value
    if value is None:
        raise InputError(f"{where}: null or absent; expected {expected}: fill it or remove the row")
    raise InputError(
        f"{where}: {shown(value)} ({type(value).__name__}); expected {expected}: store it so"
    )
