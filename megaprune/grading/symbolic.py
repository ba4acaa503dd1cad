"""Equality of expressions, by math-verify. Importing this imports sympy (half a second).

Texts go through the LaTeX parser alone: sympy's own parser runs what it reads as Python. Neither
step has a time limit here: whoever calls bounds the process.
"""

from __future__ import annotations

import logging
from functools import lru_cache

from latex2sympy2_extended import NormalizationConfig, latex2sympy
from math_verify import verify
from math_verify.grader import should_treat_as_complex
from sympy import Basic, Expr, MatrixBase

from megaprune.grading.normal import Unparsable

# They warn that their time limits, which need the main thread's SIGALRM, are off.
logging.getLogger("math_verify").setLevel(logging.ERROR)

# Boxes and units are read before; "all" would merge two boxes into a set, and drop single letters.
_NORMAL = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="none"
)


def symbolically_equal(gold: str, answer: str) -> bool:
    """Say whether two LaTeX expressions are equal; raises Unparsable.

    A decimal number equals an irrational one if they agree to six decimals.
    """
    return bool(
        verify(
            parse(gold),
            parse(answer),
            float_rounding=6,
            allow_set_relation_comp=True,
            timeout_seconds=None,
        )
    )


def real_value(text: str) -> float | None:
    """Evaluate a LaTeX expression; None if it is no finite real number; raises Unparsable."""
    parsed = parse(text)
    value = parsed.evalf() if isinstance(parsed, Expr) else None
    return float(value) if value is not None and value.is_number and value.is_finite else None


# The parser's time grows with its square, and no answer comes near.
MAX_NESTING = 40


@lru_cache(maxsize=4096)
def parse(text: str) -> Basic | MatrixBase:
    """Parse a LaTeX expression; raises Unparsable."""
    if _nesting(text) > MAX_NESTING:
        raise Unparsable(text)
    try:
        parsed = latex2sympy(
            text, is_real=not should_treat_as_complex(text), normalization_config=_NORMAL
        )
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - the parser raises bare Exceptions, sympy any kind
        raise Unparsable(text) from error
    if not isinstance(parsed, (Basic, MatrixBase)):
        raise Unparsable(text)
    return parsed


def _nesting(text: str) -> int:
    depth = deepest = 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        deepest = max(deepest, depth)
    return deepest


def warm_up() -> None:
    """Build the parser's tables, which would otherwise cost the first answers a second."""
    for text in (r"\frac{1}{2}+\sqrt{3}\pi", r"x^{2}-2x+1", r"(1,2]\cup\{3\}", r"2x\le 5", "y=3x"):
        symbolically_equal(text, text)
    symbolically_equal(r"\sqrt{8}x+1", r"2\sqrt{2}x+1")
