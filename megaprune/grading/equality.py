"""Are two answers equal? Numbers, words, lists, tuples, sets, expressions, relations, matrices."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import lru_cache

from megaprune.grading import notations
from megaprune.grading.normal import Unparsable, nesting, tidy
from megaprune.grading.numbers import number
from megaprune.grading.quantities import equal_relations, equal_scalars
from megaprune.grading.shapes import (
    EQUALS,
    RELATION,
    SIGNS,
    AnswerShape,
    Matrix,
    close,
    condition_of,
    interval_of,
    join_thousands,
    matrix_of,
    members,
    separators,
    shape_of,
    signed,
    split,
)
from megaprune.grading.units import split_unit

# No gold answer of the usual sets is a tenth of this.
MAX_LENGTH = 2000
MAX_NESTING = 60
"""Of brackets."""


@lru_cache(maxsize=1 << 14)
def compare(gold: str, answer: str) -> str:
    """Compare two answers: "right", "wrong", "unparsable" or "gold unparsable", as in WHY.

    Texts that are alike are right whether or not they can be parsed. Numbers must be equal exactly,
    but a decimal of six places or more may round. A unit or percent sign that one of the two lacks
    does not matter; 50% is also 0.5, and 3 hours are 180 minutes. Lists and sets have no order,
    tuples have; (1, 2) is a pair or an interval, as the other is. Against a gold answer that is no
    equation, the last side of an equation counts. A gold answer that is a JSON list of texts is a
    list. There is no time limit.
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
    gold, answer = tidy(listed(gold)), tidy(answer)
    if nesting(answer) > MAX_NESTING:
        return "unparsable"
    try:
        return "right" if equal(gold, answer) else "wrong"
    except RecursionError:
        return "unparsable"
    except Unparsable as error:
        return (
            "gold unparsable" if str(error) in gold and str(error) not in answer else "unparsable"
        )


def listed(gold: str) -> str:
    """Return a gold answer that is a JSON list of texts, as ["1", "2"], as a list with semicolons.

    A list of numbers, as [1, 2], stays: it may be an interval.
    """
    if not re.match(r'\s*\[\s*"', gold):
        return gold
    try:
        parts = json.loads(gold)
    except (ValueError, RecursionError):
        return gold
    if not all(isinstance(part, str) for part in parts):
        return gold
    return joined(parts)


def joined(parts: Sequence[str]) -> str:
    """Write a list as one text, with semicolons if a member has commas of its own."""
    return ("; " if any("," in part for part in parts) else ", ").join(parts)


def equal(gold: str, answer: str) -> bool:
    """Say whether two tidy texts are equal; raises Unparsable if one cannot be understood."""
    if close(gold) == close(answer):
        return True
    gold, answer = (join_thousands(notations.unworded(text)) for text in (gold, answer))
    if (decided := notations.equal_notations(gold, answer, equal)) is not None:
        return decided
    named = gold, answer
    gold, answer = _same_sides(gold, answer)
    if gold == answer or _same_left_sides(gold, answer) or _equal_mixed(gold, answer):
        return True
    if named != (gold, answer):
        decided = notations.equal_notations(gold, answer, equal)
        if decided is not None:
            return decided
    if (decided := _equal_sets(gold, answer)) is not None:
        return decided
    if (decided := _equal_matrices(gold, answer)) is not None:
        return decided
    decided = _equal_shapes(_shape(gold), _shape(answer))
    if not decided and (groups := _groups(gold)):
        shape = _shape(answer)
        parts = _groups(answer) or (shape.parts if shape.kind != "()" else ())
        if _equal_unordered(groups, parts):
            return True
    return equal_scalars(gold, answer) if decided is None else decided


def _equal_mixed(gold: str, answer: str) -> bool:
    """Say whether one is a mixed number with "and" in it, 2 and 1/2, and equals the other."""
    return any(
        (value := number(other)) is not None and notations.mixed(text) == str(value)
        for text, other in ((answer, gold), (gold, answer))
    )


def _equal_loosely(gold: str, answer: str) -> bool:
    if re.sub(r"[\s\\(){}\[\]]", "", gold) == re.sub(r"[\s\\(){}\[\]]", "", answer):
        return True
    a, b = (number(split_unit(text)[0].strip("()[]{}")) for text in (gold, answer))
    if a is None or b is None:
        return equal(gold, answer)
    return any(abs(b - near) <= max(abs(b), abs(near)) / 10**4 for near in (a / 100, a, a * 100))


# Sides of equations.


