"""The parts of a tidy text: lists, tuples, intervals, sets, unions, relations, matrices."""

from __future__ import annotations

import re
from dataclasses import dataclass

from megaprune.grading.numbers import number

COMMA = re.compile(r"[,;]|\\l(?:and|or)(?![a-zA-Z])")
"""What stands between the members of a list."""

AND = re.compile(r"\\land(?![a-zA-Z])")
OR = re.compile(r"\\lor(?![a-zA-Z])")
EQUALS = re.compile(r"(?<![<>!])=")
RELATION = re.compile(r"\\(?:le|ge|ne)(?![a-zA-Z])|[<>]|(?<![<>!])=")
UNION = re.compile(r"\\cup(?![a-zA-Z])")
LINES = re.compile(r"\\\\")
_BRACKET = re.compile(r"\\[{}]|\\\\|[({\[\])}]")
_OPENS = ("(", "[", "{", r"\{")


@dataclass(frozen=True)
class AnswerShape:
    """An answer as a list, tuple, interval, set or union of parts, or as a scalar without parts."""

    kind: str
    """Two brackets; "" for a list without; "cup" for a union; "scalar" if there are no parts."""

    parts: tuple[str, ...]


def shape_of(text: str) -> AnswerShape:
    """Return the brackets and parts of a tidy text."""
    if r"\begin" in text or number(text) is not None:
        return AnswerShape("scalar", (text,))
    if len(parts := split(text, UNION)) > 1:
        return AnswerShape("cup", tuple(parts))
    if len(parts := members(text)) > 1:
        return AnswerShape("", tuple(parts))
    for opening in (r"\{", "(", "["):
        if not text.startswith(opening) or not encloses(text, len(opening)):
            continue
        closing = r"\}" if text.endswith(r"\}") else text[-1]
        inside = members(text[len(opening) : -len(closing)])
        if len(inside) > 1 or opening == r"\{":
            return AnswerShape(opening + closing, tuple(inside))
    return AnswerShape("scalar", (text,))


_THOUSANDS = re.compile(r",(?=\d{3}(?!\d))")
_ONE_NUMBER = re.compile(r"(?<![\d.])\d{1,3}(?:,\d{3})+(?!\d)")


def join_thousands(text: str) -> str:
    r"""Remove the separators of the only number in a text that has no other commas: \$10,000."""
    if "," not in text or any(bracket in text for bracket in "([;{") or number(text) is not None:
        return text
    joined = _ONE_NUMBER.sub(lambda match: match[0].replace(",", ""), text, count=1)
    return text if "," in joined else joined


def members(text: str) -> list[str]:
    """Split a list at its separators: semicolons or lines if there are any, else commas.

    A comma without a space, before three digits, is part of a number where others have spaces.
    """
    for separator in (LINES, re.compile(";")):
        if len(parts := split(text, separator)) > 1:
            return [part.strip(" ,;") for part in parts if part.strip(" ,;")]
    parts = split(text, COMMA)
    if len(parts) > 2 and ", " in text and _THOUSANDS.search(text):
        spaced = split(text, re.compile(r", |\\l(?:and|or)(?![a-zA-Z])"))
        if len(spaced) > 1 and all(number(part) is not None for part in spaced):
            return spaced
    return parts


def close(text: str) -> str:
    """Remove the spaces that mean nothing; between digits they mean something."""
    return re.sub(r"(?<!\d) | (?!\d)", "", text)


def split(text: str, separator: re.Pattern[str]) -> list[str]:
    """Split a text at the separators that stand in no bracket."""
    if not separator.search(text):
        return [text]
    depths = _depths(text)
    cuts = [match.span() for match in separator.finditer(text) if depths[match.start()] == 0]
    begins = [0, *(end for _, end in cuts)]
    ends = [*(begin for begin, _ in cuts), len(text)]
    return [text[begin:end].strip() for begin, end in zip(begins, ends, strict=True)]


def separators(text: str, separator: re.Pattern[str]) -> list[str]:
    """Return the separators at which `split` splits."""
    if not separator.search(text):
        return []
    depths = _depths(text)
    return [match[0] for match in separator.finditer(text) if depths[match.start()] == 0]


def encloses(text: str, begin: int) -> bool:
    """Say whether the bracket that opens the text closes at its end."""
    depths = _depths(text)
    last = len(text) - (2 if text.endswith(r"\}") else 1)
    return text[last:] in (")", "]", r"\}") and 0 not in depths[begin:last]


