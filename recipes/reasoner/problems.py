"""Sums, and thoughts that make slips and find most of them when they check.

The first calculation of a column slips with probability SLIP, and what follows builds on that. A
check calculates each column anew. Where it comes to another value than was written last, it sees
that with probability CATCH, and otherwise writes the old value again. A check makes no new slips.
How many checks there are is drawn beforehand, whether the result is right by then or not; a check
that changed something is always followed by another.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

VALIDATION, TRAINING, TEST = 96, 768, 192
"""How many problems are to choose by while pruning, to prune on, and to measure with at the end."""

DIGITS = {"easy": 2, "medium": 3, "hard": 4}
"""Digits of both numbers, by difficulty."""

SLIP = 0.15
"""Probability that a column's first value is one too large or too small."""

CATCH = 0.7
"""Probability that a check sees a difference."""

MOST_CHECKS = 4
"""The number of checks is drawn from 0 to this, each as likely."""

CHECK = "Wait, check:"
AGREES, DIFFERS = "still", "So"


@dataclass(frozen=True)
class Column:
    """One place of a sum: the digits above each other, what is carried, and the value written."""

    top: int
    bottom: int
    carried: int
    value: int

    def __str__(self) -> str:
        return f"{self.top}+{self.bottom}{'+1' if self.carried else ''}={self.value}"


@dataclass(frozen=True)
class Sum:
    """A sum of two numbers of as many digits."""

    a: int
    b: int

    @property
    def question(self) -> str:
        """The user's words."""
        return f"What is {self.a} + {self.b}?"

    @property
    def result(self) -> int:
        """The answer."""
        return self.a + self.b

    @property
    def difficulty(self) -> str:
        """The name in DIGITS."""
        return next(name for name, digits in DIGITS.items() if digits == len(str(self.a)))

    def calculate(self, rng: random.Random) -> list[Column]:
        """Return the columns from the right, with slips."""
        columns: list[Column] = []
        for top, bottom in self._places():
            carried = columns[-1].value // 10 if columns else 0
            value = top + bottom + carried
            if rng.random() < SLIP:
                value += rng.choice((-1, 1)) if value else 1
            columns.append(Column(top, bottom, carried, value))
        return columns

    def check(self, written: Sequence[Column], rng: random.Random) -> list[Column]:
        """Return the columns that a check of those comes to."""
        columns: list[Column] = []
        for (top, bottom), last in zip(self._places(), written, strict=True):
            carried = columns[-1].value // 10 if columns else 0
            value = top + bottom + carried
            if value != last.value and rng.random() >= CATCH:
                value = last.value
            columns.append(Column(top, bottom, carried, value))
        return columns

    def _places(self) -> Iterator[tuple[int, int]]:
        """Yield the digits above each other, from the right."""
        yield from zip(
            *(map(int, reversed(str(number))) for number in (self.a, self.b)), strict=True
        )


def total(columns: Sequence[Column]) -> int:
    """Return the number that columns from the right come to."""
    digits = sum(column.value % 10 * 10**place for place, column in enumerate(columns))
    return digits + columns[-1].value // 10 * 10 ** len(columns)


def response(problem: Sum, rng: random.Random) -> str:
    """Write what the reasoner says: the calculation, checks, the boxed answer."""
    columns = problem.calculate(rng)
    sentences = [f"{_stated(columns)}. So {total(columns)}."]
    checks, has_changed = rng.randint(0, MOST_CHECKS), False
    while len(sentences) <= checks or has_changed:
        before, columns = columns, problem.check(columns, rng)
        has_changed = columns != before
        verdict = DIFFERS if has_changed else AGREES
        sentences.append(f"{CHECK} {_stated(columns)} {verdict} {total(columns)}.")
    return " ".join(sentences) + f"\n</think>\n\n\\boxed{{{total(columns)}}}"


def _stated(columns: Sequence[Column]) -> str:
    """Without blanks: each is a token."""
    return ",".join(map(str, columns))


def drawn(seed: int) -> Iterator[Sum]:
    """Yield problems without end, of all difficulties in turn."""
    rng = random.Random(seed)
    while True:
        for digits in DIGITS.values():
            low, high = 10 ** (digits - 1), 10**digits - 1
            yield Sum(rng.randint(low, high), rng.randint(low, high))


def sets() -> dict[str, list[Sum]]:
    """Return distinct problems by the name of their set; the model was taught with none of them."""
    turns = zip(*map(_distinct, DIGITS.values()), strict=True)
    problems = (problem for turn in turns for problem in turn)
    sizes = {"validation": VALIDATION, "train": TRAINING, "test": TEST}
    return {name: list(islice(problems, size)) for name, size in sizes.items()}


def lessons() -> Iterator[tuple[str, str]]:
    """Yield questions and responses to teach the model with."""
    used = {problem for problems in sets().values() for problem in problems}
    rng = random.Random(3)
    for problem in drawn(2):
        if problem not in used:
            yield problem.question, response(problem, rng)


def _distinct(digits: int) -> Iterator[Sum]:
    """Yield problems of numbers with so many digits, each once."""
    seen = set()
    for problem in drawn(0):
        if len(str(problem.a)) == digits and problem not in seen:
            seen.add(problem)
            yield problem


def write_problems(folder: Path) -> None:
    """Write a parquet file for each set, in verl's columns; each difficulty is a data source."""
    from megaprune.data import ProblemRow, write_parquet

    for name, problems in sets().items():
        rows = [
            ProblemRow(
                data_source=f"sums_of_{len(str(problem.a))}_digits",
                messages=[{"role": "user", "content": problem.question}],
                gold=str(problem.result),
                index=index,
                split=name,
            )
            for index, problem in enumerate(problems)
        ]
        difficulties = [{"difficulty": problem.difficulty} for problem in problems]
        write_parquet(folder / f"{name}.parquet", rows, difficulties)
