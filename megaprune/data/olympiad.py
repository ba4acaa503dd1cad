"""OlympiadBench's answers (arXiv 2402.14008) as the grader `olympiad` takes them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from megaprune.errors import InputError

_SENTENCE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,} ")


def olympiad_gold(row: Mapping[str, Any], answer: str) -> str:
    """Write the answer of a row as the JSON text that `megaprune.grading.olympiad` takes.

    Several answers are split at the commas that stand in no bracket, unless words come between
    ("f(x) = ax, where a is an integer, ..."): then the whole is one answer. They have no order: the
    set does not say when they have one.

    Args:
        row: has is_multiple_answer, unit and error, as the set has them.
        answer: that of the row, or what this function made of it before.

    Raises:
        InputError: the row lacks a column.
    """
    if answer.startswith('{"answers":'):
        return answer
    for column in ("is_multiple_answer", "unit", "error"):
        if column not in row:
            raise InputError(
                f"it lacks the column {column}, without which its answers cannot be graded; it has "
                f"{', '.join(row)}"
            )
    gold = {
        "answers": _split(answer) if row["is_multiple_answer"] else [answer],
        "error": _text(row["error"]),
        "unit": _text(row["unit"]),
        "ordered": False,
    }
    return json.dumps(gold, ensure_ascii=False)


def _split(answer: str) -> list[str]:
    from megaprune.grading.equality import COMMA, split
    from megaprune.grading.normal import tidy

    if _SENTENCE.search(answer):
        return [answer]
    return split(tidy(answer), COMMA)


def _text(value: Any) -> str | None:
    return str(value).strip() or None if value is not None else None
