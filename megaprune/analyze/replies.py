"""Every reply of a judge, on disk as it comes: a kill costs those that are on their way."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megaprune.errors import InputError

NAME = "replies.jsonl"


class Replies:
    """replies.jsonl of a folder, one reply a line, which is this process's alone until `close`.

    Each line has the judge's model, the digest of the prompt and of the thought, the number of the
    attempt, and what the judge said.

    Args:
        folder: is there.
        model: of the judge.
        prompt: its digest.

    Raises:
        InputError: the replies there are another model's, or to another prompt, or cannot be read,
            or another process is at it.
    """

    def __init__(self, folder: Path, model: str, prompt: str):
        self._path = folder / NAME
        self._whose = {"model": model, "prompt": prompt}
        self._file = self._path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise InputError(f"another process is at {folder}; wait, or end it") from error
        self._rows: dict[str, list[dict[str, Any]]] = {}
        try:
            self._read()
        except BaseException:
            self._file.close()
            raise

    def of(self, thought: str) -> list[dict[str, Any]]:
        """Replies about the thought with this digest, in the order of the attempts."""
        return self._rows.get(thought, [])

    def all(self) -> list[dict[str, Any]]:
        """All replies."""
        return [row for rows in self._rows.values() for row in rows]

    def add(self, thought: str, row: Mapping[str, Any]) -> None:
        """Keep a reply; it is on disk when this returns."""
        whole = {"thought": thought, **self._whose, **row}
        self._file.write(json.dumps(whole).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._rows.setdefault(thought, []).append(whole)

    def close(self) -> None:
        """Let other processes have it."""
        self._file.close()

    def _read(self) -> None:
        self._file.seek(0)
        lines = self._file.read().splitlines(keepends=True)
        for number, line in enumerate(lines, 1):
            if number == len(lines) and not line.endswith(b"\n"):
                # Torn by a kill: the next reply must not be joined to it.
                self._file.truncate(sum(map(len, lines[:-1])))
                break
            row = self._parsed(line, f"{self._path}, line {number}")
            self._rows.setdefault(row["thought"], []).append(row)

    def _parsed(self, line: bytes, where: str) -> dict[str, Any]:
        try:
            row: dict[str, Any] = json.loads(line)
            whose = {name: row[name] for name in self._whose}
            row["thought"], row["attempt"], row["text"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{where}: no reply of a judge; remove the line, and it is asked for again"
            ) from error
        if whose != self._whose:
            raise InputError(
                f"{self._path} has replies of {whose['model']} to prompt {whose['prompt']}, not of "
                f"{self._whose['model']} to prompt {self._whose['prompt']}; give another --out"
            )
        return row
