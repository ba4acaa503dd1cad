"""Text and numbers as HTML."""

from __future__ import annotations

import html
import math
import unicodedata

from megaprune.report.summary import Estimate

MINUS, NARROW, TIGHT = "\u2212", "\u202f", "\u00a0"
SHORT = (200, 0)  # of a text within a line, what is shown
# Controls, and formats such as changes of writing direction: they act on the page or hide in it.
UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


def escape(text: object) -> str:
    """Any text as HTML that shows it and does nothing else."""
    return "".join(_mark(c) if _unseen(c) else c for c in html.escape(str(text)))


def shorten(text: str, head: int, tail: int) -> str:
    """A text as HTML, without its middle if it is long."""
    left_out = len(text) - head - tail
    if left_out <= 0:
        return escape(text)
    note = f'<span class="cut">… {left_out:,} characters left out …</span>'
    return f"{escape(text[:head])}\n\n{note}\n\n{escape(text[len(text) - tail :])}"


def tokens(value: float) -> str:
    """`8,123`."""
    return _number(value, ",.0f" if abs(value) >= 100 else ".1f")


def percent(share: float) -> str:
    """`48.2 %`."""
    return f"{_number(100 * share, '.1f')}{TIGHT}%"


def signed_percent(share: float) -> str:
    """`+1.5 %`."""
    return f"{_number(100 * share, '+.1f')}{TIGHT}%"


def points(share: float) -> str:
    """`+1.5 points`, of a difference of shares."""
    return f"{_number(100 * share, '+.1f')}{TIGHT}points"


def score(value: float) -> str:
    """`+0.58`, of a score without a unit."""
    return _number(value, "+.2f")


def interval(estimate: Estimate, kind: str) -> str:
    """`+0.2 to +2.9`: the bounds in the unit of what they stand beside."""
    scale, form = {
        "tokens": (1, ",.0f" if abs(estimate.value) >= 100 else ".1f"),
        "share": (100, ".1f"),
        "change": (100, "+.1f"),
    }[kind]
    return f"{_number(scale * estimate.low, form)} to {_number(scale * estimate.high, form)}"


def plain(value: float) -> str:
    """A number of unknown size, with four significant digits."""
    if float(value).is_integer() and abs(value) < 1e9:
        return _number(value, ",.0f")
    return _number(value, ".4g")


def table(head: list[str], rows: list[list[str]], caption: str) -> str:
    """A table of cells that are HTML; the first column names the rows.

    A row of one cell is a heading of those below it.
    """
    heads = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines = "".join(_line(row, len(head)) for row in rows)
    return (
        f'<div class="wide"><table><caption>{caption}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _line(row: list[str], columns: int) -> str:
    first, *rest = row
    if not rest:
        return f'<tr class="group"><th scope="rowgroup" colspan="{columns}">{first}</th></tr>'
    cells = "".join(f"<td>{cell}</td>" for cell in rest)
    return f'<tr><th scope="row">{first}</th>{cells}</tr>'


def _number(value: float, form: str) -> str:
    if not math.isfinite(value):
        return "–"
    text = format(value, form)
    if not any(digit in text for digit in "123456789"):
        text = text.lstrip("-")  # no minus nought
    return text.replace("-", MINUS)


def _unseen(character: str) -> bool:
    return character not in "\n\t" and unicodedata.category(character) in UNSEEN


def _mark(character: str) -> str:
    return f'<span class="mark">U+{ord(character):04X}</span>'
