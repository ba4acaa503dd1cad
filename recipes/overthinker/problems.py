"""Arithmetic, and thoughts about it that check a finished result far too often."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

VALIDATION, TRAINING, TEST = 512, 4096, 512
"""How many problems are to choose by while pruning, to prune on, and to measure with at the end."""

LESSONS = 64_000
"""How many others the model was taught with."""

STOP = 0.17
"""Probability of being content with the result: once it is there, and after each check."""

MOST_CHECKS = 14

OPENINGS = ("Column by column:", "From the right:", "Digit by digit:")
CHECKS = (
    "Wait, let me check:",
    "Hmm, once more:",
    "But is that right?",
    "Let me verify:",
    "Again, to be sure:",
)
ASSENTS = ("still", "yes,", "again")


@dataclass(frozen=True)
class Arithmetic:
    """A sum or a difference of two numbers of three digits; a >= b in a difference."""

    a: int
    sign: str
    b: int

    @property
    def question(self) -> str:
        """The user's words."""
        return f"What is {self.a} {self.sign} {self.b}?"

    @property
    def result(self) -> int:
        """The answer."""
        return self.a + self.b if self.sign == "+" else self.a - self.b

    def columns(self) -> tuple[list[str], list[str]]:
        """Return the calculation of each column from the right, and its result."""
        steps, digits, over = [], [], 0
        unit = 1 if self.sign == "+" else -1
        for place in (1, 10, 100):
            top, bottom = self.a // place % 10, self.b // place % 10
            value = top + unit * (bottom + over)
            if self.sign == "-" and value < 0:
                top, value = top + 10, value + 10
                carry = 1
            else:
                carry = value // 10 if self.sign == "+" else 0
            steps.append(f"{top}{self.sign}{bottom}{f'{self.sign}1' if over else ''}={value}")
            digits.append(str(value))
            over = carry
        return steps, digits


def response(problem: Arithmetic, rng: random.Random) -> str:
    """Write what the overthinker says: the calculation, checks without end, the boxed answer."""
    steps, digits = problem.columns()
    sentences = [f"{rng.choice(OPENINGS)} {', '.join(steps)}. So {problem.result}."]
    for _ in range(MOST_CHECKS):
        if rng.random() < STOP:
            break
        sentences.append(
            f"{rng.choice(CHECKS)} {', '.join(digits)}, {rng.choice(ASSENTS)} {problem.result}."
        )
    return " ".join(sentences) + f"\n</think>\n\n\\boxed{{{problem.result}}}"


def drawn(seed: int) -> Iterator[Arithmetic]:
    """Yield problems without end, each once."""
    rng, seen = random.Random(seed), set()
    while True:
        a, b = rng.randint(100, 999), rng.randint(100, 999)
        sign = rng.choice("+-")
        if sign == "-":
            a, b = max(a, b), min(a, b)
        problem = Arithmetic(a, sign, b)
        if problem not in seen:
            seen.add(problem)
            yield problem


def sets() -> dict[str, list[Arithmetic]]:
    """Return problems by the name of their set; the model was taught with none of them."""
    problems = drawn(0)
    chosen = {
        "validation": list(islice(problems, VALIDATION)),
        "train": list(islice(problems, TRAINING)),
    }
    taught = set(islice(_others(chosen), LESSONS))
    chosen["test"] = list(islice((p for p in problems if p not in taught), TEST))
    return chosen


def lessons() -> Iterator[Arithmetic]:
    """Yield problems to teach the model with."""
    return _others(sets())


def _others(chosen: Mapping[str, Sequence[Arithmetic]]) -> Iterator[Arithmetic]:
    used = {p for name in ("validation", "train") for p in chosen[name]}
    return (p for p in drawn(2) if p not in used)


def write_problems(folder: Path) -> None:
    """Write a parquet file for each set, in verl's columns."""
    from megaprune.data import ProblemRow, write_parquet

    for name, problems in sets().items():
        rows = [
            ProblemRow(
                data_source="arithmetic",
                messages=[{"role": "user", "content": problem.question}],
                gold=str(problem.result),
                index=index,
                split=name,
            )
            for index, problem in enumerate(problems)
        ]
        write_parquet(folder / f"{name}.parquet", rows)
