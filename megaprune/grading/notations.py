"""Answers that are no arithmetic: choices, ratios, times, dates, numbers in a base, words."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TypeAlias

from megaprune.grading.numbers import base_of, in_words, number
from megaprune.grading.quantities import equal_values
from megaprune.grading.shapes import RELATION, members, split

# Choices.

_CHOICE = re.compile(
    r"(?:(?:option|choice|answer|statement|the answer is|选项?|答案?是?)[: ]*)?"
    r"(?:\((?P<brackets>[A-Z])\)|(?P<bare>[A-Z])(?P<end>[).:,]|$)|\[(?P<square>[A-Z])\])"
    r"[ .:]*(?P<rest>.*)",
    re.IGNORECASE,
)
_OTHER_CHOICE = re.compile(
    r"\([A-H]\)|(?<![A-Za-z])[A-H][.:)]|\\l(?:or|and)(?![a-zA-Z])|^[+\-*/^_=<>!,]"
    r"|\b(?:or|not|wrong|incorrect|false)\b|(?<![A-Za-z])[B-H](?![A-Za-z'])"
)


def choice_of(text: str) -> tuple[str, str] | None:
    """Return the letter of a choice and what follows it: "(D) 4" -> ("D", "4"); None if none."""
    plain = re.sub(r"\\text ?\{ ?([^{}]*)\}", r"\1", text).strip()
    match = _CHOICE.fullmatch(plain)
    if not match:
        return None
    letter = match["brackets"] or match["bare"] or match["square"]
    rest = match["rest"].strip()
    if not letter.isupper() or (rest and _OTHER_CHOICE.search(rest)):
        return None
    if match["end"] == "," and rest:
        return None
    return letter, rest


def is_letter(text: str) -> bool:
    """Say whether a gold answer is the letter of a choice and no more."""
    return re.fullmatch(r"\(?(?:\\text ?\{ ?)?\(?[A-Z]\)?(?: ?\})?\)?", text) is not None


# Times, dates and ratios.

_TIME = re.compile(
    r"(?P<hour>\d{1,2}):(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d))? ?"
    r"(?:\\text ?\{ ?)?(?P<half>[ap]\.? ?m)?\.?(?: ?\})?",
    re.IGNORECASE,
)
_DATE = re.compile(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})|(\d{1,2})[-/.](\d{1,2})[-/.](\d{4})")
_MONTHS = [
    "january", "february", "march", "april", "may", "june", "july", "august", "september",
    "october", "november", "december",
]  # fmt: skip
_WRITTEN = re.compile(
    r"(?:(?P<day>\d{1,2})(?:st|nd|rd|th)?(?: of)? )?(?P<month>[a-z]{3,9})\.?"
    r"(?: (?P<day2>\d{1,2})(?:st|nd|rd|th)?(?!\d))?(?:,? (?P<year>\d{4}))?"
)


def time_of(text: str) -> tuple[int, str] | None:
    """Return a time of day in seconds, and "am", "pm" or ""; None if it is none."""
    match = _TIME.fullmatch(text)
    if not match or int(match["hour"]) > 24:
        return None
    half = re.sub("[. ]", "", match["half"] or "").lower()
    hour = int(match["hour"])
    if half:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + 12 * (half == "pm")
    elif hour > 12:
        half = "pm"
    return 3600 * hour + 60 * int(match["minute"]) + int(match["second"] or 0), half


def same_time(a: tuple[int, str], b: tuple[int, str]) -> bool:
    """Say whether two times are equal; one without am or pm may be either."""
    if a[1] and b[1]:
        return a == b
    half_day = 12 * 3600
    return a[0] % half_day == b[0] % half_day


def date_of(text: str) -> tuple[int | None, int, int] | str | None:
    """Return year, month and day; the text itself where day and month may be either."""
    text = re.sub(r"^(\d{4})年 ?(\d{1,2})月 ?(\d{1,2})日?$", r"\1-\2-\3", text)
    if match := _DATE.fullmatch(text):
        if match[1]:
            return int(match[1]), int(match[2]), int(match[3])
        first, second, year = int(match[4]), int(match[5]), int(match[6])
        if first > 12 or second > 12:
            return year, min(first, second), max(first, second)
        return f"{first}/{second}/{year}"
    plain = re.sub(r"\\text|[{}]", "", text).strip().lower()
    if match := _WRITTEN.fullmatch(plain):
        months = [name for name in _MONTHS if name.startswith(match["month"])]
        day = match["day"] or match["day2"]
        if len(months) == 1 and day:
            return (
                int(match["year"]) if match["year"] else None,
                _MONTHS.index(months[0]) + 1,
                int(day),
            )
    return None


def ratio_of(text: str) -> list[str] | None:
    """Return the terms of a ratio, a:b or a:b:c; None if the text is none."""
    if RELATION.search(text):
        return None
    terms = split(text, re.compile(":"))
    if len(terms) < 2:
        worded = re.fullmatch(r"(\d+(?:\.\d+)?) ?(?:\\text ?\{ ?to ?\}|to) ?(\d+(?:\.\d+)?)", text)
        return [worded[1], worded[2]] if worded else None
    return terms if all(terms) else None


# Bases.

_BASED = re.compile(
    r"(?P<sign>-?) ?\(? ?(?P<digits>[0-9A-Fa-fG-Z ]+?) ?\)? ?"
    r"(?:_ ?(?:\{(?P<group>.+)\}|(?P<digit>\w))|,? ?(?:in )?base[ -](?P<word>\w+))"
)


def based_number(text: str) -> tuple[str, int] | None:
    """Return the digits, with their sign, and the base of a number such as 204_5."""
    plain = re.sub(r"\\text ?\{ ?([^{}]*)\}", r"\1", text)
    match = _BASED.fullmatch(" ".join(plain.split()))
    if not match:
        return None
    base = base_of(match["group"] or match["digit"] or match["word"] or "")
    digits = match["digits"].replace(" ", "").lstrip("0") or "0"
    if base is None or (base != 16 and re.search("[a-z]", digits)):
        return None
    if not re.search(r"\d", digits) and base <= 10:
        return None
    try:
        int(digits, base)
    except ValueError:
        return None
    return match["sign"] + digits.upper(), base


# Words.

_REWRITTEN = [
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in [
        (r"(?:the )?(?:set of )?(?:all|any) real(?: number)?s?(?: x)?|all reals", r"\\mathbb{R}"),
        (
            r"(?:there (?:is|are) )?no (?:real )?(?:solutions?|values?)|none|(?:the )?empty set",
            r"\\emptyset",
        ),
    ]
]


def unworded(text: str) -> str:
    """Write words that are mathematics so: seven, 5th, all real numbers, no solution."""
    plain = re.sub(r"\\text ?\{([^{}]*)\}", r"\1", text).strip()
    for pattern, replacement in _REWRITTEN:
        if pattern.fullmatch(plain):
            return re.sub(r"\\\\", r"\\", replacement)
    if behind := re.fullmatch(r"(.+?) (squared|cubed|factorial)", plain):
        value = number(unworded(behind[1]))
        if value is not None:
            return f"({value}){_OPERATIONS[behind[2]]}"
    value = in_words(plain.replace(r"\land", "and").replace("  ", " "))
    if value is not None:
        return str(value)
    ordinal = re.fullmatch(r"(\d+) ?\^? ?\{? ?(st|nd|rd|th) ?\}?", plain)
    if ordinal and ordinal[2] == _ending(int(ordinal[1][-2:])):
        return ordinal[1]
    if half := re.fullmatch(r"(\d+) \\land ((?:a|an|one|two|three) [a-z]+)", plain):
        part = in_words(half[2])
        if part is not None and part < 1:
            return str(int(half[1]) + part)
    return text


_OPERATIONS = {"squared": "^{2}", "cubed": "^{3}", "factorial": "!"}


def _ending(value: int) -> str:
    if 10 < value % 100 < 20:
        return "th"
    return {1: "st", 2: "nd", 3: "rd"}.get(value % 10, "th")


def mixed(text: str) -> str | None:
    r"""Return "2 \land \frac{1}{2}" as a mixed number; None if it is none."""
    match = re.fullmatch(r"(-?\d+) ?\\land (\\frac.+|\d+ ?/ ?\d+)", text)
    part = number(match[2]) if match else None
    if match is None or part is None or not 0 < part < 1:
        return None
    whole = Fraction(match[1])
    return str(whole + part if whole >= 0 else whole - part)


def is_prose(text: str) -> bool:
    """Say whether a tidy text is words, not mathematics."""
    text = re.sub(r" ?\\l(and|or)(?![a-zA-Z])", r" \1 ", text)
    if re.fullmatch(r"(?:\\text ?\{[^{}]*\}[ ,.]*)+", text):
        return True
    return re.fullmatch(r"[A-Za-z ,.'()-]*", text) is not None and (
        re.search(r"[A-Za-z]{4}", text) is not None
    )


def bare(text: str) -> str:
    """Remove spaces, case and punctuation; signs of mathematics stay."""
    text = re.sub(r"\\l(and|or)(?![a-zA-Z])", r"\1", text).replace(r"\text", "")
    text = re.sub(r"^[ {]*(?:the|a|an) (?=[a-z])", "", text, flags=re.IGNORECASE)
    return re.sub(r"[\s.,;:!?'\"(){}]", "", text).casefold()


_RUN = re.compile(r"(?:\\text ?\{ ?)?([A-Z]{2,}|[A-Za-z]{3,})(?: ?\})?")


def letters(text: str) -> str | None:
    """Return a run of letters, which is a name, where their order counts: ABC is not CBA."""
    match = _RUN.fullmatch(text)
    return match[1] if match else None


# Comparing.

Equality: TypeAlias = Callable[[str, str], bool]


def equal_notations(gold: str, answer: str, equal: Equality) -> bool | None:
    """Compare choices, dates, times, ratios, numbers in a base, and words; None if they are none.

    Args:
        equal: compares the parts.
    """
    if (decided := _equal_choices(gold, answer, equal)) is not None:
        return decided
    a, b = date_of(gold), date_of(answer)
    if a or b:
        return _same_dates(a, b)
    times = time_of(gold), time_of(answer)
    if times[0] and times[1]:
        return same_time(times[0], times[1])
    if times[0] or times[1]:
        return False
    if (decided := _equal_based(gold, answer)) is not None:
        return decided
    if is_prose(gold) or is_prose(answer):
        return bare(gold) == bare(answer)
    names = letters(gold), letters(answer)
    if names[0] and names[1]:
        return names[0] == names[1]
    ratios = ratio_of(gold), ratio_of(answer)
    if ratios[0] is not None or ratios[1] is not None:
        return _equal_ratios(ratios[0] or [gold], ratios[1] or [answer], equal)
    return None


def _same_dates(a: object, b: object) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return a[1:] == b[1:] and (a[0] == b[0] or None in (a[0], b[0]))
    return a == b


_LOWER_CHOICES = frozenset("ABCDE")


def _equal_choices(gold: str, answer: str, equal: Equality) -> bool | None:
    ours = choice_of(gold)
    if ours is None:
        return _equal_letters(gold, answer)
    letter, rest = ours
    theirs = choice_of(answer)
    if not rest and not is_letter(gold):
        return None
    if theirs is None:
        if rest:
            return equal(rest, answer)
        lower = re.fullmatch(r"\(?([a-z])[.)]?", answer)
        if lower:
            return letter in _LOWER_CHOICES and lower[1] == letter.lower()
        return None if not re.fullmatch(r"\(?[A-Z]\)?", answer) else False
    if letter != theirs[0]:
        return False
    return not (rest and theirs[1]) or equal(rest, theirs[1])


def _equal_letters(gold: str, answer: str) -> bool | None:
    """Compare a list of choices with a run of letters: A, C and AC."""
    listed = [re.sub(r"\\text ?|[{}() ]", "", part) for part in members(gold)]
    if len(listed) < 2 or not all(re.fullmatch("[A-H]", letter) for letter in listed):
        return None
    run = letters(answer)
    return None if run is None else sorted(run) == sorted(listed)


def _equal_based(gold: str, answer: str) -> bool | None:
    a, b = based_number(gold), based_number(answer)
    if a and b:
        return a == b
    if not (a or b):
        return None
    digits, other = (a[0], answer) if a else (b[0] if b else "", gold)
    if "_" in other:
        return None
    if number(other) is not None:
        other = re.sub("[ ,_]", "", other)
    return other.upper() == digits


def _equal_ratios(gold: Sequence[str], answer: Sequence[str], equal: Equality) -> bool:
    """Say whether the terms are in proportion; a ratio of two is also a quotient."""
    if len(gold) == 1 or len(answer) == 1:
        (value,), terms = (gold, answer) if len(gold) == 1 else (answer, gold)
        return len(terms) == 2 and equal(value, rf"\frac{{{terms[0]}}}{{{terms[1]}}}")
    if len(gold) != len(answer):
        return False
    over, under = gold[0], answer[0]
    return all(
        equal_values(rf"({over}) \cdot ({b})", rf"({under}) \cdot ({a})")
        for a, b in zip(gold[1:], answer[1:], strict=True)
    )
