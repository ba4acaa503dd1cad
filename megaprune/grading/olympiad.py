r"""Problems with several answers, units and tolerances, as OlympiadBench (2402.14008) has them.

Their gold is JSON text:

    {"answers": ["1.68", "0.45"], "error": "1e-2", "unit": "km", "ordered": false}

answers: all of them, one at least; a response must give all and no other.
error: how far a number may be off; null (or absent): it must be equal.
unit: of each answer; a response may leave it out; null (or absent): none.
ordered: the answers have an order; otherwise (or absent) they have none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import product

from megaprune.errors import InputError
from megaprune.grading.equality import equal, reason
from megaprune.grading.normal import tidy
from megaprune.grading.numbers import number
from megaprune.grading.shapes import COMMA, SIGNS, condition_of, shape_of, split, with_sign
from megaprune.grading.units import split_unit

_COMMA_SPACE = re.compile(r"[,;] ")  # of 1,000, 2,000


@dataclass(frozen=True)
class Gold:
    """A gold answer of this form; its texts are tidy, and its answers have the unit."""

    answers: tuple[str, ...]
    error: Fraction | None = None
    unit: str = ""
    ordered: bool = False


@lru_cache(maxsize=1 << 14)
def compare_all(gold: str, answer: str) -> str:
    """Compare as `equality.compare` does, with a gold answer of this module's form.

    Several answers have commas between them, or "and", or stand in a set or, in the gold answer's
    order, in a tuple. Each is equal to one of the gold answers as `compare` has it, or, with an
    error, a number within it, the ends included; \\pm stands for two. In all else the answers are
    one list.

    Raises:
        InputError: the gold answer has another form.
    """
    known = _read(gold)

    def all_equal(listed: str, text: str) -> bool:
        return _equal_lists(known, text) or (not known.ordered and equal(listed, text))

    return reason(all_equal, ", ".join(known.answers), answer)


def _read(text: str) -> Gold:
    try:
        content = json.loads(text)
        if not isinstance(content, dict) or not content.keys() <= _KINDS.keys():
            raise ValueError(f"expected an object of {', '.join(_KINDS)}")
        for key, (kind, default) in _KINDS.items():
            if not isinstance(content.setdefault(key, default), kind):
                raise ValueError(f"{key} is {content[key]!r}")
        answers = content["answers"]
        if not answers or not all(isinstance(answer, str) and answer.strip() for answer in answers):
            raise ValueError(f"answers is {answers!r}; expected texts")
        error = None if content["error"] is None else Fraction(content["error"])
        if error is not None and error <= 0:
            raise ValueError(f"error is {content['error']!r}; expected a number above 0")
    except (ValueError, ZeroDivisionError, RecursionError) as wrong:
        raise InputError(
            f"the gold answer {text!r} is not one for the grader olympiad ({wrong}); expected JSON "
            f'like {{"answers": ["1", "2"], "error": null, "unit": null, "ordered": false}}'
        ) from wrong
    unit = tidy(content["unit"] or "")
    texts = tuple(tidy(answer) + _ending(unit) for answer in answers)
    return Gold(texts, error, unit, content["ordered"])


_KINDS: dict[str, tuple[tuple[type, ...], object]] = {
    "answers": ((list,), None),
    "error": ((str, type(None)), None),
    "unit": ((str, type(None)), None),
    "ordered": ((bool,), False),
}
"""The types and the default of each key."""


def _equal_lists(gold: Gold, text: str) -> bool:
    for parts, in_order in _lists(condition_of(text)):
        if len(parts) != len(gold.answers):
            continue
        if gold.ordered or in_order:
            return all(_equal(gold, *pair) for pair in zip(gold.answers, parts, strict=True))
        return _one_to_one(gold.answers, parts, lambda known, part: _equal(gold, known, part))
    return False


def _lists(text: str) -> Iterator[tuple[Sequence[str], bool]]:
    """Yield the lists that a tidy text may be, and whether they are in order."""
    yield [text], False
    parts = split(text, COMMA)
    for tied in (True, False):
        yield [answer for part in parts for answer in _both_signs(part, tied)], False
    yield split(text, _COMMA_SPACE), False
    shape = shape_of(text)
    if shape.kind in (r"\{\}", "()"):
        yield shape.parts, shape.kind == "()"


def _both_signs(part: str, tied: bool) -> list[str]:
    r"""Return the answers in a part with \pm; tied: all its signs change together."""
    count = len(SIGNS.findall(part))
    if not 0 < count <= _MOST_SIGNS:
        return [part]
    choices = zip(*["+-"] * count, strict=True) if tied else product("+-", repeat=count)
    return [with_sign(part, *signs) for signs in choices]


_MOST_SIGNS = 4


def _one_to_one(
    left: Sequence[str], right: Sequence[str], matches: Callable[[str, str], bool]
) -> bool:
    """Say whether each of the left has a match of its own on the right (Kuhn's algorithm)."""
    partner: dict[int, int] = {}  # right -> left

    def pair(ours: int, tried: set[int]) -> bool:
        for theirs in range(len(right)):
            if theirs in tried or not matches(left[ours], right[theirs]):
                continue
            tried.add(theirs)
            if theirs not in partner or pair(partner[theirs], tried):
                partner[theirs] = ours
                return True
        return False

    return all(pair(ours, set()) for ours in range(len(left)))


def _equal(gold: Gold, known: str, part: str) -> bool:
    part = _without(part, gold.unit)
    return equal(known, part) or (gold.error is not None and _near(known, part, gold.error))


def _without(text: str, unit: str) -> str:
    """Remove this unit from the end of a tidy text."""
    if not unit:
        return text
    written = re.escape(unit).replace(r"\ ", " ?")
    return re.sub(rf" ?(\\text\{{)? ?{written} ?(?(1)\}})$", "", text) or text


def _ending(unit: str) -> str:
    """Write the unit as it stands behind a number in a tidy text."""
    if power := re.fullmatch(r"([A-Za-z. ]+)\^ ?\{? ?([23]) ?\}?", unit):
        return rf"\text{{ {power[1]}}}^{power[2]}"
    return unit if unit[:1] in ("", "^", "%") else rf"\text{{ {unit}}}"


def _near(known: str, part: str, error: Fraction) -> bool:
    (exact, unit_a), (given, unit_b) = split_unit(known), split_unit(part)
    if unit_a.conflicts(unit_b):
        return False
    a, b = _value(exact), _value(given)
    return a is not None and b is not None and abs(a - b) <= error


def _value(text: str) -> Fraction | None:
    exact = number(text)
    if exact is not None:
        return exact
    from megaprune.grading.values import real_value

    return real_value(text)
