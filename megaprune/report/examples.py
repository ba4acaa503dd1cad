"""Which answers are shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from megaprune.report.answers import Key, Row, read_first_answers, read_texts

RULE = (
    "Chosen by rule, from each problem's first answer on both sides: the problem whose answer "
    "shortened by the median number of tokens, the one whose answer shortened most, the first by "
    "name whose answer was right and became wrong, and the first by name the other way round. "
    "A problem is shown once."
)
RULE_OF_ONE = (
    "Chosen by rule, from each problem's first answer: that of median length, and the longest."
)


@dataclass(frozen=True)
class Example:
    """Answers to one problem, each with what it is of."""

    why: str
    sides: tuple[tuple[str, Row], ...]


def choose_pairs(
    before: Sequence[Path], after: Sequence[Path], names: tuple[str, str]
) -> list[Example]:
    """Answers to the same problems, of the same number, chosen by RULE.

    Args:
        before: files of answers.
        after: of other answers.
        names: of both.
    """
    sides = read_first_answers(*before), read_first_answers(*after)
    return [
        Example(
            why,
            tuple((name, read_texts(side[key])) for name, side in zip(names, sides, strict=True)),
        )
        for why, key in _pick(*sides)
    ]


def choose_some(files: Sequence[Path], name: str) -> list[Example]:
    """Answers of one side, chosen by RULE_OF_ONE."""
    answers = read_first_answers(*files)
    by_length = sorted(sorted(answers), key=lambda key: answers[key]["length"])
    picked = [("median length", by_length[(len(by_length) - 1) // 2]), ("longest", by_length[-1])]
    if len(by_length) == 1:
        picked = picked[:1]
    return [Example(why, ((name, read_texts(answers[key])),)) for why, key in picked]


def _pick(before: dict[Key, Row], after: dict[Key, Row]) -> list[tuple[str, Key]]:
    shared = sorted(
        key for key in before.keys() & after.keys() if before[key]["number"] == after[key]["number"]
    )

    def shortening(key: Key) -> int:
        return int(before[key]["length"] - after[key]["length"])

    by_shortening = sorted(shared, key=shortening)
    middle = (len(shared) - 1) // 2
    picked: dict[Key, str] = {}

    def first(why: str, keys: list[Key], fits: Callable[[Key], bool] = lambda _: True) -> None:
        key = next((key for key in keys if key not in picked and fits(key)), None)
        if key is not None:
            picked[key] = why

    first("median shortening", by_shortening[middle:])
    first("largest shortening", by_shortening[::-1])
    first(
        "right before, wrong after",
        shared,
        lambda key: before[key]["match"] and not after[key]["match"],
    )
    first(
        "wrong before, right after",
        shared,
        lambda key: after[key]["match"] and not before[key]["match"],
    )
    return [(why, key) for key, why in picked.items()]
