"""Problems as the model reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megaprune.data.instructions import asked_format
from megaprune.data.parquet import ProblemRow, problem_files, read_parquet
from megaprune.data.problem_table import Problem, ProblemTable, ProblemTableWriter
from megaprune.data.rendering import ChatRenderer
from megaprune.data.tokenizer import check_template
from megaprune.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEEP, DROP = "keep", "drop"
"""What becomes of problems whose prompt an earlier one has."""

_ROWS, _CHARACTERS = 1024, 1 << 22
"""How many rows are Python objects at once, and how long they are together, but for the last."""


@dataclass(frozen=True)
class Problems:
    """Problems in the order of their files, and what became of the other rows.

    Args:
        problems: the problems.
        too_long: rows that were left out because their prompt is too long.
        duplicates: rows that repeat the prompt of an earlier row, but for spaces.
        contradicting: how many of those have another answer than the earlier row.
        asked_formats: problems by data source and the form of answer that their prompt asks for.
    """

    problems: Sequence[Problem]
    too_long: int
    duplicates: int = 0
    contradicting: int = 0
    asked_formats: dict[tuple[str, str], int] = field(default_factory=dict)


@dataclass(frozen=True)
class ProblemFile:
    """A data set in a model's words and tokens, as a file that a machine's processes can map.

    Args:
        path: where the file is found while the process that made it has it open.
        key: tells it from others.
        too_long: rows that were left out because their prompt is too long.
    """

    path: str
    key: str
    too_long: int

    def open(self, duplicates: str = KEEP) -> Problems:
        """Map the problems.

        Args:
            duplicates: KEEP or DROP those that repeat an earlier prompt; they are counted always.

        Raises:
            OSError: the file is not there (any more).
            ValueError: another one has taken its place.
        """
        table = ProblemTable(self.path, self.key)
        repeated, asked = table.duplicates(), table.asked_formats()
        chosen = table.only(repeated.first) if duplicates == DROP else table
        return Problems(chosen, self.too_long, repeated.count, repeated.contradicting, asked)


def read_problems(
    path: Path,
    tokenizer: PreTrainedTokenizerBase,
    max_prompt_length: int,
    duplicates: str = KEEP,
    enable_thinking: bool | None = None,
) -> Problems:
    """Read a data set (see `megaprune.data.parquet`) and put it into a model's chat template.

    A problem is named "<data_source>/<index>", by its row in the data set if it has no index, and
    with "#2" and so on behind it if an earlier one has that name.

    Args:
        path: a parquet file or a folder of them.
        tokenizer: with a chat template, which adds the special tokens that the model wants.
        max_prompt_length: tokens; longer prompts are left out, never cut.
        duplicates: KEEP or DROP problems that repeat an earlier prompt.
        enable_thinking: for the chat template; see `ChatRenderer`.

    Raises:
        InputError: the files or the template cannot be used (file, row and column are named), or
            all prompts are too long.
    """
    writer, file = make_problem_file(path, tokenizer, max_prompt_length, enable_thinking)
    problems = file.open(duplicates)
    del writer  # the file stays as long as it is mapped
    return problems


def make_problem_file(
    path: Path,
    tokenizer: PreTrainedTokenizerBase,
    max_prompt_length: int,
    enable_thinking: bool | None = None,
) -> tuple[ProblemTableWriter, ProblemFile]:
    """Read a data set into a file that processes can map, while the writer is kept.

    The rows go through in parts: the memory that this takes does not grow with them, but for the
    names.

    Args, raises: see `read_problems`.
    """
    if max_prompt_length < 1:
        raise InputError(f"max_prompt_length={max_prompt_length} tokens; expected 1 or more")
    check_template(tokenizer)
    key = problem_key(path, tokenizer, max_prompt_length, enable_thinking)
    writer = ProblemTableWriter(key)
    names, rows, shortest = _Names(), 0, 0
    with ChatRenderer(tokenizer, str(path), enable_thinking) as renderer:
        for places, part in _parts(read_parquet(path)):
            prompts = renderer.render([row.messages for row in part], places)
            encoded = tokenizer(prompts, add_special_tokens=False, return_attention_mask=False)
            lengths = [len(ids) for ids in encoded["input_ids"]]
            shortest = min([*lengths, shortest] if rows else lengths)
            rows += len(part)
            writer.add(
                [
                    _stored(name, row, prompt, ids)
                    for name, row, prompt, ids in zip(
                        names.of(part), part, prompts, encoded["input_ids"], strict=True
                    )
                    if len(ids) <= max_prompt_length
                ]
            )
    if not writer.count:
        raise InputError(
            f"all {rows} prompts of {path} are longer than "
            f"max_prompt_length={max_prompt_length} tokens; the "
            f"shortest has {shortest}: raise max_prompt_length to that or more"
        )
    writer.finish()
    return writer, ProblemFile(writer.path, writer.key, rows - writer.count)


def problem_key(
    path: Path,
    tokenizer: PreTrainedTokenizerBase,
    max_prompt_length: int,
    enable_thinking: bool | None = None,
) -> str:
    """Return what tells the problems of these files, for this model, from all others.

    Files are known by their place, size and time of change, and not read.
    """
    digest = hashlib.sha256(repr((max_prompt_length, enable_thinking)).encode())
    model = Path(tokenizer.name_or_path)
    settings = sorted(file for file in model.glob("*") if file.suffix != ".safetensors")
    for file in (*problem_files(path), *settings):
        state = file.stat()
        digest.update(repr((str(file.resolve()), state.st_size, state.st_mtime_ns)).encode())
    return digest.hexdigest()


def _parts(
    rows: Iterator[tuple[str, ProblemRow]],
) -> Iterator[tuple[list[str], list[ProblemRow]]]:
    """Yield some rows at a time, with their places."""
    places: list[str] = []
    part: list[ProblemRow] = []
    characters = 0
    for place, row in rows:
        places.append(place)
        part.append(row)
        characters += sum(len(message["content"]) for message in row.messages)
        if len(part) == _ROWS or characters > _CHARACTERS:
            yield places, part
            places, part, characters = [], [], 0
    if part:
        yield places, part


def _stored(name: str, row: ProblemRow, prompt: str, tokens: Sequence[int]) -> dict[str, Any]:
    return {
        "name": name,
        "data_source": row.data_source,
        "messages": row.messages,
        "prompt": prompt,
        "tokens": tokens,
        "gold": row.gold,
        "budget": row.budget,
        "prompt_key": _text_key(*(message["content"] for message in row.messages)),
        "gold_key": _text_key(row.gold),
        "asked_format": asked_format(prompt),
    }


def _text_key(*texts: str) -> int:
    """Return 64 bits that tell texts, but for their spaces, from others."""
    words = "\n".join(" ".join(text.split()) for text in texts).encode()
    return int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "little")


class _Names:
    """Names rows, each by itself and the rows before it alone."""

    def __init__(self) -> None:
        self._rows = 0
        self._taken: set[str] = set()
        self._copies: dict[str, int] = {}
        """How many rows have had a name that others had before."""

    def of(self, rows: Sequence[ProblemRow]) -> Iterator[str]:
        """Name the next rows."""
        for row in rows:
            plain = f"{row.data_source}/{self._rows if row.index is None else row.index}"
            name = plain
            if name in self._taken:
                numbers = count(self._copies.get(plain, 1) + 1)
                number = next(n for n in numbers if f"{plain}#{n}" not in self._taken)
                name, self._copies[plain] = f"{plain}#{number}", number
            self._taken.add(name)
            self._rows += 1
            yield name
