"""Problems and their answers, read from rows as they are published; dropped rows are counted."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from megaprune.data.instructions import STEPS, asked_format, without_instructions
from megaprune.data.overlap import NormalizedText
from megaprune.data.parquet import check_text, shown
from megaprune.data.sets import ANSWER_COLUMNS, PROBLEM_COLUMNS, ProblemSet, SourceRow
from megaprune.data.sources import SourceFiles
from megaprune.errors import InputError
from megaprune.grading.equality import joined, listed
from megaprune.grading.find import last_boxes
from megaprune.grading.forms import normal_forms

NOT_OF_THE_SET = "not of the set"
EMPTY = "empty problem"
NO_ANSWER = "no answer"
DUPLICATE = "duplicate"
OTHER_ANSWER = "duplicate with another answer"

_IN_JSON = re.compile(r"\s*\[\s*\{")  # so messages begin, where they are text
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
    """The questions of a source, and what became of its rows.

    Args:
        questions: those that are kept.
        rows: how many rows the source has.
        dropped: why the others were dropped, and how many for each reason.
        kept_duplicates: the questions that repeat an earlier one, where those are kept.
        instructions: how many rows asked for each form of answer in words around the problem (see
            `instructions.asked_format`).
    """

    questions: tuple[BareProblem, ...]
    rows: int
    dropped: Counter[str]
    kept_duplicates: Counter[str] = field(default_factory=Counter)
    instructions: Counter[str] = field(default_factory=Counter)


def collect(
    source: SourceFiles,
    known: ProblemSet | None = None,
    problem_column: str | None = None,
    answer_column: str | None = None,
    *,
    keep_duplicates: bool = False,
    keep_instructions: bool = True,
    compared_only: bool = False,
) -> Collection:
    """Read a source; of a problem that comes twice (see `overlap`: exact), the first is taken.

    Args:
        known: the set that it is; None for one without a name.
        problem_column, answer_column: where they stand; None: see `sets`.
        keep_duplicates: whether problems that come again stay, and are only counted.
        keep_instructions: whether words around a problem stay that ask for a form of the answer.
        compared_only: whether other problems are compared with these, and no more: then
            problem_column is but the first that is looked for, and no answers are needed.

    Raises:
        InputError: the source cannot be read or lacks a column; or nothing is left of it.
    """
    problems: tuple[str, ...] = (problem_column,) if problem_column else PROBLEM_COLUMNS
    answers: tuple[str, ...] = (answer_column,) if answer_column else ANSWER_COLUMNS
    if compared_only:
        problems, answers = (*problems, *PROBLEM_COLUMNS), ()
    collector = _Collector(keep_duplicates, keep_instructions)
    rows = 0
    for number, (where, row) in enumerate(source.rows()):
        rows = number + 1
        try:
            collector.add(bare_problem(number, row, known, problems, answers))
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        except RecursionError as error:
            raise InputError(f"{where}: lists in lists, too deep for a problem") from error
    collector.count_duplicates()
    if not collector.questions:
        why = ", ".join(f"{count} {reason}" for reason, count in collector.dropped.items())
        raise InputError(f"{source.name}: none of {rows} rows can be used ({why or 'it is empty'})")
    return Collection(
        tuple(collector.questions),
        rows,
        collector.dropped,
        collector.kept_duplicates,
        collector.instructions,
    )


class _Collector:
    """Takes the problems of a source one after another; see `collect` for the arguments."""

    def __init__(self, keep_duplicates: bool, keep_instructions: bool):
        self._keep_duplicates, self._keep_instructions = keep_duplicates, keep_instructions
        self._first: dict[str, BareProblem] = {}
        self._again: list[tuple[str, str]] = []  # the answers of problems that come twice
        self.questions: list[BareProblem] = []
        self.dropped: Counter[str] = Counter()
        self.kept_duplicates: Counter[str] = Counter()
        self.instructions: Counter[str] = Counter()

    def add(self, question: BareProblem | str) -> None:
        """Take a problem, or the reason why a row has none."""
        if isinstance(question, str):
            self.dropped[question] += 1
            return
        bare = without_instructions(question.problem)
        if bare != question.problem:
            self.instructions[asked_format(question.problem) or STEPS] += 1
            if not self._keep_instructions:
                question = replace(question, problem=bare)
        first = self._first.setdefault(NormalizedText(bare).normal, question)
        if first is not question:
            self._again.append((first.gold, question.gold))
            if not self._keep_duplicates:
                return
        self.questions.append(question)

    def count_duplicates(self) -> None:
        """Count the problems that came again, by whether their answers are the same."""
        forms = normal_forms(gold for pair in self._again for gold in pair)
        (self.kept_duplicates if self._keep_duplicates else self.dropped).update(
            DUPLICATE if forms[first] == forms[second] else OTHER_ANSWER
            for first, second in self._again
        )


def bare_problem(
    number: int,
    row: SourceRow,
    known: ProblemSet | None = None,
    problems: Sequence[str] = PROBLEM_COLUMNS,
    answers: Sequence[str] = ANSWER_COLUMNS,
) -> BareProblem | str:
    """Read the problem of a row, or say why there is none.

    Args:
        number: of the row.
        known: the set that it is of.
        problems, answers: the columns to look in; without any for answers, they are not needed.

    Raises:
        InputError: a column is missing, or what it has cannot be used.
    """
    if known and known.wanted and not known.wanted(row):
        return NOT_OF_THE_SET
    _, value = _first(row, problems, "problem")
    problem = _problem(value).strip()
    if known and known.suffix:
        problem = problem.removesuffix(known.suffix.strip()).strip()
    if not problem:
        return EMPTY
    check_text(problem, "the problem")
    if not answers:
        return BareProblem(number, problem, "")
    gold = _answer(*_first(row, answers, "answer")).strip()
    if not gold:
        return NO_ANSWER
    if known and known.gold:
        gold = known.gold(row, gold)
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
        f"name it with --{what}-column (in a set of --against: --against-column)"
    )


def _problem(value: Any) -> str:
    """Return the text of a problem; of messages, the user's last."""
    if value is None:
        return ""
    if isinstance(value, str) and _IN_JSON.match(value):
        value = _messages_of(value)
    if isinstance(value, list) and all(isinstance(message, dict) for message in value):
        users = [message.get("content") for message in value if message.get("role") == "user"]
        value = _joined_parts(users[-1]) if users else ""
    if not isinstance(value, str):
        raise InputError(f"the problem is {_shown(value)}; expected text or messages")
    return value