def _same_sides(gold: str, answer: str) -> tuple[str, str]:
    """Return both without `x =` or `x in` where only one of them has it."""
    gold, answer = condition_of(gold), condition_of(answer)
    ours, theirs = sides(gold), sides(answer)
    if len(ours) == 1 and len(theirs) > 1:
        turned = _is_name(theirs[-1]) and not _is_name(theirs[0]) and not _is_name(gold)
        answer = theirs[0] if turned else theirs[-1]
    elif len(ours) > 1 and len(theirs) == 1 and _is_name(ours[0]):
        gold = ours[-1]
    elif len(ours) > 2 and len(theirs) > 1 and _is_name(ours[0]):
        gold, answer = f"{ours[0]}={ours[-1]}", f"{theirs[0]}={theirs[-1]}"
    elif len(ours) == 2 and len(theirs) > 2 and _is_name(theirs[0]):
        answer = f"{theirs[0]}={theirs[-1]}"
    return gold, answer


def _same_left_sides(gold: str, answer: str) -> bool:
    """Say whether two equations have one left side, and equal right sides: x = 3 h, x = 180 min."""
    ours, theirs = sides(gold), sides(answer)
    return (
        len(ours) == len(theirs) == 2
        and close(ours[0]) == close(theirs[0])
        and equal(ours[1], theirs[1])
    )


def sides(text: str) -> list[str]:
    """Return the sides of an equation; of several, with separators between them, the whole."""
    if len(members(text)) > 1 or separators(text, _INEQUALITY):
        return [text]
    return [side.strip() for side in split(text, EQUALS)]


def value_side(sides: Sequence[str]) -> str:
    """Return the value in `x = 5`; of other equations, the whole."""
    return sides[1] if len(sides) == 2 and _is_name(sides[0]) else "=".join(sides)


_INEQUALITY = re.compile(r"\\(?:le|ge|ne)(?![a-zA-Z])|[<>]")
_NAME = re.compile(
    r"(?:\\?[A-Za-z]+'?|\\angle[A-Z ']+)(?:_(?:\w+|\{ ?\\?\w+ ?\}))? ?(?:\([^=]*\))?"
    r"|\([A-Za-z, ]+\)|\\text\{.*\}|[A-Za-z]+(?: ?: ?[A-Za-z]+)+"
)


def _is_name(side: str) -> bool:
    return _NAME.fullmatch(side) is not None


# Sets of real numbers.


def _equal_sets(gold: str, answer: str) -> bool | None:
    """Compare sets of real numbers where one is written as such; None otherwise."""
    if not (_is_set(gold) or _is_set(answer)):
        return None
    from megaprune.grading.real_sets import RealSet, equal_sets, real_set

    if any(SIGNS.search(text) for text in (gold, answer)):
        return None
    gold, answer = condition_of(gold), condition_of(answer)
    sets: list[RealSet | None] = []
    for text in (gold, answer):
        try:
            sets.append(real_set(text))
        except Unparsable:
            # What is no set of numbers may have variables in its ends, or be a relation of several.
            if (decided := _equal_bounds(gold, answer)) is not None:
                return decided
            if (decided := equal_relations(gold, answer)) is not None:
                return decided
            raise
    if sets[0] is None or sets[1] is None:
        if (decided := _equal_bounds(gold, answer)) is not None:
            return decided
        return None if sets[0] is sets[1] else False
    try:
        return equal_sets(sets[0], sets[1])
    except Unparsable:
        return equal_relations(gold, answer)


def _equal_bounds(gold: str, answer: str) -> bool | None:
    """Compare the bounds of intervals whose ends have variables; None if they are no intervals."""
    a, b = interval_of(gold), interval_of(answer)
    if a is None or b is None:
        return None
    chains = [split(text, RELATION) for text in (gold, answer)]
    subjects = {close(chain[1]) for chain in chains if len(chain) == 3}
    return len(subjects) < 2 and _equal_shapes(a, b)


_SET = re.compile(r"\\(?:cup|cap|setminus|mathbb|emptyset|le|ge|ne|infty)(?![a-zA-Z])|[<>]")


def _is_set(text: str) -> bool:
    if not _SET.search(text):
        return False
    return "=" not in separators(text, RELATION)


# Lists, tuples, intervals, sets.


def _shape(text: str) -> AnswerShape:
    r"""Return the shape of a text, with both values of each part that has \pm."""
    shape = shape_of(text)
    if not SIGNS.search(text):
        return shape
    if shape.kind in ("", r"\{\}"):
        parts = tuple(value for part in shape.parts for value in signed(part))
        return AnswerShape(shape.kind, parts)
    if shape.kind in ("scalar", "()"):
        return AnswerShape("", tuple(signed(text)))
    return shape


def _groups(text: str) -> list[str]:
    """Return the parts of 100,200 where they may be a list of numbers of three digits."""
    return text.split(",") if re.fullmatch(r"\d{3}(?:,\d{3})+", text) else []


