r"""Normal forms: the same LaTeX for what people and models write in many ways."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction


class Unparsable(Exception):
    """Raised for a text that cannot be read as mathematics."""


_SYMBOLS = {
    "−": "-", "–": "-", "‐": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∗": "*",
    "÷": "/", "⁄": "/", "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ",
    "±": r"\pm ", "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ", "∈": r"\in ", "√": r"\sqrt ",
    "°": r"^\circ ", "º": r"^\circ ", "ℝ": r"\mathbb{R}", "α": r"\alpha ", "β": r"\beta ",
    "θ": r"\theta ", "λ": r"\lambda ", "′": "'", "’": "'", "⟨": r"\langle ", "⟩": r"\rangle ",
}  # fmt: skip

_FONT = r"\\(?:text(?:bf|it|rm|sf|tt|normal|up)?|math(?:rm|bf|it|sf|normal)|[mh]box)\s*\{"

_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"\\(?:boxed|fbox)\s*(?=\{)", ""),
        (r"(?<=\d)(?:,\s*\\!|\s*\{\s*,\s*\})\s*(?=\d{3}(?!\d))", ""),
        (r"\\?\$|(?<!\\)\\[()\[\]]|\\!", ""),
        (r"\\(?:left|right|[bB]igg?[lrm]?)(?![a-zA-Z])\s*\.?", ""),
        (r"\\(?:displaystyle|limits|rm|bf)(?![a-zA-Z])", ""),
        (r"(?<!\\)\\[,;:> ]|\\q?quad(?![a-zA-Z])|~", " "),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (_FONT, r"\\text{"),
        (r"\\text\{\s*(-?\d[\d.,]*|[A-Za-z])\s*\}", r"\1"),
        (r"^\s*\\text\{\s*(-?\d[\d.,]*)(\s+[^{}]*)\}", r"\1\\text{\2}"),
        (r"\\text\{\s*\}", ""),
        (r",?\s*\\text\{\s*,?\s*(?:and|or)\s*\}\s*|,?\s+(?:and|or)\s+", ", "),
        (r"\\phantom(?![a-zA-Z])\s*(?:\{[^{}]*\}|-)?", ""),
        (r"(?:(?<=\{)|^)\s*\\approx\s*", ""),
        (r"\\frac\s*\\pi\s*(?=[\d{])", r"\\frac{\\pi}"),
        (r"\\%|\s*\bpercent\b|\s*\\text\{\s*(?:percent|%|\\%)\s*\}", "%"),
        (r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![a-zA-Z])|\\degree(?![a-zA-Z])", r"^\\circ"),
        (r"\\l(?:eq|eqslant)(?![a-zA-Z])|<=", r"\\le "),
        (r"\\g(?:eq|eqslant)(?![a-zA-Z])|>=", r"\\ge "),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"\\gt(?![a-zA-Z])", ">"),
        (r"\\lbrace(?![a-zA-Z])", r"\\{"),
        (r"\\rbrace(?![a-zA-Z])", r"\\}"),
        (r"(?<!\\)\b(?:infinity|inf)\b", r"\\infty "),
        (r"(?<![a-zA-Z\\])pi(?![a-zA-Z])", r"\\pi "),
        (r"\\sqrt\s+(\d+|[A-Za-z](?![A-Za-z]))", r"\\sqrt{\1}"),
        (r"(?<![a-zA-Z\\])sqrt\s*(?=[\d({])", r"\\sqrt"),
        (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\*\*", "^"),
        (r"(?<=[\d)}])\s*\*\s*|(?<=[A-Za-z])\s*\*\s*", r"\\cdot "),
        (r"\s+", " "),
    ]
]


def tidy(text: str) -> str:
    """Rewrite a text in the normal spelling: no layout, fonts, dollar signs and outer braces."""
    text = "".join(map(_latex, text))
    # Neighbours, as in a power of two digits, are one group.
    text = re.sub(r"(?<=\d)\}\^\{(?=\d)|\}_\{(?=\d)", "", text) if "}" in text else text
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = text.strip(" ,;:").rstrip(" .,;:")
    while text.startswith("{") and _closes(text) == len(text) - 1:
        text = text[1:-1].strip(" ,;:").rstrip(" .,;:")
    return text


def _latex(char: str) -> str:
    if char.isascii():
        return char
    if char in _SYMBOLS:
        return _SYMBOLS[char]
    how, *codes = unicodedata.decomposition(char).split() or [""]
    plain = "".join(chr(int(code, 16)) for code in codes) if how.startswith("<") else ""
    if how == "<fraction>" and "⁄" in plain:
        over, under = plain.split("⁄")
        return rf"\frac{{{over}}}{{{under or 1}}}"
    if how in ("<super>", "<sub>"):
        return ("^" if how == "<super>" else "_") + "{" + plain.replace("−", "-") + "}"
    return plain if plain.isascii() and plain else char


def _closes(text: str) -> int:
    """Return where the group that opens the text closes; -1 if nowhere."""
    depth = 0
    for token in re.finditer(r"\\.|[{}]", text):
        depth += {"{": 1, "}": -1}.get(token[0], 0)
        if depth == 0:
            return token.start()
    return -1


_DIGITS = r"(?:\d{1,3}(?:[, ]\d{3})+(?!\d)|\d+)"
_DECIMAL = re.compile(
    rf"(?P<sign>[+-]?) ?(?P<digits>{_DIGITS}?(?:\.\d*)?)"
    r"(?:[eE](?P<e>[+-]?\d{1,3})| ?(?:\\times|\\cdot|x|\*) ?10 ?\^ ?\{?(?P<ten>-?\d{1,3})\}?)?"
)
_FRACTION = re.compile(
    r"(?P<sign>-?) ?(?:(?P<whole>\d+) ?(?=\\)|(?P<whole2>\d+) +(?=\d))?"
    r"(?:\\frac ?(?:\{ ?(?P<over>-?\d+) ?\}|(?P<over1>\d)) ?"
    r"(?:\{ ?(?P<under>\d+) ?\}|(?P<under1>\d))"
    r"|(?P<over2>\d+) ?/ ?(?P<under2>\d+))"
)

# Longer ones are no answers, and Python refuses to read them.
_MAX_DIGITS = 1000


def number(text: str) -> Fraction | None:
    """Read the exact value of a plain number: 1,234.5, 3e5, 2 1/2; None for anything else."""
    if len(text) > _MAX_DIGITS:
        return None
    if (match := _DECIMAL.fullmatch(text)) and any(map(str.isdigit, match["digits"])):
        digits = re.sub("[, ]", "", match["digits"])
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
    return None


_UNIT = re.compile(
    r"(?P<value>.*[^\s\\,;({\[]) ?"
    r"(?:\\text\{(?P<text>[^{}]*)\}|(?<=[\d}]) (?P<words>[A-Za-z]{2,}(?:[ -][A-Za-z]+)*)"
    r"|(?<=\d)(?P<short>[mck]m|kg|mph|ft|in|hours?|min)) ?(?:\^ ?\{? ?(?P<power>[23]) ?\}?)?"
)
# What follows a number and is no unit.
_OPERATION = re.compile(
    r"\d|^(?:or|and)\b|\b(?:plus|minus|times|over|mod|to|than|not|a?sin|a?cos|a?tan|log|ln|exp)\b"
)
_UNITS = {
    alias: names[0]
    for names in [
        ("mm", "millimeter", "millimetre"), ("cm", "centimeter", "centimetre"),
        ("m", "meter", "metre"), ("km", "kilometer", "kilometre"), ("inch", "in", "inches"),
        ("foot", "ft", "feet"), ("yard", "yd"), ("mile", "mi"), ("g", "gram"),
        ("kg", "kilogram"), ("second", "sec", "s"), ("minute", "min"), ("hour", "hr", "h"),
        ("day",), ("week",), ("month",), ("year", "yr"), ("degree", "deg"), ("radian", "rad"),
        ("cent",), ("dollar",), ("am", "a.m"), ("pm", "p.m"), ("liter", "litre", "l"), ("%",),
    ]
    for alias in names
}  # fmt: skip


def split_unit(text: str) -> tuple[str, str]:
    r"""Split a tidy text into its value and its unit, as "5 \text{ square feet}" -> ("5", "foot2").

    The unit is "" if there is none, and "?" if it is none of the common ones: a noun.
    """
    for ending, name in ((r"^\circ", "degree"), ("%", "%")):
        if text.endswith(ending) and len(text) > len(ending):
            return text.removesuffix(ending).rstrip(), name
    match = _UNIT.fullmatch(text)
    if not match:
        return text, ""
    words = (match["text"] or match["words"] or match["short"] or "").strip().lower()
    if _OPERATION.search(words) or (len(words) < 3 and words not in _UNITS):
        return text, ""
    value = match["value"].removesuffix(r"^\circ").rstrip()
    return value, _known(words, match["power"] or "")


def _known(words: str, power: str) -> str:
    for word, value in (("square", "2"), ("sq", "2"), ("cubic", "3"), ("cu", "3")):
        if words.startswith(word + " "):
            words, power = words.removeprefix(word + " "), value
    words = words.removesuffix(".")
    name = _UNITS.get(words) or _UNITS.get(words.removesuffix("s"))
    return name + power if name else "?"


def words(text: str) -> str | None:
    """Return prose without case, spaces and punctuation; None for mathematics."""
    whole = re.fullmatch(r"(?:\\text\{[^{}]*\}[ ,.]*)+", text)
    if whole or re.fullmatch(r"[A-Za-z ,.'()-]*[A-Za-z]{4,}[A-Za-z ,.'()-]*", text):
        return bare(text)
    return None


def bare(text: str) -> str:
    """Remove spaces, case and punctuation; signs of mathematics stay."""
    return re.sub(r"[\s.,;:!?'\"(){}]", "", text.replace(r"\text", "")).casefold()
