"""The tokens of a LaTeX expression: numbers, letters, commands, signs."""

from __future__ import annotations

import re
from collections.abc import Iterator

from megaprune.grading.normal import Unparsable, word_set

MAX_DIGITS = 5000

# Commands.

FUNCTIONS = word_set(
    """
    sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh exp ln log lg
    """
)
GREEK = word_set(
    """
    alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau
    upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega ell hbar
    mho emptyset triangle angle
    """
)
ACCENTS = word_set(
    """
    vec hat bar overline overrightarrow tilde dot mathbb mathcal mathscr mathfrak text
    """
)
OF_LISTS = frozenset(("gcd", "lcm", "max", "min"))


_TOKEN = re.compile(
    r" *(?P<num>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3}(?![\w.]))?)"
    r"| *(?P<cmd>\\(?:[A-Za-z]+|[{}|]))|(?P<let> *[A-Za-z]'*)|(?P<op> *[-+*/^_!()\[\]{}|%,:=])"
)
_BEFORE_TWO = frozenset(("_", r"\frac", r"\binom"))
_MIXED = re.compile(r" +(\d+) ?/ ?(\d+)")
_THOUSANDS = re.compile(
    r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])|(?<![\d.,])\d{1,3}(?: \d{3})+(?!\d)"
)


def tokens_of(text: str) -> Iterator[str]:
    """Yield the tokens of an expression; raises Unparsable.

    A mixed number, 2 1/2, has the token \\mixed in it; other numbers side by side are refused.
    """
    whole, text = text, _join_thousands(text.rstrip())
    place = 0
    before = ahead = ""
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise Unparsable(whole)
        token = match[0].strip()
        spaced = before[:1].isdigit() and token[0].isdigit() and match[0] != token
        if spaced and ahead not in _BEFORE_TWO:
            # Two numbers side by side are a mixed number, or nothing.
            mixed = _MIXED.match(text, place)
            if not mixed or not before.isdigit():
                raise Unparsable(whole)
            yield from ("\\mixed", mixed[1], mixed[2])
            place, before, ahead = mixed.end(), "", ""
            continue
        if len(token) > MAX_DIGITS:
            raise Unparsable(whole)
        yield token
        place, before, ahead = match.end(), token, before


def _join_thousands(text: str) -> str:
    return _THOUSANDS.sub(lambda match: re.sub("[, ]", "", match[0]), text)
