"""Thoughts read from answers, and chosen for an analysis."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from megaprune import schema
from megaprune.data.parquet import shown
from megaprune.data.parquet_rows import read_parquet_rows
from megaprune.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

ProblemKey: TypeAlias = tuple[str, str]
"""A problem: its data source and its name."""

NOT_CLOSED = "no closed thought"
NOT_IN_ALL = "not in every input"
NOT_DRAWN = "not drawn (--answers)"

_TEXTS = ("problem", "data_source", "prompt", "response")
_NEEDED = (*_TEXTS, "number")
_OPTIONAL = ("exit_at", "length", "match", "finish")
_KINDS: Mapping[str, tuple[type, str]] = {
    **dict.fromkeys((*_TEXTS, "finish"), (str, "text")),
    **dict.fromkeys(("number", "exit_at", "length"), (int, "a whole number")),
    "match": (bool, "true or false"),
}
_OUTCOME = ("problem", "number", "match", "length", "finish")
_ROWS = 256
"""How many rows are Python objects at once: responses are long."""

# Markers of a chat template. A judge's server would read them as its own template's.
_SPECIAL = re.compile(r"<[|｜][^<>|｜]{1,40}[|｜]>")


@dataclass(frozen=True)
class Thought:
    """What a model thought before it answered.

    Attributes:
        key: the problem.
        question: the prompt, without markers of the chat template.
        steps: the parts of the thought between blank lines.
        length: tokens of the whole response; None if unknown.
        right: whether the answer was right; None if unknown.
        closed: whether the model closed it; the length limit ended it otherwise.
    """

    key: ProblemKey
    question: str
    steps: tuple[str, ...]
    length: int | None
    right: bool | None
    closed: bool = True

    @property
    def text(self) -> str:
        """All steps, as they were written."""
        return "\n\n".join(self.steps)


@dataclass
class AnalysisInput:
    """The answers of one model.

    Attributes:
        name: the name in tables and figures.
        path: the path, as the user gave it.
        outcomes: of all answers, those that nobody closed early: `problem`, `number`, and `match`,
            `length` and `finish` where they are known; by data source.
        thoughts: the thoughts by problem, without those that were left out.
        left_out: how many problems were left out, by the reason.
    """

    name: str
    path: str
    outcomes: dict[str, list[Mapping[str, Any]]]
    thoughts: dict[ProblemKey, Thought]
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def problems(self) -> int:
        """How many problems there are."""
        return sum(len({row["problem"] for row in rows}) for rows in self.outcomes.values())

    def leave_out(self, key: ProblemKey, reason: str) -> None:
        """Leave out a problem's answer."""
        del self.thoughts[key]
        self.left_out[reason] += 1


def read_inputs(arguments: Sequence[str], close: str) -> list[AnalysisInput]:
    """Read the outcomes of all answers, and the thought of the first answer to each problem.

    An answer that the limit cut off within its thought is a thought too, up to there: without those
    an analysis would be of other answers than an evaluation. One that ended by itself and closed no
    thought has none, and is left out.

    Args:
        arguments: [NAME=]PATH of the folder of an evaluation, or of a run, which makes two inputs
            of its first and last validation, or of a parquet file with their columns.
        close: the tag that ends a thought.

    Raises:
        InputError: a path cannot be used, or two inputs have the same name.
    """
    inputs = [
        AnalysisInput(name, str(path), *_read(path, files, close))
        for argument in arguments
        for name, path, files in _files_of(argument)
    ]
    for name, count in Counter(group.name for group in inputs).items():
        if count > 1:
            paths = ", ".join(group.path for group in inputs if group.name == name)
            raise InputError(
                f"{count} inputs are named {name!r} ({paths}); name them, as in "
                f"before=PATH after=PATH"
            )
    return inputs