def _messages_of(text: str) -> Any:
    """Return the messages that a text is in JSON; the text itself if it is something else."""
    try:
        messages = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return messages if all("role" in message for message in messages) else text


def _joined_parts(content: Any) -> Any:
    """Return the text of a message that is in parts, as messages with pictures are."""
    if not isinstance(content, list):
        return content
    parts = [part.get("text") if isinstance(part, dict) else None for part in content]
    if not all(isinstance(part, str) for part in parts):
        raise InputError(f"the problem is {_shown(content)}, with more than text in it")
    return "".join(map(str, parts))


_DEEPEST = 8
"""Lists in lists, of answers."""


def _answer(column: str, value: Any, depth: int = 0) -> str:
    """Return the final answer in what an answer's column holds; "" if there is none."""
    if column == "reward_model" and isinstance(value, str):
        value = _parsed(value)
    if isinstance(value, dict):
        value = value.get("ground_truth")
    if isinstance(value, list):
        value = _all_answers(value, depth + 1)
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
        return last_boxes(value) or ""
    return listed(value)


def _all_answers(parts: Sequence[Any], depth: int) -> str:
    if depth > _DEEPEST:
        raise InputError("the answer is lists in lists, too deep for an answer")
    return joined([_answer("", part, depth) for part in parts])


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"reward_model is text that is not JSON ({shown(text)}); expected {{ground_truth, ...}}"
        ) from error


def _shown(value: Any) -> str:
    return f"{shown(value)} ({type(value).__name__})"
