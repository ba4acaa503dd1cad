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
"""Probability to be content with the result, after it is found and after each check."""

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
        """The calculation of each column from the right, and what came out of each."""
        steps, found, over = [], [], 0
        one = 1 if self.sign == "+" else -1
        for place in (1, 10, 100):
            top, bottom = self.a // place % 10, self.b // place % 10
            value = top + one * (bottom + over)
            if self.sign == "-" and value < 0:
                top, value = top + 10, value + 10
                carry = 1
            else:
                carry = value // 10 if self.sign == "+" else 0
            steps.append(f"{top}{self.sign}{bottom}{f'{self.sign}1' if over else ''}={value}")
            found.append(str(value))
            over = carry
        return steps, found


def response(problem: Arithmetic, rng: random.Random) -> str:
    """What the overthinker says: the calculation, checks without end, the boxed answer."""
    steps, found = problem.columns()
    said = [f"{rng.choice(OPENINGS)} {', '.join(steps)}. So {problem.result}."]
    for _ in range(MOST_CHECKS):
        if rng.random() < STOP:
            break
        said.append(
            f"{rng.choice(CHECKS)} {', '.join(found)}, {rng.choice(ASSENTS)} {problem.result}."
        )
    return " ".join(said) + f"\n</think>\n\n\\boxed{{{problem.result}}}"


def drawn(seed: int) -> Iterator[Arithmetic]:
    """Problems without end, each once."""
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
    """Problems by the name of their set; the model was taught with none of them."""
    problems = drawn(0)
    found = {
        "validation": list(islice(problems, VALIDATION)),
        "train": list(islice(problems, TRAINING)),
    }
    taught = set(islice(_others(found), LESSONS))
    found["test"] = list(islice((p for p in problems if p not in taught), TEST))
    return found


def lessons() -> Iterator[Arithmetic]:
    """Problems to teach the model with."""
    return _others(sets())


def _others(found: Mapping[str, Sequence[Arithmetic]]) -> Iterator[Arithmetic]:
    used = {p for name in ("validation", "train") for p in found[name]}
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