def choose(inputs: Sequence[AnalysisInput], answers: int | None, seed: int) -> bool:
    """Keep answers to a number of problems of each input, drawn by the seed.

    The problems are the same in all inputs, if they share any. With more answers those drawn before
    are drawn again, so that nothing is lost that a judge has said.

    Returns:
        Whether all inputs have the same problems.
    """
    shared = set.intersection(*(set(group.thoughts) for group in inputs))
    for group in inputs:
        if shared:
            for key in group.thoughts.keys() - shared:
                group.leave_out(key, NOT_IN_ALL)
        if answers is not None:
            for key in sorted(group.thoughts, key=lambda key: _rank(key, seed))[answers:]:
                group.leave_out(key, NOT_DRAWN)
    return bool(shared)


def _rank(key: ProblemKey, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\n{key[0]}\n{key[1]}".encode()).digest()


def _files_of(argument: str) -> Iterator[tuple[str, Path, list[Path]]]:
    """Find the name, the path and the files of each input that an argument stands for."""
    name, equals, rest = argument.partition("=")
    # A path may have a "=" in it.
    named = bool(equals) and not Path(argument).exists()
    path = Path(rest if named else argument)
    if path.is_file():
        yield name if named else path.stem, path, [path]
    elif (path / schema.METRICS_FILE).is_file():
        from megaprune.report.run_records import read_run

        run = read_run(path)
        files = run.validations or run.samples
        for step in dict.fromkeys([*files][:1] + [*files][-1:]):
            yield f"{name if named else path.name} step {step}", files[step], [files[step]]
        if not files:
            raise InputError(f"{path} has no answers yet, in validation/ or samples/")
    elif files_of := sorted((path / schema.SAMPLES_FOLDER).rglob("*.parquet")):
        yield name if named else path.resolve().name, path, files_of
    else:
        raise InputError(
            f"{path} {'has no answers' if path.is_dir() else 'is not there'}; expected the folder "
            f"of an evaluation (samples/SET/*.parquet) or of a run (metrics.jsonl, validation/), "
            f"or a parquet file of answers"
        )


def _read(
    path: Path, files: Sequence[Path], close: str
) -> tuple[dict[str, list[Mapping[str, Any]]], dict[ProblemKey, Thought], Counter[str]]:
    """Read the outcomes of all answers, the thoughts of the first ones, and how many have none."""
    first: dict[ProblemKey, tuple[int, Thought | None]] = {}
    outcomes: dict[str, list[Mapping[str, Any]]] = {}
    any_closed = False
    for _, row in (row for file in files for row in _rows(file)):
        if row.get("exit_at") is not None:  # its thought was closed for it
            continue
        key = (row["data_source"], row["problem"])
        outcomes.setdefault(key[0], []).append({name: row.get(name) for name in _OUTCOME})
        any_closed |= close in row["response"]
        if key not in first or row["number"] < first[key][0]:
            first[key] = row["number"], _thought(key, row, close)
    if not first:
        raise InputError(f"{path} has no answers that took their time; expected one or more")
    # Where no answer closes a thought, the tag is another: what is cut off is no thought either.
    thoughts = {
        key: thought for key, (_, thought) in first.items() if thought is not None and any_closed
    }
    missing = len(first) - len(thoughts)
    return outcomes, thoughts, Counter({NOT_CLOSED: missing} if missing else {})


def _columns_of(found: pa.Schema, file: Path) -> list[str]:
    """Return the columns that are read, of those that there are."""
    if missing := [name for name in _NEEDED if name not in found.names]:
        raise InputError(
            f"{file} lacks the columns {missing}: it has {found.names}; expected answers as "
            f"`megaprune evaluate` writes them"
        )
    return [*schema.stored_columns([*_NEEDED, *_OPTIONAL], found.names).values()]


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for where, stored in read_parquet_rows(file, partial(_columns_of, file=file), _ROWS):
        row = schema.renamed(stored)
        for name, value in row.items():
            kind, words = _KINDS[name]
            right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
            if not right and (value is not None or name in _NEEDED):
                raise InputError(f"{where}, column {name}: {shown(value)}; expected {words}")
        yield where, row


def _thought(key: ProblemKey, row: dict[str, Any], close: str) -> Thought | None:
    """The thought of an answer; None if it ended by itself and closed none."""
    closed = close in row["response"]
    if not closed and row.get("finish") != "length":
        return None
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
        closed=closed,
    )
