"""Plain numbers: digits, separators, powers of ten, fractions, repeating decimals, words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

_DIGITS = r"(?:\d{1,3}(?:[, ]\d{3})+(?!\d)|\d{1,3}(?:_\d{3})+(?!\d)|\d+)"
_DECIMAL = re.compile(
    rf"(?P<sign>[+-]?) ?(?P<digits>{_DIGITS}?(?:\.\d*)?)"
    r"(?:[eE](?P<e>[+-]?\d{1,3})| ?(?:\\times|\\cdot|x|\*) ?10 ?\^ ?\{? ?(?P<ten>-?\d{1,3}) ?\}?)?"
)
_FRACTION = re.compile(
    r"(?P<sign>-?) ?(?:(?P<whole>\d+) ?(?=\\)|(?P<whole2>\d+) +(?=\d))?"
    r"(?:\\frac ?(?:\{ ?(?P<over>-?\d+) ?\}|(?P<over1>\d)) ?"
    r"(?:\{ ?(?P<under>\d+) ?\}|(?P<under1>\d))"
    r"|(?P<over2>\d+) ?/ ?(?P<under2>\d+))"
)
_REPEATING = re.compile(
    r"(?P<sign>-?) ?(?P<whole>\d*) ?\. ?(?P<fixed>\d*) ?"
    r"(?:\\overline ?\{ ?(?P<bar>\d+) ?\}|\\bar ?\{ ?(?P<bar1>\d+) ?\}|\((?P<brackets>\d+)\)"
    r"|\\dot ?\{? ?(?P<first>\d) ?\}?(?:(?P<middle>\d*) ?\\dot ?\{? ?(?P<last>\d) ?\}?)?"
    r"|(?P<dots>\\ldots))"
)

# Longer ones are no answers, and Python refuses to read them.
_MAX_DIGITS = 1000


def number(text: str) -> Fraction | None:
    """Read the exact value of a plain number, as 1,234.5, 3e5, 2 1/2 or 0.(3); else None."""
    if len(text) > _MAX_DIGITS or not any(map(str.isdigit, text)):
        return None
    if match := _DECIMAL.fullmatch(text):
        digits = re.sub("[, _]", "", match["digits"])
        if not any(map(str.isdigit, digits)):
            return None
        exponent = int(match["e"] or match["ten"] or 0)
        value = Fraction(digits) * Fraction(10) ** exponent
        return -value if match["sign"] == "-" else value
    if match := _FRACTION.fullmatch(text):
        part = match.groupdict()
        over = int(part["over"] or part["over1"] or part["over2"])
        under = int(part["under"] or part["under1"] or part["under2"])
        whole = int(part["whole"] or part["whole2"] or 0)
        if under == 0 or (whole and over < 0):
            return None
        value = whole + Fraction(over, under)
        return -value if part["sign"] else value
    if match := _REPEATING.fullmatch(text):
        return _repeating(match)
    return None


def _repeating(match: re.Match[str]) -> Fraction | None:
    part = match.groupdict()
    fixed = part["fixed"]
    if part["dots"]:
        cut = _period(fixed)
        if cut is None:
            return None
        fixed, period = cut
    else:
        period = part["bar"] or part["bar1"] or part["brackets"]
        period = period or part["first"] + (part["middle"] or "") + (part["last"] or "")
    assert isinstance(period, str)
    ones = Fraction(int(period), 10 ** len(period) - 1) / 10 ** len(fixed)
    value: Fraction = int(part["whole"] or 0) + Fraction(int(fixed or 0), 10 ** len(fixed)) + ones
    return -value if part["sign"] else value


def _period(digits: str) -> tuple[str, str] | None:
    """Split decimals before dots, as 1666, into what is fixed and the shortest that repeats.

    One digit must be there three times, several twice, and little may stand before them: else the
    dots may stand for anything.
    """
    for length in range(1, len(digits) // 2 + 1):
        period = digits[-length:]
        fixed, times = digits, 0
        while fixed.endswith(period):
            fixed, times = fixed[:-length], times + 1
        if times >= (3 if length == 1 else 2) and len(fixed) <= times * length:
            return fixed, period
    return None


# Words for numbers.

_ONES = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen",
    "eighteen", "nineteen",
]  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SMALL = {word: value for value, word in enumerate(_ONES)} | {
    word: 10 * value for value, word in enumerate(_TENS, 2)
}
SCALES = {
    "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12,
    "dozen": 12, "score": 20, "万": 10**4, "亿": 10**8, "千": 10**3, "百": 10**2,
}  # fmt: skip
"""Words behind a number that multiply it; also in the plural."""

_PARTS = {
    "half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6,
    "eleventh": 11, "twelfth": 12, "fifteenth": 15, "sixteenth": 16, "twentieth": 20,
    "fiftieth": 50, "millionth": 10**6, "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10,
    "hundredth": 100, "thousandth": 1000,
}  # fmt: skip
_CHINESE = {char: value for value, char in enumerate("零一二三四五六七八九十")} | {"两": 2}


def scale(word: str) -> Fraction | None:
    """Return what a word behind a number multiplies it by: "million", "dozens", "thirds"."""
    word = word.casefold()
    for name in (word, word.removesuffix("s")):
        if name in SCALES:
            return Fraction(SCALES[name])
        if name in _PARTS:
            return Fraction(1, _PARTS[name])
    return None


def in_words(text: str) -> Fraction | None:
    """Read a number that is written in words: seven, twenty-one, two and a half, three fifths."""
    if text in _CHINESE:
        return Fraction(_CHINESE[text])
    if len(text) > 200 or not text.isascii():
        return None
    parts = re.split(r"[\s-]+", text.strip().casefold())
    if parts[0] == "a" and len(parts) > 1 and parts[1] in SCALES:
        parts[0] = "one"
    sign = -1 if parts[0] in ("minus", "negative") else 1
    parts = parts[1:] if sign < 0 else parts
    if "and" in parts and parts[-1].removesuffix("s") in _PARTS and parts[0] not in _PARTS:
        place = len(parts) - 1 - parts[::-1].index("and")
        whole, rest = _cardinal(parts[:place]), _part(parts[place + 1 :])
        return None if whole is None or rest is None or rest >= 1 else sign * (whole + rest)
    value = _cardinal(parts)
    value = _part(parts) if value is None else value
    return None if value is None else sign * value


def _part(words: Sequence[str]) -> Fraction | None:
    """Read half, a third, three fifths."""
    if not words or words[-1] not in _PARTS | {f"{name}s": 0 for name in _PARTS}:
        return None
    under = _PARTS.get(words[-1]) or _PARTS[words[-1].removesuffix("s")]
    before = words[:-1]
    over = Fraction(1) if list(before) in ([], ["a"], ["an"]) else _cardinal(before)
    return None if over is None else over / under


def _cardinal(words: Sequence[str]) -> Fraction | None:
    """Read whole numbers: one hundred and five, two million."""
    if not words:
        return None
    total = current = 0
    last = 0
    for place, word in enumerate(words):
        if word in _SMALL:
            value = _SMALL[word]
            if place and last and not (last >= 20 and last % 10 == 0 and value < min(last, 100)):
                return None
            current, last = current + value, value or 1
        elif word in SCALES and place:
            current, last = max(current, 1) * SCALES[word], SCALES[word]
            if SCALES[word] >= 1000:
                total, current = total + current, 0
        elif word == "and" and 0 < place < len(words) - 1 and words[place - 1] in SCALES:
            continue
        else:
            return None
    return Fraction(total + current)


# Bases.

_BASES = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "sixteen": 16, "binary": 2, "octal": 8, "hex": 16,
}  # fmt: skip


def base_of(text: str) -> int | None:
    """Return the base that a subscript names: 5, five, (5)."""
    word = re.sub(r"\\text|[{}() ]", "", text).casefold()
    if word.isascii() and word.isdigit() and 2 <= int(word[:4]) <= 36:
        return int(word)
    return _BASES.get(word.removeprefix("base"))


def based(digits: str, base: str) -> int | None:
    """Return the value of digits in a base; None if they have none."""
    radix = base_of(base)
    try:
        return None if radix is None else int(digits, radix)
    except ValueError:
        return None
