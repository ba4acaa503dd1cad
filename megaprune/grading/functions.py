"""Functions and operations on mpmath's numbers; what is too large for them raises Unparsable."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from math import gcd, lcm
from typing import Any

import mpmath
from mpmath import mp

from megaprune.grading.exact import TooLarge


def is_real(value: Any) -> bool:
    """Say whether a number has no imaginary part but for rounding."""
    return (
        not isinstance(value, mpmath.mpc) or abs(value.imag) <= abs(value) * mpmath.mpf(10) ** -30
    )


def of_unknown(name: str, values: Sequence[Any]) -> Any:
    """Return a number that depends on a function's name and arguments alone."""
    key = name + ",".join(mpmath.nstr(value, 25) for value in values)
    return mpmath.mpf(zlib.crc32(key.encode()) + 1) / 2**31


def _raise(base: Any, exponent: Any) -> Any:
    if base == 0:
        if mpmath.re(exponent) <= 0 and exponent != 0:
            raise ZeroDivisionError
        return mpmath.mpf(exponent == 0)
    size = abs(exponent) * (abs(mpmath.log(abs(base), 2)) + 1)
    if size > 1e7:
        raise TooLarge("too large")
    if isinstance(base, mpmath.mpf) and base < 0 and isinstance(exponent, mpmath.mpf):
        if exponent == int(exponent):
            return base ** int(exponent)
        # The real root of odd order, where the exponent is a fraction of one.
        near = Fraction(str(mpmath.nstr(exponent, 30))).limit_denominator(99)
        if near.denominator % 2 and abs(
            exponent - mpmath.mpf(near.numerator) / near.denominator
        ) < (mpmath.mpf(10) ** -28):
            return (-1) ** near.numerator * (-base) ** exponent
    return base**exponent


def _nth_root(index: Any, value: Any) -> Any:
    if index == 2:
        return mpmath.sqrt(value)
    if index == 0:
        raise ZeroDivisionError
    return _raise(value, 1 / index)


def _angle(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def of(value: Any) -> Any:
        if abs(value) > 1e20:
            raise TooLarge("too large")
        return function(value)

    return of


def _small(function: Callable[..., Any]) -> Callable[..., Any]:
    def of(*values: Any) -> Any:
        if any(abs(value) > 1e5 for value in values):
            raise TooLarge("too large")
        return function(*values)

    return of


_SURE = 10**20
"""Whole numbers up to here are exact at the lower precision."""


def _integers(function: Callable[..., int]) -> Callable[..., Any]:
    def of(*values: Any) -> Any:
        if any(isinstance(value, mpmath.mpc) or value != int(value) for value in values):
            raise ValueError
        if any(abs(value) > _SURE for value in values):
            raise TooLarge("too large")
        return mpmath.mpf(function(*map(int, values)))

    return of


def _real(function: Callable[..., Any]) -> Callable[..., Any]:
    def of(*values: Any) -> Any:
        if not all(map(is_real, values)):
            raise ValueError
        if any(abs(value) > _SURE for value in values):
            raise TooLarge("too large")
        return function(*(mpmath.re(value) for value in values))

    return of


def _nearly_whole(value: Any) -> Any:
    near = mpmath.nint(value)
    return near if abs(value - near) < mpmath.mpf(10) ** -30 else value


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "sub": lambda a, b: a - b,
    "neg": lambda a: -a,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "pow": _raise,
    "root": _nth_root,
    "log": lambda base, value: mpmath.log(value) / mpmath.log(base),
    "degrees": lambda value: value * mp.pi / 180,
    "abs": abs,
    "floor": _real(lambda value: mpmath.floor(_nearly_whole(value))),
    "ceil": _real(lambda value: mpmath.ceil(_nearly_whole(value))),
    "fact": _small(mpmath.factorial),
    "fact2": _small(mpmath.fac2),
    "binom": _small(mpmath.binomial),
    "mod": _real(lambda a, b: a - b * mpmath.floor(a / b)),
    "gcd": _integers(gcd),
    "lcm": _integers(lcm),
    "max": _real(max),
    "min": _real(min),
    **{
        name: _angle(getattr(mpmath, name.replace("arc", "a")))
        for name in (
            "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "arccot",
        )
    },
    **{name: _small(getattr(mpmath, name)) for name in ("sinh", "cosh", "tanh")},
}  # fmt: skip
