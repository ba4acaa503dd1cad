"""Answers read from the files of an evaluation or a run, and those chosen that are analysed."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from megaprune.errors import InputError

Key: TypeAlias = tuple[str, str]
"""A problem: its data source and its name."""

NOT_CLOSED = "no closed thought"
NOT_IN_ALL = "not in every input"
NOT_DRAWN = "not drawn (--answers)"

_TEXTS = ("problem", "data_source", "prompt", "response")
_NEEDED = (*_TEXTS, "number")
_OPTIONAL = ("budget", "length", "match")
_ROWS = 256
"""How many rows are Python objects at once: responses are long."""

# Markers of a chat template. A judge's server would read them as its own template's.
_SPECIAL = re.compile(r"<[|｜][^<>|｜]{1,40}[|｜]>")


@dataclass(frozen=True)
class Thought:
    """What a model thought before it answered.

    Attributes:
        question: the prompt, without markers of the chat template.
        steps: its parts between blank lines.
        length: tokens of the whole response; None if unknown.
        right: whether the answer was; None if unknown.
    """

    key: Key
    question: str
    steps: tuple[str, ...]
    length: int | None
    right: bool | None

    @property
    def text(self) -> str:
        """All steps."""
        return "\n\n".join(self.steps)


@dataclass
class Input:
    """Answers of one model.

    Attributes:
        name: in tables and figures.
        path: as it was given.
        problems: how many there are.
        thoughts: by problem; those that were left out are not there.
        left_out: problems by the reason.
    """

    name: str
    path: str
    problems: int
    thoughts: dict[Key, Thought]
    left_out: Counter[str] = field(default_factory=Counter)

    def leave_out(self, key: Key, reason: str) -> None:
        """Do without a problem's answer."""
        del self.thoughts[key]
        self.left_out[reason] += 1


def read_inputs(arguments: Sequence[str], close: str) -> list[Input]:
    """The first answer with a closed thought to each problem.

    Args:
        arguments: [NAME=]PATH of an evaluation's folder, a run's, which makes two inputs of its
            first and last validation, or a parquet file with their columns.
        close: the tag that ends a thought.

    Raises:
        InputError: a path cannot be used, or two inputs have the same name.
    """
    inputs = [
        Input(name, str(path), *_read(path, files, close))
        for argument in arguments
        for name, path, files in _found(argument)
    ]
    for name, count in Counter(one.name for one in inputs).items():
        if count > 1:
            paths = ", ".join(one.path for one in inputs if one.name == name)
            raise InputError(
                f"{count} inputs are named {name!r} ({paths}); name them, as in "
                f"before=PATH after=PATH"
            )
    return inputs


def choose(inputs: Sequence[Input], answers: int | None, seed: int) -> bool:
    """Keep answers to at most so many problems of each input, drawn by the seed.

    The same problems in all inputs, if they share any. With more answers those drawn before are
    drawn again, so nothing that a judge has said is lost.

    Returns:
        Whether all inputs have the same problems.
    """
    shared = set.intersection(*(set(one.thoughts) for one in inputs))
    for one in inputs:
        if shared:
            for key in one.thoughts.keys() - shared:
                one.leave_out(key, NOT_IN_ALL)
        if answers is not None:
            for key in sorted(one.thoughts, key=lambda key: _rank(key, seed))[answers:]:
                one.leave_out(key, NOT_DRAWN)
    return bool(shared)


def _rank(key: Key, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\n{key[0]}\n{key[1]}".encode()).digest()


def _found(argument: str) -> Iterator[tuple[str, Path, list[Path]]]:
    """Name, path and files of each input that an argument stands for."""
    name, equals, rest = argument.partition("=")
    # A path may have a "=" in it.
    named = bool(equals) and not Path(argument).exists()
    path = Path(rest if named else argument)
    if path.is_file():
        yield name if named else path.stem, path, [path]
    elif (path / "metrics.jsonl").is_file():
        from megaprune.report.run_records import read_run

        run = read_run(path)
        files = run.validations or run.samples
        for step in dict.fromkeys([*files][:1] + [*files][-1:]):
            yield f"{name if named else path.name} step {step}", files[step], [files[step]]
        if not files:
            raise InputError(f"{path} has no answers yet, in validation/ or samples/")
    elif files_of := sorted((path / "samples").rglob("*.parquet")):
        yield name if named else path.resolve().name, path, files_of
    else:
        raise InputError(
            f"{path} {'has no answers' if path.is_dir() else 'is not there'}; expected the folder "
            f"of an evaluation (samples/SET/*.parquet) or of a run (metrics.jsonl, validation/), "
            f"or a parquet file of answers"
        )


def _read(path: Path, files: Sequence[Path], close: str) -> tuple[int, dict[Key, Thought], Any]:
    """How many problems there are, their thoughts, and how many have none."""
    first: dict[Key, tuple[int, Thought]] = {}
    keys: dict[Key, None] = {}
    for row in (row for file in files for row in _rows(file)):
        if row.get("budget") is not None:  # its thought was closed for it
            continue
        if any(row[name] is None for name in _NEEDED):
            raise InputError(f"{path}: an answer has null in one of {_NEEDED}; remove or fill it")
        key = (row["data_source"], row["problem"])
        keys[key] = None
        if close in row["response"] and (key not in first or row["number"] < first[key][0]):
            first[key] = row["number"], _thought(key, row, close)
    if not keys:
        raise InputError(f"{path} has no answers that took their time; expected one or more")
    thoughts = {key: first[key][1] for key in keys if key in first}
    missing = len(keys) - len(thoughts)
    return len(keys), thoughts, Counter({NOT_CLOSED: missing} if missing else {})


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    try:
        with pq.ParquetFile(file) as parquet:
            have = parquet.schema_arrow.names
            if missing := [name for name in _NEEDED if name not in have]:
                raise InputError(
                    f"{file} lacks the columns {missing}: it has {have}; expected answers as "
                    f"`megaprune evaluate` writes them"
                )
            for name in _TEXTS:
                kind = parquet.schema_arrow.field(name).type
                if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                    raise InputError(f"{file}, column {name}: of type {kind}; expected text")
            columns = [name for name in (*_NEEDED, *_OPTIONAL) if name in have]
            for part in parquet.iter_batches(_ROWS, columns=columns):
                yield from part.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{file} cannot be read as parquet ({' '.join(str(error).split())}); expected a whole "
            f"file of answers"
        ) from error


def _thought(key: Key, row: dict[str, Any], close: str) -> Thought:
    # Some models write the opening tag themselves, with others it is the end of the prompt.
    opening = close.replace("/", "")

    def plain(text: str) -> str:
        return _SPECIAL.sub(" ", text.replace(opening, " ")).strip()

    thought = plain(row["response"].partition(close)[0])
    return Thought(
        key=key,
        question=plain(row["prompt"]),
        steps=tuple(step.strip() for step in re.split(r"\n\s*\n", thought) if step.strip()),
        length=row.get("length"),
        right=row.get("match"),
    )
