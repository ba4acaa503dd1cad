"""Problems and their answers, read from rows as they are published; dropped rows are counted."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from megaprune.data.overlap import NormalizedText
from megaprune.data.parquet import check_text, shown
from megaprune.data.sets import ANSWER_COLUMNS, PROBLEM_COLUMNS, ProblemSet, SourceRow
from megaprune.data.sources import SourceFiles
from megaprune.errors import InputError
from megaprune.grading.equality import normal_form
from megaprune.grading.find import last_box

NOT_OF_THE_SET = "not of the set"
EMPTY = "empty problem"
NO_ANSWER = "no answer"
DUPLICATE = "duplicate"
OTHER_ANSWER = "duplicate with another answer"

_FINAL = re.compile(r"\n#### *(.+)\s*$")  # GSM8K's answers end so


@dataclass(frozen=True)
class BareProblem:
    """A problem without a prompt around it.

    Args:
        index: the number of its row in the source, from 0.
        problem: its text.
        gold: the right answer, as its grader takes it.
        kept: other columns.
    """

    index: int
    problem: str
    gold: str
    kept: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Collection:
    """The questions of a source, how many rows it has, and why the others were dropped."""

    questions: tuple[BareProblem, ...]
    rows: int
    dropped: Counter[str]


def collect(
    source: SourceFiles,
    known: ProblemSet | None = None,
    problem_column: str | None = None,
    answer_column: str | None = None,
) -> Collection:
    """Read a source; of a problem that comes twice (see `overlap`: exact), the first is taken.

    Args:
        known: the set that it is; None for one without a name.
        problem_column, answer_column: where they stand; None: see `sets`.

    Raises:
        InputError: the source cannot be read or lacks a column; or nothing is left of it.
    """
    problems = (problem_column,) if problem_column else PROBLEM_COLUMNS
    answers = (answer_column,) if answer_column else ANSWER_COLUMNS
    questions: dict[str, BareProblem] = {}
    dropped: Counter[str] = Counter()
    rows = 0
    for number, (where, row) in enumerate(source.rows()):
        rows = number + 1
        try:
            question = _question(number, row, known, problems, answers)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        except RecursionError as error:
            raise InputError(f"{where}: lists in lists, too deep for a problem") from error
        if isinstance(question, str):
            dropped[question] += 1
            continue
        first = questions.setdefault(NormalizedText(question.problem).normal, question)
        if first is not question:
            same = normal_form(first.gold) == normal_form(question.gold)
            dropped[DUPLICATE if same else OTHER_ANSWER] += 1
    if not questions:
        why = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        raise InputError(f"{source.name}: none of {rows} rows can be used ({why or 'it is empty'})")
    return Collection(tuple(questions.values()), rows, dropped)


def _question(
    number: int,
    row: SourceRow,
    known: ProblemSet | None,
    problems: Sequence[str],
    answers: Sequence[str],
) -> BareProblem | str:
    """Read the question of a row, or say why there is none."""
    if known and known.wanted and not known.wanted(row):
        return NOT_OF_THE_SET
    _, value = _first(row, problems, "problem")
    problem = _problem(value).strip()
    if known and known.suffix:
        problem = problem.removesuffix(known.suffix.strip()).strip()
    if not problem:
        return EMPTY
    gold = _answer(*_first(row, answers, "answer")).strip()
    if not gold:
        return NO_ANSWER
    if known and known.gold:
        gold = known.gold(row, gold)
    check_text(problem, "the problem")
    check_text(gold, "the answer")
    return BareProblem(number, problem, gold, _kept(row, known))


def _kept(row: SourceRow, known: ProblemSet | None) -> dict[str, str]:
    wanted = ("id", *known.keep) if known else ("id",)
    lower = {key.lower(): value for key, value in row.items()}
    kept = {key: str(lower[key]) for key in wanted if lower.get(key) is not None}
    for key, value in kept.items():
        check_text(value, f"column {key}")
    return kept


def _first(row: SourceRow, columns: Sequence[str], what: str) -> tuple[str, Any]:
    """Return the first of these columns that the row has, and its value."""
    lower = {key.lower(): key for key in row}
    for column in columns:
        name, _, inner = column.partition(".")
        if column in row or (not inner and column in lower):
            return column, row[column if column in row else lower[column]]
        if inner and isinstance(row.get(name), dict) and inner in row[name]:
            return column, row[name][inner]
    raise InputError(
        f"no column for the {what}: expected {' or '.join(columns)}; there are {', '.join(row)}: "
        f"name it with --{what}-column"
    )


def _problem(value: Any) -> str:
    """Return the text of a problem; of messages, the user's last."""
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(message, dict) for message in value):
        users = [message.get("content") for message in value if message.get("role") == "user"]
        value = users[-1] if users else ""
    if not isinstance(value, str):
        raise InputError(f"the problem is {_shown(value)}; expected text or messages")
    return value


def _answer(column: str, value: Any) -> str:
    """Return the final answer in what an answer's column holds; "" if there is none."""
    if column == "reward_model" and isinstance(value, str):
        value = _parsed(value)
    if isinstance(value, dict):
        value = value.get("ground_truth")
    if isinstance(value, list):
        value = ", ".join(_answer("", part) for part in value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value == int(value) else repr(value)
    if not isinstance(value, str):
        raise InputError(f"the answer is {_shown(value)}; expected text or a number")
    if final := _FINAL.search(value):
        return final[1]
    if column.rpartition(".")[2] == "solution" or r"\boxed" in value or r"\fbox" in value:
        return last_box(value) or ""
    return value


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"reward_model is text that is not JSON ({shown(text)}); expected {{ground_truth, ...}}"
        ) from error


def _shown(value: Any) -> str:
    return f"{shown(value)} ({type(value).__name__})"