def _depths(text: str) -> list[int]:
    """Count the brackets around each character; those of an interval need not be of a kind."""
    depths: list[int] = []
    depth = end = 0
    for bracket in _BRACKET.finditer(text):
        depths += [depth] * (bracket.end() - end)
        end = bracket.end()
        if bracket[0] != r"\\":
            depth += 1 if bracket[0] in _OPENS else -1
    return depths + [depth] * (len(text) - end)


def condition_of(text: str) -> str:
    r"""Return the set in `x \in A`, and the condition in the set of all x with it."""
    built = re.match(
        r"\\\{ ?([a-zA-Z]) ?(?:\\in ?\\mathbb\{R\})? ?(?:\||:|\\mid(?![a-zA-Z])) ?", text
    )
    if built and encloses(text, 2):
        text = re.sub(r"[ ,]*[a-zA-Z] ?\\in ?\\mathbb\{R\}$", "", text[built.end() : -2]) or text
        text = re.sub(r"^[a-zA-Z] ?\\in ?\\mathbb\{R\}[ ,]+", "", text)
    return re.sub(r"^[^=<>,(\[]*\\in(?![a-zA-Z]) ?", "", text)


def interval_of(text: str) -> AnswerShape | None:
    r"""Return the interval that a \le x < b, or a text with brackets, is; None if neither."""
    signs, sides = separators(text, RELATION), split(text, RELATION)
    name = re.compile(r"[a-zA-Z](?:_\{?\w+\}?)?|[a-zA-Z]\([a-zA-Z]\)")
    if len(signs) == 2 and name.fullmatch(sides[1]):
        closed = {r"\le": "[", "<": "("}, {r"\le": "]", "<": ")"}
        if set(signs) <= {r"\ge", ">"}:
            signs = [r"\le" if sign == r"\ge" else "<" for sign in reversed(signs)]
            sides = sides[::-1]
        if set(signs) <= closed[0].keys():
            return AnswerShape(closed[0][signs[0]] + closed[1][signs[1]], (sides[0], sides[2]))
    shape = shape_of(text)
    return shape if shape.kind in ("()", "(]", "[)", "[]") and len(shape.parts) == 2 else None


_MATRIX = re.compile(
    r"(?P<factor>[^&]*?)\\begin ?\{ ?(?P<name>[pbBvV]?matrix) ?\}(?P<rows>.*)"
    r"\\end ?\{ ?(?P=name) ?\}"
)


@dataclass(frozen=True)
class Matrix:
    """A matrix: rows of cells, and whether it is a determinant or norm."""

    rows: tuple[tuple[str, ...], ...]
    bars: bool


def matrix_of(text: str) -> Matrix | None:
    """Return the one matrix that a tidy text is, with what it is multiplied by in its cells."""
    match = _MATRIX.fullmatch(text)
    if match is None or r"\begin" in match["rows"]:
        return None
    factor = re.sub(r"\\cdot ?$", "", match["factor"].strip()).strip()
    if factor == "-":
        factor = "-1"
    lines = [line.strip() for line in match["rows"].split(r"\\")]
    cells = (tuple(cell.strip() for cell in line.split("&")) for line in lines if line)
    if factor:
        if RELATION.search(factor):
            return None
        cells = (tuple(rf"({factor}) \cdot ({cell})" for cell in row) for row in cells)
    return Matrix(tuple(cells), match["name"][0] in "vV")


SIGNS = re.compile(r"\\(pm|mp)(?![a-zA-Z]) ?")
_SIGN_OF = {"pm+": "+", "pm-": "-", "mp+": "-", "mp-": "+"}


def with_sign(text: str, *signs: str) -> str:
    r"""Write the signs for \pm and \mp: one for all, or one for each."""
    each = iter(signs * len(SIGNS.findall(text)) if len(signs) == 1 else signs)
    return SIGNS.sub(lambda sign: _SIGN_OF[sign[1] + next(each)], text)


def signed(part: str) -> list[str]:
    r"""Return the two values of a text with \pm, whose signs change together."""
    if not SIGNS.search(part):
        return [part]
    return [re.sub(r"^\+ ?", "", with_sign(part, sign)) for sign in "+-"]