def _equal_shapes(gold: AnswerShape, answer: AnswerShape) -> bool | None:
    """Compare part by part; None if either must be understood as a whole."""
    kinds = {gold.kind, answer.kind}
    if "scalar" in kinds:
        if gold.kind == "scalar" and answer.kind == "" and len(answer.parts) > 1:
            # The same answer, given several times.
            return all(equal(gold.parts[0], part) for part in answer.parts)
        if kinds == {"scalar", r"\{\}"}:
            braces, scalar = (gold, answer) if gold.kind == r"\{\}" else (answer, gold)
            return scalar.parts[0] != r"\emptyset" and all(
                equal(part, scalar.parts[0]) for part in braces.parts
            )
        return None if kinds <= {"scalar", "cup"} else False
    if "cup" in kinds:
        return True if len(kinds) == 1 and _equal_unordered(gold.parts, answer.parts) else None
    if kinds == {""} and (ordered := _in_order_of_names(gold, answer)) is not None:
        return ordered
    if kinds <= {"", r"\{\}"}:
        return _equal_members(gold, answer)
    if kinds != {"", "()"} and len(kinds) > 1:
        return False
    if len(gold.parts) != len(answer.parts):
        return False
    parts = [
        _sorted_by_name(shape.parts) if shape.kind == "" else shape.parts
        for shape in (gold, answer)
    ]
    return all(equal(a, b) for a, b in zip(*parts, strict=True))


def _names(parts: Sequence[str]) -> list[str] | None:
    """Return the names that are set equal in each part, if they all differ."""
    pairs = [sides(part) for part in parts]
    if not all(len(pair) > 1 and _is_name(pair[0]) for pair in pairs):
        return None
    names = [pair[0].replace(" ", "") for pair in pairs]
    return names if len(set(names)) == len(names) else None


def _sorted_by_name(parts: Sequence[str]) -> Sequence[str]:
    names = _names(parts)
    return parts if names is None else [part for _, part in sorted(zip(names, parts, strict=True))]


def _in_order_of_names(gold: AnswerShape, answer: AnswerShape) -> bool | None:
    """Compare x=1, y=2 with 1, 2, whose members belong to the names in their order."""
    named = _names(gold.parts), _names(answer.parts)
    if (named[0] is None) == (named[1] is None):
        return None
    if len(gold.parts) != len(answer.parts):
        return False
    if any(len(name) > 1 and "_" not in name for name in named[0] or named[1] or ()):
        return None
    return all(equal(a, b) for a, b in zip(gold.parts, answer.parts, strict=True))


def _equal_members(gold: AnswerShape, answer: AnswerShape) -> bool:
    """Compare lists and sets: a set has its members once, and so may the answer to a list."""
    if _equal_unordered(gold.parts, answer.parts):
        return True
    if gold.kind != answer.kind or gold.kind == r"\{\}":
        return _covers(gold.parts, answer.parts) and _covers(answer.parts, gold.parts)
    if len(answer.parts) > len(gold.parts) and len(set(gold.parts)) == len(gold.parts):
        return _covers(gold.parts, answer.parts) and _covers(answer.parts, gold.parts)
    return False


def _covers(left: Sequence[str], right: Sequence[str]) -> bool:
    return all(any(equal(part, other) for other in left) for part in dict.fromkeys(right))


def _equal_unordered(gold: Sequence[str], answer: Sequence[str]) -> bool:
    if len(gold) != len(answer):
        return False
    left = list(answer)
    rest = []
    for part in gold:
        if part in left:
            left.remove(part)
        else:
            rest.append(part)
    for part in rest:
        for other in left:
            if equal(part, other):
                left.remove(other)
                break
        else:
            return False
    return not left


# Matrices and vectors.


def _equal_matrices(gold: str, answer: str) -> bool | None:
    a, b = matrix_of(gold), matrix_of(answer)
    if a is None and b is None:
        return None
    if a is None or b is None:
        matrix, other = (a, answer) if a else (b, gold)
        return matrix is not None and not matrix.bars and _is_written(matrix, shape_of(other))
    if a.bars != b.bars or list(map(len, a.rows)) != list(map(len, b.rows)):
        return False
    return all(
        equal(x, y)
        for ours, theirs in zip(a.rows, b.rows, strict=True)
        for x, y in zip(ours, theirs, strict=True)
    )


def _is_written(matrix: Matrix, shape: AnswerShape) -> bool:
    """Say whether brackets hold a matrix: a vector, or rows in brackets."""
    if shape.kind not in ("()", "[]"):
        return False
    if len(matrix.rows) > 1 and all(len(row) == 1 for row in matrix.rows):
        cells = [row[0] for row in matrix.rows]
        return len(cells) == len(shape.parts) and all(map(equal, cells, shape.parts))
    if len(matrix.rows) == 1:
        return len(matrix.rows[0]) == len(shape.parts) and all(
            map(equal, matrix.rows[0], shape.parts)
        )
    rows = [shape_of(part) for part in shape.parts]
    return len(rows) == len(matrix.rows) and all(
        row.kind == "[]" and len(row.parts) == len(cells) and all(map(equal, cells, row.parts))
        for cells, row in zip(matrix.rows, rows, strict=True)
    )
