r"""Sets of real numbers: intervals, unions, inequalities, conditions, the real line.

Two sets are equal if the same points belong to them: every end of an interval of either, a point
between any two neighbours among those, and one beyond them. A set whose ends are not known, as that
of x^2 < 4, is tried at many points, and only against one whose ends are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import mpmath
from mpmath import mp

from megaprune.grading.expression import parse
from megaprune.grading.nodes import INFINITY, Node, names
from megaprune.grading.normal import Unparsable
from megaprune.grading.shapes import (
    AND,
    COMMA,
    OR,
    RELATION,
    UNION,
    condition_of,
    separators,
    shape_of,
    split,
)
from megaprune.grading.values import HIGH, _Values

_NEAR = 100  # digits
_LONGEST_CHAIN = 4
_MORE = 40  # points around the ends, for sets whose own ends are not known


@dataclass(frozen=True)
class RealSet:
    """A set of real numbers.

    Args:
        has: whether a number belongs to it.
        ends: where that may change.
        known: `ends` has them all.
        variable: the name in its condition; "" if it has none.
    """

    has: Callable[[Any], bool]
    ends: tuple[Any, ...]
    known: bool = True
    variable: str = ""


def equal_sets(gold: RealSet, answer: RealSet) -> bool:
    """Say whether two sets have the same points; raises Unparsable where that is not decided."""
    if gold.variable and answer.variable and gold.variable != answer.variable:
        return False
    if not (gold.known or answer.known):
        raise Unparsable("")
    with mp.workdps(HIGH):
        ends = sorted({*gold.ends, *answer.ends})
        points = list(ends)
        if not ends:
            points = [mpmath.mpf(value) for value in (-7, 0, 3)]
        else:
            points += [(a + b) / 2 for a, b in pairwise(ends)]
            points += [ends[0] - 1, ends[-1] + 1]
        if not (gold.known and answer.known):
            width = (ends[-1] - ends[0] if ends else 0) + 1
            points += [
                end + width * mpmath.mpf(step) / 997
                for end in (ends or [mpmath.mpf(0)])
                for step in (*range(-_MORE, _MORE), 7993, -7993, 99991, -99991)
            ]
        return all(gold.has(point) == answer.has(point) for point in points)


def real_set(text: str) -> RealSet | None:
    """Read a tidy text as a set of real numbers; None if it is not written as one.

    Raises:
        Unparsable: an end, or a side of an inequality, cannot be read.
    """
    with mp.workdps(HIGH):
        return _read(text.strip())


def _read(text: str) -> RealSet | None:
    text = condition_of(text)
    for separator, join in ((OR, any), (UNION, any), (AND, all), (_INTERSECTION, all)):
        if len(parts := split(text, separator)) > 1:
            return _joined([_read(part) for part in parts], join)
    if len(parts := split(text, COMMA)) > 1:
        conditions = all(map(_is_inequality, parts))
        return _joined([_read(part) for part in parts], all) if conditions else None
    if len(parts := split(text, _WITHOUT)) == 2:
        return _difference(*map(_read, parts))
    if re.fullmatch(r"\\mathbb\{R\}", text):
        return RealSet(lambda x: True, ())
    if text == r"\emptyset":
        return RealSet(lambda x: False, ())
    if _is_inequality(text):
        return _inequality(text)
    return _interval(text)


def _difference(whole: RealSet | None, without: RealSet | None) -> RealSet | None:
    if whole is None or without is None:
        return None
    return RealSet(lambda x: whole.has(x) and not without.has(x), whole.ends + without.ends)


_INTERSECTION = re.compile(r"\\cap(?![a-zA-Z])")
_WITHOUT = re.compile(r"\\(?:setminus|backslash)(?![a-zA-Z])")


def _is_inequality(text: str) -> bool:
    signs = separators(text, RELATION)
    return bool(signs) and "=" not in signs


def _joined(parts: Sequence[RealSet | None], join: Callable[..., bool]) -> RealSet | None:
    sets = [part for part in parts if part is not None]
    variables = {part.variable for part in sets if part.variable}
    if len(sets) < len(parts) or len(variables) > 1:
        return None
    return RealSet(
        lambda x: join(part.has(x) for part in sets),
        tuple(end for part in sets for end in part.ends),
        all(part.known for part in sets),
        min(variables, default=""),
    )


def _interval(text: str) -> RealSet | None:
    shape = shape_of(text)
    if shape.kind == r"\{\}":
        points = [_end(part) for part in shape.parts if part]
        if any(isinstance(point, int) for point in points):
            return None
        return RealSet(lambda x: any(_same(x, point) for point in points), tuple(points))
    if len(shape.parts) != 2 or len(shape.kind) != 2:
        return None
    low, high = map(_end, shape.parts)

    def has(x: Any) -> bool:
        above = low == -mpmath.inf or (_same(x, low) and shape.kind[0] == "[") or _less(low, x)
        below = high == mpmath.inf or (_same(x, high) and shape.kind[1] == "]") or _less(x, high)
        return bool(above and below)

    finite = tuple(end for end in (low, high) if mpmath.isfinite(end))
    closed = shape.kind.strip("()")
    backwards = low == mpmath.inf or high == -mpmath.inf or (len(finite) == 2 and _less(high, low))
    if (
        backwards
        or ("[" in closed and low == -mpmath.inf)
        or ("]" in closed and high == mpmath.inf)
    ):
        raise Unparsable(text)
    return RealSet(has, finite)


def _end(text: str) -> Any:
    node = parse(text)
    if node == INFINITY:
        return mpmath.inf
    if node == Node("neg", (INFINITY,)):
        return -mpmath.inf
    value = _value(node, {})
    if value is None:
        raise Unparsable(text)
    return value


def _value(node: Node, point: dict[str, Any]) -> Any:
    """Return a real value; None if there is none."""
    state = _Values({}, imaginary=False)
    state.point = point
    try:
        value = state.of(node)
    except (ZeroDivisionError, ValueError, OverflowError):
        return None
    return value if isinstance(value, mpmath.mpf) and mpmath.isfinite(value) else None


def _same(a: Any, b: Any) -> bool:
    return bool(abs(a - b) <= max(abs(a), abs(b)) * mpmath.mpf(10) ** -_NEAR)


def _less(a: Any, b: Any) -> bool:
    return bool(a < b) and not _same(a, b)


_HOLDS: dict[str, Callable[[Any, Any], bool]] = {
    "<": _less,
    ">": lambda a, b: _less(b, a),
    r"\le": lambda a, b: not _less(b, a),
    r"\ge": lambda a, b: not _less(a, b),
    r"\ne": lambda a, b: not _same(a, b),
}


def _inequality(text: str) -> RealSet | None:
    """Read a chain as 1 < 2x + 1 <= 5, in one variable."""
    sides, signs = split(text, RELATION), separators(text, RELATION)
    if len(signs) > _LONGEST_CHAIN:
        raise Unparsable(text)
    nodes = [parse(side) for side in sides]
    subjects = {node for node in nodes if node.op == "call"}
    variables = {name for node in nodes for name in names(node)} - {"e"}
    if subjects and len(subjects) == 1 and sum(bool(names(node)) for node in nodes) == 1:
        # f(x) between constants: its value is the variable.
        subject = subjects.pop()
        variable = sides[nodes.index(subject)].replace(" ", "")
        nodes = [Node("sym", (variable,)) if node == subject else node for node in nodes]
        variables = {variable}
    if len(variables) != 1:
        return None
    [name] = variables
    infinite = {INFINITY: mpmath.inf, Node("neg", (INFINITY,)): -mpmath.inf}

    def side(node: Node, x: Any) -> Any:
        return infinite[node] if node in infinite else _value(node, {name: x})

    def has(x: Any) -> bool:
        values = [side(node, x) for node in nodes]
        if any(value is None for value in values):
            return False
        return all(_HOLDS[sign](a, b) for sign, (a, b) in zip(signs, pairwise(values), strict=True))

    ends: list[Any] = []
    known = True
    for a, b in pairwise(nodes):
        if a in infinite or b in infinite:
            continue
        root = _root(Node("sub", (a, b)), name)
        known &= root is not None
        ends += [root] if root is not None and mpmath.isfinite(root) else []
    return RealSet(has, tuple(ends), known, name)


def _root(node: Node, name: str) -> Any:
    """Return where an expression of the first degree is zero: inf if nowhere; None if it is not."""
    points = [Fraction(value) for value in (0, 1, 2, -3, 7)]
    values = [_value(node, {name: mpmath.mpf(point.numerator)}) for point in points]
    if any(value is None for value in values):
        return None
    slope = values[1] - values[0]
    if not all(
        abs(values[0] + slope * int(point) - value)
        <= (abs(value) + abs(slope) + 1) * mpmath.mpf(10) ** -120
        for point, value in zip(points, values, strict=True)
    ):
        return None
    return mpmath.inf if slope == 0 else -values[0] / slope
