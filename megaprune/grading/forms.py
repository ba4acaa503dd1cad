"""Normal forms of answers: to count votes and find duplicates, not to judge."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from megaprune.grading import notations
from megaprune.grading.equality import MAX_LENGTH, MAX_NESTING, listed, sides, value_side
from megaprune.grading.normal import nesting, tidy
from megaprune.grading.numbers import number
from megaprune.grading.pool import Pool
from megaprune.grading.shapes import close, join_thousands, shape_of
from megaprune.grading.units import split_unit
from megaprune.grading.verdict import Verdict

_WHOLE = re.compile(r"-?\d{1,18}")


def normal_forms(answers: Iterable[str]) -> dict[str, str]:
    """Return the normal form of each answer, computed in a guarded worker.

    A form that cannot be had within the worker's limits is the answer itself. Whole numbers need no
    worker.
    """
    forms: dict[str, str] = {}
    others = []
    for answer in dict.fromkeys(answers):
        if _WHOLE.fullmatch(answer):
            forms[answer] = str(int(answer))
        else:
            others.append(answer)
    if others:
        with Pool({}, f"{__name__}:as_verdict") as pool:
            for answer in others:
                pool.submit(answer, "", "", answer, True)
            verdicts = pool.results()
        for answer in others:
            form = verdicts[answer].extracted
            forms[answer] = answer.strip() if form is None else form
    return forms


def as_verdict(gold: str, response: str, finished: bool) -> Verdict:
    """Give an answer's normal form as a grader's verdict, which is how a worker answers."""
    return Verdict(False, normal_form(response), "wrong")


@lru_cache(maxsize=1 << 14)
def normal_form(answer: str) -> str:
    """Return a text that plainly equal answers share. Its time is linear in the answer's length.

    As `compare` reads them, without arithmetic: 1/2 and 0.5 share one, so do 1, 2 and 2, 1, but not
    1+1 and 2. A unit is dropped, and so is the name in `x = 5`.
    """
    if len(answer) > MAX_LENGTH:
        return answer.strip()
    text = join_thousands(notations.unworded(tidy(listed(answer))))
    if nesting(text) > MAX_NESTING:
        return text
    text = value_side(sides(text))
    shape = shape_of(text)
    if shape.kind in ("", r"\{\}"):
        return ",".join(sorted(map(_scalar_form, shape.parts)))
    return _scalar_form(text)


def _scalar_form(text: str) -> str:
    if notations.is_prose(text):
        return notations.bare(text)
    value, unit = split_unit(text)
    value = text if unit.is_percent or not unit.spaced else value
    exact = number(value)
    return close(value) if exact is None else str(exact * unit.scale)
