"""Are two expressions equal? By exact arithmetic where both are exact, else by their values.

Values are computed at two precisions, with numbers of our choice in place of the variables. What is
zero shrinks with the precision; what is only small does not, however small it is. So nothing is
rounded off. What would take too long, as a power of a power of a power, raises Unparsable.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import mpmath
from mpmath import mp

from megaprune.grading.exact import TooLarge, rational
from megaprune.grading.expression import parse
from megaprune.grading.functions import FUNCTIONS, is_real, of_unknown
from megaprune.grading.nodes import INFINITY, Node, names, operations
from megaprune.grading.normal import Unparsable, word_set

# A decimal with as many places may stand for a value that it rounds.
ROUNDED_PLACES = 6

MAX_SERIES = 1000  # terms
MAX_STEPS = 10_000  # operations
MAX_EXTENT = 3000  # digits

LOW, HIGH = 40, 160
"""The two precisions, in decimal digits."""

MORE_WHOLE = 24
ENOUGH = 2
"""Of the points with real values, so many must agree."""

IMAGINARY = "i"
_WHOLE = word_set("floor ceil mod fact fact2 binom gcd lcm sum prod")
_COUNTS = frozenset("ijklmnpqNMKd")
"""Names of whole numbers, by custom."""


def equal_expressions(gold: str, answer: str, factor: Fraction = Fraction(1)) -> bool:
    """Say whether answer times factor equals gold, as tidy LaTeX; raises Unparsable."""
    a, b = parse(gold), parse(answer)
    if factor != 1:
        b = Node("mul", (b, Node("num", (factor,))))
    return equal_nodes(a, b)


def equal_nodes(a: Node, b: Node) -> bool:
    """Say whether two trees have the same value wherever they have one."""
    infinite = [_infinite(node) for node in (a, b)]
    if any(infinite):
        return infinite[0] == infinite[1]
    exact = [rational(node) for node in (a, b)]
    if exact[0] is not None and exact[1] is not None:
        return exact[0] == exact[1]
    return vanishes(Node("sub", (a, b)), imaginary=is_imaginary(a, b))


def is_imaginary(*nodes: Node) -> bool:
    """Say whether i is the imaginary unit in these: it is, unless j is a name beside it."""
    every = frozenset[str]().union(*map(names, nodes))
    return IMAGINARY in every and "j" not in every


def _infinite(node: Node) -> int:
    if node == INFINITY:
        return 1
    if node.op == "neg" and node.args[0] == INFINITY:
        return -1
    if "inf" in operations(node):
        raise Unparsable("\\infty")
    return 0


# Values at points.

Point = Mapping[str, Fraction]


def vanishes(node: Node, imaginary: bool) -> bool:
    """Say whether an expression is zero at every point where it has a real value.

    Where it has real values at fewer than ENOUGH points, its complex ones must be zero too.
    """
    variables = sorted(names(node) - ({IMAGINARY} if imaginary else set()) - {"e"})
    if not variables:
        return _is_zero(node, {}, imaginary) is True
    real = other = 0
    whole = bool(operations(node) & _WHOLE) or _has_alternating_sign(node)
    for point in _points(variables, whole):
        zero = _is_zero(node, point, imaginary)
        if zero is None:
            continue
        if zero is False:
            return False
        if zero == "complex":
            other += 1
        elif zero == "not":
            other -= 1000
        else:
            real += 1
    return real >= ENOUGH or real + other >= ENOUGH


def _has_alternating_sign(node: Node) -> bool:
    if node.op == "pow" and names(node.args[1]) and not names(node.args[0]):
        base = rational(node.args[0])
        if base is not None and base < 0:
            return True
    return any(_has_alternating_sign(part) for part in node.args if isinstance(part, Node))


def _points(variables: Sequence[str], whole: bool) -> list[Point]:
    """Return points of all signs and sizes; whole numbers for the names of such, if wanted."""
    chance = random.Random(len(variables))
    points: list[Point] = []
    for low, high, signs in (
        (0, 1, (1,)), (1, 4, (1,)), (4, 13, (1,)), (0, 1, (1, -1)), (1, 4, (1, -1)),
        (4, 13, (-1, 1)), (1, 9, (-1,)), (20, 60, (1,)),
    ):  # fmt: skip
        point: dict[str, Fraction] = {}
        for name in variables:
            value = Fraction(chance.randint(low * 997 + 1, high * 997 - 1), 997)
            if whole and name[:1] in _COUNTS:
                value = Fraction(chance.randint(2, 9) + 7 * (high > 4))
                point[name] = value
            else:
                point[name] = value * chance.choice(signs)
        points.append(point)
    if whole and any(name[:1] in _COUNTS for name in variables):
        # Whole numbers tell remainders apart.
        points += [
            {
                name: Fraction(chance.randint(1, 40)) if name[:1] in _COUNTS else points[0][name]
                for name in variables
            }
            for _ in range(MORE_WHOLE)
        ]
    return points


def _is_zero(node: Node, point: Point, imaginary: bool) -> bool | str | None:
    """Say whether a value is zero; "complex" or "not" where a part is not real; None: no value.

    With `imaginary`, all values count as real. The first of three passes finds how large and how
    small the values on the way are: both precisions are higher by as many digits.
    """
    sizes = []
    extra = 0
    for digits in (LOW, LOW, HIGH):
        with mp.workdps(digits + extra):
            state = _Values(point, imaginary)
            try:
                left = state.of(node.args[0]) if node.op == "sub" else state.of(node)
                right = state.of(node.args[1]) if node.op == "sub" else mpmath.mpf(0)
                value = left - right
            except TooLarge:
                if not point:
                    raise
                return None
            except (ZeroDivisionError, ValueError, OverflowError, mpmath.libmp.NoConvergence):
                if not point:
                    raise Unparsable("no value") from None
                return None
            if not mpmath.isfinite(value):
                return None
            sizes.append(abs(value))
            extra = state.extent
            plain = imaginary or not point or (is_real(left) and is_real(right))
            mixed = not plain and (is_real(left) or is_real(right))
    if mixed:
        return None
    zero = sizes[2] == 0 or (sizes[1] != 0 and sizes[2] < sizes[1] * mpmath.mpf(10) ** -_SHRINKS)
    zero = bool(zero or (sizes[1] == 0 and sizes[2] < mpmath.mpf(10) ** -(HIGH - LOW)))
    return zero if plain else ("complex" if zero else "not")


_SHRINKS = HIGH - LOW - 40
"""By so many digits the error of a zero shrinks, at least, from one precision to the other."""


class _Values:
    """The values of trees at a point, at mpmath's present precision."""

    def __init__(self, point: Point, imaginary: bool):
        self.point = {
            name: mpmath.mpf(value.numerator) / value.denominator for name, value in point.items()
        }
        self.imaginary = imaginary
        self.steps = 0
        self.extent = 0
        """How many digits the values so far are above or below 1, at most."""

    def of(self, node: Node) -> Any:
        """Return the value of a tree; raises Unparsable if it is too large."""
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise TooLarge("too many steps")
        value = self._value(node)
        if value and mpmath.isfinite(value):
            self.extent = max(self.extent, abs(int(mpmath.mag(value))) * 3 // 10)
            if self.extent > MAX_EXTENT:
                raise TooLarge("too large")
        return value

    def _value(self, node: Node) -> Any:
        op, args = node
        if op == "num":
            return mpmath.mpf(args[0].numerator) / args[0].denominator
        if op == "sym":
            return self.name(args[0])
        if op == "pi":
            return +mp.pi
        if op == "call":
            return of_unknown(args[0], [self.of(part) for part in args[1:]])
        if op in ("sum", "prod"):
            return self.series(node)
        if op == "inf":
            raise Unparsable("\\infty")
        if op in _WHOLE and (exact := rational(node)) is not None:
            return mpmath.mpf(exact.numerator) / exact.denominator
        values = [self.of(part) for part in args]
        if op == "add":
            return mpmath.fsum(values) if len(values) > 2 else values[0] + values[1]
        return FUNCTIONS[op](*values)

    def name(self, name: str) -> Any:
        if name in self.point:
            return self.point[name]
        if name == "e":
            return +mp.e
        if name == IMAGINARY and self.imaginary:
            return mpmath.mpc(0, 1)
        raise Unparsable(name)

    def series(self, node: Node) -> Any:
        variable, low, high, body = node.args
        first, last = self.of(low), self.of(high)
        if last - first > MAX_SERIES or first != int(first) or last != int(last):
            raise TooLarge("too many terms")
        total = mpmath.mpf(0 if node.op == "sum" else 1)
        before = self.point
        for value in range(int(first), int(last) + 1):
            self.point = before | {variable.args[0]: mpmath.mpf(value)}
            term = self.of(body)
            total = total + term if node.op == "sum" else total * term
        self.point = before
        return total


# Numbers that are not exact.

_PLACES = re.compile(r"[+-]? ?\d*\.(\d+)")


def rounds(decimal: str, exact: str) -> bool:
    """Say whether a decimal of enough places rounds a value that never ends as a decimal."""
    match = _PLACES.fullmatch(decimal)
    places = len(match[1]) if match else 0
    if not match or places < ROUNDED_PLACES or places > 100:
        return False
    node = parse(exact)
    value, given = rational(node), Fraction(decimal.replace(" ", ""))
    if value is not None:
        return 10**places % value.denominator != 0 and round(value, places) == given
    if names(node) - {"e"}:
        return False
    approximate = real_value(exact, places + 30)
    return approximate is not None and round(approximate, places) == given


def real_value(text: str, digits: int = LOW) -> Fraction | None:
    """Evaluate an expression; None if it is no finite real number; raises Unparsable."""
    node = parse(text)
    if (exact := rational(node)) is not None:
        return exact
    if names(node) - {"e"} or "inf" in operations(node):
        return None
    with mp.workdps(digits):
        try:
            value = _Values({}, False).of(node)
        except (ZeroDivisionError, ValueError, OverflowError):
            return None
        if not is_real(value) or not mpmath.isfinite(value):
            return None
        value = mpmath.re(value)
        sign, mantissa, exponent, _ = value._mpf_
        whole: Fraction = Fraction(int(mantissa)) * Fraction(2) ** int(exponent)
    return -whole if sign else whole


def proportion(a: Node, b: Node, imaginary: bool) -> int:
    """Return the sign of the constant that b is a multiple of a by; 0 if there is none."""
    variables = sorted((names(a) | names(b)) - ({IMAGINARY} if imaginary else set()) - {"e"})
    if not variables:
        return 0
    ratios = []
    for point in _points(variables, whole=False):
        with mp.workdps(HIGH):
            state = _Values(point, imaginary)
            try:
                x, y = state.of(a), state.of(b)
                if not (is_real(x) and is_real(y)):
                    continue
                ratios.append(mpmath.re(y) / mpmath.re(x))
            except (ZeroDivisionError, ValueError, OverflowError, TooLarge):
                continue
    if len(ratios) < ENOUGH or ratios[0] == 0:
        return 0
    with mp.workdps(HIGH):
        limit = abs(ratios[0]) * mpmath.mpf(10) ** -100
        same = all(abs(ratio - ratios[0]) <= limit for ratio in ratios)
    return (1 if ratios[0] > 0 else -1) if same else 0
