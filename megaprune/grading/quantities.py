"""Values with units, relations, and expressions: what has no parts."""

from __future__ import annotations

import re
from fractions import Fraction

from megaprune.grading.numbers import number
from megaprune.grading.shapes import RELATION, close, encloses, separators, split
from megaprune.grading.units import NO_UNIT, RADIAN, Unit, split_unit


def equal_scalars(gold: str, answer: str) -> bool:
    """Compare relations, quantities or expressions; raises Unparsable."""
    if (decided := equal_relations(gold, answer)) is not None:
        return decided
    (a, ours), (b, theirs) = split_unit(_inside(gold)), split_unit(_inside(answer))
    if not ours.sure and not theirs.sure:
        # Plain letters behind both: one formula, or one unit.
        return equal_values(gold, answer) or _equal_quantities(a, ours, b, theirs)
    if not ours.sure and theirs is NO_UNIT:
        return equal_values(gold, answer)
    if ours is NO_UNIT and not theirs.sure and (not theirs.spaced or _LETTER.search(gold)):
        return equal_values(gold, answer)
    return _equal_quantities(a, ours, b, theirs)


def _inside(text: str) -> str:
    """Remove brackets around the whole: (5 cm)."""
    if text.startswith("(") and text.endswith(")") and encloses(text, 1):
        return text[1:-1].strip()
    return text


_LETTER = re.compile(r"(?<![\\A-Za-z])[A-Za-z](?![A-Za-z])")


def _equal_quantities(a: str, ours: Unit, b: str, theirs: Unit) -> bool:
    if ours.conflicts(theirs):
        degrees = ours.is_degree or theirs.is_degree
        if not (degrees and RADIAN in (ours.dimension, theirs.dimension)):
            return False
    factor = Fraction(theirs.scale) / ours.scale
    if ours.is_percent != theirs.is_percent:
        return equal_values(a, b, factor) or equal_values(_part(a, ours), _part(b, theirs), factor)
    if ours.is_degree != theirs.is_degree:
        return _equal_degrees(a, ours, b, theirs)
    if ours.known and theirs.known:
        factor *= theirs.size / ours.size
    return equal_values(a, b, factor)


def _equal_degrees(a: str, ours: Unit, b: str, theirs: Unit) -> bool:
    """Compare degrees with radians, or with a number that may be either."""
    other = theirs if ours.is_degree else ours
    bare_numbers = other.dimension != RADIAN and equal_values(a, b)
    as_radians = [
        rf"({text}) \cdot \frac{{\pi}}{{180}}" if unit.is_degree else text
        for text, unit in ((a, ours), (b, theirs))
    ]
    return bare_numbers or equal_values(as_radians[0], as_radians[1])


def _part(value: str, unit: Unit) -> str:
    """Write a percentage as a fraction of 1."""
    if not unit.is_percent:
        return value
    exact = number(value)
    return rf"\frac{{{value}}}{{100}}" if exact is None else str(exact / 100)


def equal_relations(gold: str, answer: str) -> bool | None:
    """Compare equations, and inequalities of several variables; None if neither is one."""
    ours, theirs = separators(gold, RELATION), separators(answer, RELATION)
    if not ours and not theirs:
        return None
    from megaprune.grading import relations

    return relations.equal_relations(split(gold, RELATION), ours, split(answer, RELATION), theirs)


def equal_values(gold: str, answer: str, factor: Fraction = Fraction(1)) -> bool:
    """Say whether answer times factor equals gold; raises Unparsable."""
    a, b = number(gold), number(answer)
    from megaprune.grading import values

    if a is not None and b is not None:
        b *= factor
        return a == b or (
            factor == 1
            and (values.rounds(gold, _exact(answer, b)) or values.rounds(answer, _exact(gold, a)))
        )
    if factor == 1:
        if close(gold) == close(answer):
            return True
        for decimal, other in ((gold, answer), (answer, gold)):
            if number(decimal) is not None and "." in decimal and values.rounds(decimal, other):
                return True
    return values.equal_expressions(
        _exact(gold, a), _exact(answer, b if factor == 1 else None), factor
    )


def _exact(text: str, value: Fraction | None) -> str:
    """Write a plain number so that the parser has its value, as of 0.(3)."""
    if value is None:
        value = number(text)
    return text if value is None else f"({value.numerator})/({value.denominator})"
