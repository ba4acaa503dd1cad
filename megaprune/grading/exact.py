"""Exact arithmetic on trees of rational numbers; what is too large for it raises Unparsable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache
from math import comb, factorial, gcd, isqrt, lcm

from megaprune.grading.nodes import Node
from megaprune.grading.normal import Unparsable

MAX_BITS = 100_000
MAX_FACTORIAL = 2000


class TooLarge(Unparsable):
    """Raised for a value with too many digits, or one that takes too many steps."""


@lru_cache(maxsize=4096)
def rational(node: Node) -> Fraction | None:
    """Return the value of an expression of rational numbers; None if it may be another."""
    if node.op == "num":
        value = node.args[0]
        assert isinstance(value, Fraction)
        return value
    if node.op in ("sym", "call", "pi", "inf", "degrees", "sum", "prod") or node.op not in _EXACT:
        return None
    values = [rational(part) for part in node.args]
    if any(value is None for value in values):
        return None
    try:
        return _EXACT[node.op](*values)
    except ZeroDivisionError as error:
        raise Unparsable(node.op) from error


def _bounded(value: Fraction) -> Fraction:
    if value.numerator.bit_length() + value.denominator.bit_length() > MAX_BITS:
        raise TooLarge("too large")
    return value


def _power(base: Fraction, exponent: Fraction) -> Fraction | None:
    if exponent.denominator == 1:
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if base not in (0, 1, -1) and bits * abs(exponent) > MAX_BITS:
            raise TooLarge("too large")
        if base in (1, -1):
            return base if exponent % 2 else Fraction(1)
        return Fraction(base) ** int(exponent)
    return _root(Fraction(exponent.denominator), base, int(exponent.numerator))


def _root(index: Fraction, value: Fraction, power: int = 1) -> Fraction | None:
    """Return the root if it is rational; None otherwise."""
    if index.denominator != 1 or not 1 <= index <= 64 or (value < 0 and index % 2 == 0):
        return None
    n = int(index)
    over = _whole_root(abs(value.numerator), n)
    under = _whole_root(value.denominator, n)
    if over is None or under is None:
        return None
    root = Fraction(over, under)
    return _power(-root if value < 0 else root, Fraction(power))


def _whole_root(value: int, n: int) -> int | None:
    if value.bit_length() > 10_000:
        return None
    if n == 2:
        guess = isqrt(value)
    else:
        low, high = 0, 1 << (value.bit_length() // n + 1)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if middle**n <= value else (low, middle - 1)
        guess = low
    return guess if guess**n == value else None


def _factorial(value: Fraction) -> Fraction | None:
    if value.denominator != 1 or value < 0:
        return None
    if value > MAX_FACTORIAL:
        raise TooLarge("too large")
    return Fraction(factorial(int(value)))


def _double_factorial(value: Fraction) -> Fraction | None:
    if value.denominator != 1 or value < 0:
        return None
    if value > MAX_FACTORIAL:
        raise TooLarge("too large")
    product = 1
    for factor in range(int(value), 1, -2):
        product *= factor
    return Fraction(product)


def _binomial(n: Fraction, k: Fraction) -> Fraction | None:
    if n.denominator != 1 or k.denominator != 1 or n < 0 or k < 0:
        return None
    if n > 10 * MAX_FACTORIAL:
        raise TooLarge("too large")
    return Fraction(comb(int(n), int(k)))


def _whole(function: Callable[..., int]) -> Callable[..., Fraction | None]:
    def of(*values: Fraction) -> Fraction | None:
        if any(value.denominator != 1 for value in values):
            return None
        return Fraction(function(*map(int, values)))

    return of


def _sum(*values: Fraction) -> Fraction:
    return _bounded(sum(values, Fraction(0)))


_EXACT: Mapping[str, Callable[..., Fraction | None]] = {
    "add": _sum,
    "sub": lambda a, b: _bounded(a - b),
    "neg": lambda a: -a,
    "mul": lambda a, b: _bounded(a * b),
    "div": lambda a, b: _bounded(a / b),
    "pow": _power,
    "root": _root,
    "abs": abs,
    "floor": lambda a: Fraction(a.numerator // a.denominator),
    "ceil": lambda a: Fraction(-(-a.numerator // a.denominator)),
    "fact": _factorial,
    "fact2": _double_factorial,
    "binom": _binomial,
    "mod": lambda a, b: a % b,
    "gcd": _whole(gcd),
    "lcm": _whole(lcm),
    "max": max,
    "min": min,
}
