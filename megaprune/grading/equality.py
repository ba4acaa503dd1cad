"""Are two answers equal? Numbers, words, lists, tuples, sets; expressions by math-verify."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from megaprune.grading.normal import Unparsable, bare, number, split_unit, tidy, words

# No gold answer of the usual sets is a tenth of this; the LaTeX parser takes seconds for more.
MAX_LENGTH = 2000

# A decimal with as many places may stand for a fraction that it rounds.
ROUNDED_PLACES = 6


@lru_cache(maxsize=1 << 14)
def compare(gold: str, answer: str) -> str:
    """Compare two answers: "right", "wrong", "unparsable" or "gold unparsable", as in WHY.

    Texts that are alike are right whether or not they can be parsed. Numbers must be equal exactly,
    but a decimal of six places or more may round. A unit or percent sign that one of the two lacks
    does not matter; 50% is also 0.5. Lists and sets have no order, tuples have; (1, 2) is a pair
    or an interval, as the other is. Against a gold answer that is no equation, the last side of an
    equation counts. There is no time limit.
    """
    return reason(equal, gold, answer)


@lru_cache(maxsize=1 << 14)
def compare_loosely(gold: str, answer: str) -> str:
    """Compare as `compare` does, with ThinkPrune's tolerances (arXiv 2504.01296, released code).

    Numbers match to a relative 1e-4, also 100 times too large or too small; brackets need not be
    of a kind. Its list of 132 unit words, deleted wherever they stand, is not reproduced.
    """
    return reason(_equal_loosely, gold, answer)


def reason(equal: Callable[[str, str], bool], gold: str, answer: str) -> str:
    """Return what `compare` does, given an equality of tidy texts (True, False or Unparsable)."""
    if gold.strip() == answer.strip():
        return "right"
    if len(answer) > MAX_LENGTH:
        return "unparsable"
    gold, answer = tidy(gold), tidy(answer)
    try:
        return "right" if equal(gold, answer) else "wrong"
    except RecursionError:
        return "unparsable"
    except Unparsable as error:
        return (
            "gold unparsable" if str(error) in gold and str(error) not in answer else "unparsable"
        )


def equal(gold: str, answer: str) -> bool:
    """Say whether two tidy texts are equal; raises Unparsable if one cannot be understood."""
    if _close(gold) == _close(answer):
        return True
    gold, answer = _same_sides(gold, answer)
    if gold == answer:
        return True
    decided = _equal_shapes(shape_of(gold), shape_of(answer))
    return _equal_scalars(gold, answer) if decided is None else decided


def _equal_loosely(gold: str, answer: str) -> bool:
    if re.sub(r"[\s\\(){}\[\]]", "", gold) == re.sub(r"[\s\\(){}\[\]]", "", answer):
        return True
    a, b = (number(split_unit(text)[0].strip("()[]{}")) for text in (gold, answer))
    if a is None or b is None:
        return equal(gold, answer)
    return any(abs(b - near) <= max(abs(b), abs(near)) / 10**4 for near in (a / 100, a, a * 100))


def _close(text: str) -> str:
    """Remove the spaces that mean nothing; between digits they mean something."""
    return re.sub(r"(?<!\d) | (?!\d)", "", text)


@lru_cache(maxsize=1 << 14)
def normal_form(answer: str) -> str:
    """Return a text that plainly equal answers share: to count votes, not to judge.

    As `compare` reads them, without computer algebra: 1/2 and 0.5 share one, so do 1, 2 and 2, 1,
    but not 1+1 and 2. A unit is dropped, and so is the name in `x = 5`.
    """
    if len(answer) > MAX_LENGTH:
        return answer.strip()
    text = tidy(answer)
    sides = _sides(text)
    if len(sides) == 2 and _is_name(sides[0]):
        text = sides[1]
    shape = shape_of(text)
    if shape.kind in ("", r"\{\}"):
        return ",".join(sorted(map(_scalar_form, shape.parts)))
    return _scalar_form(text)


def _scalar_form(text: str) -> str:
    if words(text) is not None:
        return bare(text)
    value, unit = split_unit(text)
    value = text if unit == "%" else value
    exact = number(value)
    return _close(value) if exact is None else str(exact)


# Sides of equations.


def _same_sides(gold: str, answer: str) -> tuple[str, str]:
    """Return both without `x =` or `x in` where only one of them has it."""
    gold, answer = set_of(gold), set_of(answer)
    ours, theirs = _sides(gold), _sides(answer)
    if len(ours) == 1 and len(theirs) > 1:
        answer = theirs[-1]
    elif len(ours) > 1 and len(theirs) == 1 and _is_name(ours[0]):
        gold = ours[-1]
    return gold, answer


def set_of(text: str) -> str:
    """Return the set in `x in A`, and the condition in the set of all x with it."""
    text = re.sub(r"^[^=<>]*\\in(?![a-zA-Z])\s*", "", text)
    return re.sub(r"^\\\{ ?[a-zA-Z] ?(?:\||:|\\mid(?![a-zA-Z])) ?([^{}]*)\\\}$", r"\1", text)


def _sides(text: str) -> list[str]:
    """Return the sides of an equation; of several, with commas between them, the whole."""
    if len(split(text, COMMA)) > 1:
        return [text]
    return [side.strip() for side in split(text, _EQUALS)]


_NAME = re.compile(
    r"(?:\\?[A-Za-z]+'?|\\angle[A-Z ']+)(?:_(?:\w+|\{ ?\\?\w+ ?\}))?(?:\([^=]*\))?|\([A-Za-z, ]+\)"
    r"|\\text\{.*\}"
)


def _is_name(side: str) -> bool:
    return _NAME.fullmatch(side) is not None


# Lists, tuples, intervals, sets.

COMMA = re.compile(r"[,;]")
_EQUALS = re.compile(r"(?<![<>!])=")
_UNION = re.compile(r"\\cup(?![a-zA-Z])")
_BRACKET = re.compile(r"\\[{}]|\\\\|[({\[\])}]")
_OPENS = ("(", "[", "{", r"\{")


@dataclass(frozen=True)
class AnswerShape:
    """An answer as a list, tuple, interval, set or union of parts, or as a scalar without parts."""

    kind: str
    """Two brackets; "" for a list without; "cup" for a union; "scalar" if there are no parts."""

    parts: tuple[str, ...]


def shape_of(text: str) -> AnswerShape:
    """Return the brackets and parts of a tidy text."""
    if r"\begin" in text or number(text) is not None:
        return AnswerShape("scalar", (text,))
    if len(parts := split(text, _UNION)) > 1:
        return AnswerShape("cup", tuple(parts))
    if len(parts := split(text, COMMA)) > 1:
        return AnswerShape("", tuple(parts))
    for opening in (r"\{", "(", "["):
        if not text.startswith(opening) or not _encloses(text, len(opening)):
            continue
        closing = r"\}" if text.endswith(r"\}") else text[-1]
        inside = split(text[len(opening) : -len(closing)], COMMA)
        if len(inside) > 1 or opening == r"\{":
            return AnswerShape(opening + closing, tuple(inside))
    return AnswerShape("scalar", (text,))


def _equal_shapes(gold: AnswerShape, answer: AnswerShape) -> bool | None:
    """Compare part by part; None if either must be understood as a whole."""
    kinds = {gold.kind, answer.kind}
    if "scalar" in kinds:
        return None
    if "cup" in kinds:
        return True if len(kinds) == 1 and _equal_unordered(gold.parts, answer.parts) else None
    if kinds <= {"", r"\{\}"}:
        return _equal_unordered(gold.parts, answer.parts)
    if kinds != {"", "()"} and len(kinds) > 1:
        return False
    pairs = zip(gold.parts, answer.parts, strict=False)
    return len(gold.parts) == len(answer.parts) and all(equal(a, b) for a, b in pairs)


def _equal_unordered(gold: tuple[str, ...], answer: tuple[str, ...]) -> bool:
    left = list(answer)
    for part in gold:
        for other in left:
            if equal(part, other):
                left.remove(other)
                break
        else:
            return False
    return not left


def split(text: str, separator: re.Pattern[str]) -> list[str]:
    """Split a text at the separators that stand in no bracket."""
    if not separator.search(text):
        return [text]
    depths = _depths(text)
    cuts = [match.span() for match in separator.finditer(text) if depths[match.start()] == 0]
    begins = [0, *(end for _, end in cuts)]
    ends = [*(begin for begin, _ in cuts), len(text)]
    return [text[begin:end].strip() for begin, end in zip(begins, ends, strict=True)]


def _encloses(text: str, begin: int) -> bool:
    """Say whether the bracket that opens the text closes at its end."""
    depths = _depths(text)
    last = len(text) - (2 if text.endswith(r"\}") else 1)
    return text[last:] in (")", "]", r"\}") and 0 not in depths[begin:last]


def _depths(text: str) -> list[int]:
    """Count the brackets around each character; those of an interval need not be of a kind."""
    depths: list[int] = []
    depth = end = 0
    for bracket in _BRACKET.finditer(text):
        depths += [depth] * (bracket.end() - end)
        end = bracket.end()
        if bracket[0] != r"\\":
            depth += 1 if bracket[0] in _OPENS else -1
    return depths + [depth] * (len(text) - end)


# What has no parts.


def _equal_scalars(gold: str, answer: str) -> bool:
    if words(gold) is not None or words(answer) is not None:
        return bare(gold) == bare(answer)
    (a, unit_a), (b, unit_b) = split_unit(gold), split_unit(answer)
    if (unit_a == "%") != (unit_b == "%"):
        return _equal_values(a, b) or _equal_values(_part(a, unit_a), _part(b, unit_b))
    if unit_a != unit_b and {unit_a, unit_b}.isdisjoint({"", "?"}):
        return False
    return _equal_values(*_same_bases(a, b))


def _part(value: str, unit: str) -> str:
    """Write a percentage as a fraction of 1."""
    if unit != "%":
        return value
    exact = number(value)
    return rf"\frac{{{value}}}{{100}}" if exact is None else str(exact / 100)


def _same_bases(a: str, b: str) -> tuple[str, str]:
    """Return both without the subscript that names a number's base, if only one has it.

    The LaTeX parser drops subscripts of numbers: 11_2 would equal 11_3.
    """
    bases = [re.fullmatch(r"\(?(\w+?)\)?_\{?(?:\\text\{)?(\w+)\}*", text) for text in (a, b)]
    digits = [
        match[1] if match and match[1].isalnum() else text
        for match, text in zip(bases, (a, b), strict=True)
    ]
    if bases[0] and bases[1] and bases[0][2] != bases[1][2]:
        return a.replace("_", "x"), b.replace("_", "x")
    return digits[0], digits[1]


def _equal_values(gold: str, answer: str) -> bool:
    a, b = number(gold), number(answer)
    if a is not None and b is not None:
        return a == b or _rounds(gold, a, b) or _rounds(answer, b, a)
    if _close(gold) == _close(answer):
        return True
    from megaprune.grading.symbolic import symbolically_equal

    return symbolically_equal(gold, answer)


def _rounds(text: str, decimal: Fraction, exact: Fraction) -> bool:
    """Say whether `text` rounds `exact`, which never ends as a decimal, to enough places."""
    places = len(text.rpartition(".")[2]) if re.fullmatch(r"-?\d*\.\d+", text) else 0
    if places < ROUNDED_PLACES or 10**places % exact.denominator == 0:
        return False
    return round(exact, places) == decimal
