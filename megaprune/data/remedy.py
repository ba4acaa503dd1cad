"""What `megaprune data` would make of a file that a run cannot read, in words for errors."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megaprune.data.sets import ANSWER_COLUMNS, PROBLEM_COLUMNS
from megaprune.errors import InputError

ENDINGS = {".jsonl": "JSON lines", ".json": "JSON", ".csv": "CSV"}
"""What `megaprune data` reads besides parquet."""

_HUB = re.compile(r"(?:hub:|hf://datasets/|https://huggingface\.co/datasets/)?([\w.-]+/[\w.-]+)")


def command(source: str, out: str = "NEW.parquet") -> str:
    """Return the command that makes a file for a run of another one."""
    return f"megaprune data --input {shlex.quote(source)} --source NAME --out {shlex.quote(out)}"


def of_row(file: Path, row: Mapping[str, Any]) -> str:
    """Return words for the end of an error about a row; "" if `megaprune data` refuses it too."""
    from megaprune.data.collect import bare_problem

    try:
        bare_problem(0, row)
    except (InputError, RecursionError):
        return ""
    return f", or let {command(str(file))} make a file of what can be used"


def of_columns(file: Path, names: list[str]) -> str:
    """Return words for the end of an error about columns; "" if `megaprune data` lacks them too."""
    lower = {name.lower() for name in names}

    def there(columns: tuple[str, ...]) -> bool:
        return any(column.partition(".")[0] in lower for column in columns)

    if there(PROBLEM_COLUMNS) and there(ANSWER_COLUMNS):
        return f", or make a file with them: {command(str(file))}"
    return (
        f", or say which columns have the problem and the answer: {command(str(file))} "
        f"--problem-column COLUMN --answer-column COLUMN"
    )


def of_format(path: Path) -> str | None:
    """Return what is to be done about what is no parquet; None if nothing is known of it.

    Args:
        path: of a file or a folder; it may not be there.
    """
    if path.is_dir():
        others = sorted(file for file in path.iterdir() if file.suffix.lower() in ENDINGS)
        return of_format(others[0]) if others else None
    kind = ENDINGS.get(path.suffix.lower()) or _kind_by_content(path)
    if kind is not None and path.is_file():
        make = command(str(path), f"{path.stem}.parquet")
        return f"{path} is {kind}, and a run reads parquet; make it so: {make}"
    hub = _HUB.fullmatch(str(path).replace("https:/h", "https://h").replace("hf:/d", "hf://d"))
    if hub is not None and not path.exists() and not path.suffix and not path.parent.is_dir():
        return (
            f"a run reads files that are here; make one of a data set on the hub so: "
            f"{command('hub:' + hub[1])}"
        )
    return None


def _kind_by_content(path: Path) -> str | None:
    """Say what a file is that its name calls parquet; None for parquet, or what is not known."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        line = file.readline(1 << 20).lstrip(b"\xef\xbb\xbf \t\r\n")
    if line.startswith(b"{"):
        try:
            json.loads(line)
        except ValueError:
            return "JSON (by its content; call it .json)"
        return "JSON lines (by its content; call it .jsonl)"
    return "JSON (by its content; call it .json)" if line.startswith(b"[") else None
