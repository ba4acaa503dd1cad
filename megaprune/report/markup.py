"""Text and numbers as HTML, and the page's style."""

from __future__ import annotations

import html
import math
import os
import re
import unicodedata
from pathlib import Path
from urllib.parse import quote

from megaprune.report.summary import Estimate

MINUS, NARROW, TIGHT = "\u2212", "\u202f", "\u00a0"
SHORT = (200, 0)  # of a text within a line, what is shown
# Controls, and formats such as changes of writing direction: they act on the page or hide in it.
UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


def escape(text: object) -> str:
    """Turn any text into HTML that shows it and does nothing else."""
    return "".join(_mark(c) if _unseen(c) else c for c in html.escape(str(text)))


def shorten(text: str, head: int, tail: int) -> str:
    """Turn a text into HTML, without its middle if it is long."""
    left_out = len(text) - head - tail
    if left_out <= 0:
        return escape(text)
    note = f'<span class="cut">… {left_out:,} characters left out …</span>'
    return f"{escape(text[:head])}\n\n{note}\n\n{escape(text[len(text) - tail :])}"


def tokens(value: float) -> str:
    """Format a number of tokens: `8,123`."""
    return _number(value, ",.0f" if abs(value) >= 100 else ".1f")


def percent(share: float) -> str:
    """Format a share: `48.2 %`."""
    return f"{_number(100 * share, '.1f')}{TIGHT}%"


def signed_percent(share: float) -> str:
    """Format a relative change: `+1.5 %`."""
    return f"{_signed(100 * share)}{TIGHT}%"


def points(share: float) -> str:
    """Format a difference of shares: `+1.5 points`."""
    return f"{_signed(100 * share)}{TIGHT}points"


def score(value: float) -> str:
    """Format a score without a unit: `+0.58`."""
    return _number(value, "+.2f")


def interval(estimate: Estimate, kind: str) -> str:
    """Format bounds in the unit of the value that they stand beside: `+0.2 to +2.9`."""
    ends = (estimate.low, estimate.high)
    if kind == "change":
        return " to ".join(_signed(100 * end) for end in ends)
    scale, form = {
        "tokens": (1, ",.0f" if abs(estimate.value) >= 100 else ".1f"),
        "share": (100, ".1f"),
    }[kind]
    return " to ".join(_number(scale * end, form) for end in ends)


def plain(value: float) -> str:
    """Format a number of unknown size with four significant digits."""
    if float(value).is_integer() and abs(value) < 1e9:
        return _number(value, ",.0f")
    return _number(value, ".4g")


_STACKED = 4
"""Columns from which on a table does not fit a phone: there each row is a list."""


def table(head: list[str], rows: list[list[str]], caption: str) -> str:
    """Make a table of cells that are HTML; the first column names the rows.

    A row of one cell is a heading of those below it. On a phone each cell of a table of many
    columns has a line of its own, with the column's name before it.
    """
    heads = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    stacked = len(head) >= _STACKED
    names = [f' data-name="{re.sub("<[^>]*>", " ", name)}"' if stacked else "" for name in head]
    lines = "".join(_line(row, names) for row in rows)
    kind = ' class="stacked"' if stacked else ""
    return (
        f'<div class="wide"><table{kind}><caption>{caption}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _line(row: list[str], names: list[str]) -> str:
    first, *rest = row
    if not rest:
        return f'<tr class="group"><th scope="rowgroup" colspan="{len(names)}">{first}</th></tr>'
    cells = "".join(f"<td{name}>{cell}</td>" for name, cell in zip(names[1:], rest, strict=True))
    name = names[0] if first.isdigit() else ""  # a number alone says nothing
    return f'<tr><th scope="row"{name}>{first}</th>{cells}</tr>'


def path_between(folder: Path, page: Path) -> str:
    """The path from a page in a folder to another page, as a link has it."""
    return Path(os.path.relpath(page.resolve(), folder.resolve())).as_posix()


def link(text: str, target: str) -> str:
    """Link a text, which is HTML, to a page by the path to it from this one."""
    return f'<a href="{quote(target)}">{text}</a>'


def _signed(value: float) -> str:
    """Format a change; none has no sign."""
    text = _number(value, "+.1f")
    return text.removeprefix("+") if text == "+0.0" else text


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


"""How a report looks: on a desk, on a phone, in the dark and on paper."""

CSS = """
:root {
  color-scheme: light dark;
  --text: #1c1f23; --soft: #5b636e; --line: #d9dde2; --back: #ffffff; --box: #f5f6f8;
  --link: #0072b2; --good: #00694c; --bad: #a84300; --mark: #fff0c2; --shade: #0004;
}
@media (prefers-color-scheme: dark) {
  :root {
    --text: #e6e8eb; --soft: #a3abb5; --line: #3a4048; --back: #16191d; --box: #20242a;
    --link: #56b4e9; --good: #4fc9a4; --bad: #f09a62; --mark: #4d431f; --shade: #000c;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 72rem; background: var(--back);
  color: var(--text); font: 1rem/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial,
  "Liberation Sans", sans-serif; overflow-wrap: anywhere;
}
h1 { font-size: 1.05rem; font-weight: 600; color: var(--soft); margin: 0; }
h2 { font-size: 1.3rem; line-height: 1.25; margin: 3rem 0 .75rem; }
h3 { font-size: 1rem; margin: 1.75rem 0 .5rem; }
p { margin: .5rem 0; max-width: 52rem; text-wrap: pretty; }
.claim { font-size: clamp(1.5rem, 1rem + 2.4vw, 2.3rem); font-weight: 700; line-height: 1.2;
  margin: .6rem 0 .5rem; max-width: none; letter-spacing: -.01em; }
.claim span { display: block; text-wrap: balance; }
.soft { color: var(--soft); font-size: .92rem; }
.note { border-left: 4px solid #e69f00; background: var(--box); padding: .55rem .9rem;
  margin: .75rem 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: 1rem;
  margin: 1.5rem 0 1rem; padding: 0; }
.tile { border: 1px solid var(--line); border-radius: .5rem; padding: .8rem 1rem .9rem;
  break-inside: avoid; }
.tile dt { color: var(--soft); font-size: .9rem; }
.tile dd { margin: 0; }
.tile .value { font-size: 1.35rem; font-weight: 650; font-variant-numeric: tabular-nums;
  line-height: 1.4; }
.tile .value i { font-style: normal; font-weight: 400; color: var(--soft); }
.tile .less { font-size: .88rem; }
.bounds { white-space: nowrap; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(30rem, 100%), 1fr));
  gap: 1.5rem; }
.figures.small { grid-template-columns: repeat(auto-fill, minmax(min(19rem, 100%), 1fr)); }
figure { margin: 0; break-inside: avoid; }
figure img { display: block; width: 100%; height: auto; background: #fff; border-radius: .4rem; }
figcaption { font-size: .88rem; color: var(--soft); margin-top: .4rem; }
figcaption b { color: var(--text); }
a { color: var(--link); }
/* What is cut off at a side has a shadow there. */
.wide { overflow-x: auto; margin: 1rem 0; background:
  linear-gradient(to right, var(--back) 30%, transparent) left / 2.5rem 100% no-repeat local,
  linear-gradient(to left, var(--back) 30%, transparent) right / 2.5rem 100% no-repeat local,
  linear-gradient(to right, var(--shade), transparent) left / 1rem 100% no-repeat scroll,
  linear-gradient(to left, var(--shade), transparent) right / 1rem 100% no-repeat scroll; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums;
  overflow-wrap: normal; }
caption { text-align: left; color: var(--soft); padding-bottom: .4rem; }
th, td { padding: .3rem .8rem .3rem 0; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; }
tbody th { font-weight: 400; }
thead th { white-space: normal; vertical-align: bottom; }
th:first-child { text-align: left; white-space: normal; min-width: 9rem; overflow-wrap: anywhere; }
.group th { font-weight: 600; padding-top: .9rem; }
.path { display: inline-block; white-space: normal; overflow-wrap: anywhere; min-width: 9rem;
  max-width: 18rem; }
td small, th small { display: block; color: var(--soft); }
tr { break-inside: avoid; }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr));
  gap: 1rem; }
.answers section { min-width: 0; }
.answers h4 { margin: .4rem 0; font-size: .9rem; font-weight: 600; break-after: avoid; }
.answers h4 span { font-weight: 400; color: var(--soft); }
.right { color: var(--good); } .wrong { color: var(--bad); }
pre { margin: 0; padding: .7rem .85rem; background: var(--box); border: 1px solid var(--line);
  border-radius: .4rem; white-space: pre-wrap; overflow-wrap: anywhere; overflow: auto;
  max-height: 22rem; unicode-bidi: plaintext; text-align: start;
  font: .82rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; }
pre.prompt { max-height: 14rem; margin-bottom: .5rem; }
.cut { color: var(--bad); font-style: italic; }
.mark { background: var(--mark); border-radius: .2rem; font-size: .72em; padding: 0 .2em;
  unicode-bidi: isolate; direction: ltr; }
details { margin: 1rem 0; } summary { cursor: pointer; color: var(--link); }
@media (max-width: 30rem) { body { padding: 1.25rem .9rem 3rem; } h2 { margin-top: 2.25rem; }
  table { font-size: .8rem; } th, td { padding-right: .55rem; }
  th:first-child { min-width: 5rem; } .path { min-width: 5rem; } }
@media screen and (max-width: 40rem) {
  .stacked, .stacked tbody, .stacked tr, .stacked th, .stacked td, .stacked caption {
    display: block; width: 100%; }
  .stacked { font-size: .88rem; } .stacked thead { display: none; }
  .stacked tbody th { font-weight: 600; border: 0; padding: .8rem 0 .1rem; }
  .stacked th[data-name]::before { content: attr(data-name) " "; }
  .stacked td { display: flow-root; border: 0; padding: .1rem 0 .1rem 9.5rem; text-align: left;
    white-space: normal; overflow-wrap: anywhere; }
  .stacked td::before { content: attr(data-name); color: var(--soft); float: left; width: 9rem;
    margin-left: -9.5rem; }
  .stacked td:empty { display: none; }
  .stacked tr { border-bottom: 1px solid var(--line); padding-bottom: .6rem; }
  .stacked .group { border-bottom: 0; padding-bottom: 0; } .stacked .group th { font-size: 1rem; }
  .path { max-width: none; }
}
@media print {
  :root { color-scheme: light; --text: #000; --soft: #444; --line: #bbb; --back: #fff;
    --box: #f6f6f6; --good: #00694c; --bad: #a84300; --mark: #fff0c2; --shade: transparent; }
  @page { margin: 15mm; }
  html { font-size: 9.5pt; }
  body { padding: 0; max-width: none; }
  .claim { font-size: 19pt; }
  h2, h3 { break-after: avoid; }
  .figures { grid-template-columns: 1fr 1fr; gap: 5mm; }
  .figures.small { grid-template-columns: 1fr 1fr 1fr; }
  .answers { grid-template-columns: 1fr 1fr; }
  .tiles { grid-template-columns: repeat(4, 1fr); gap: 3mm; }
  .tile { padding: 2.5mm 3mm; } .tile .value { font-size: 11pt; }
  table { font-size: 8pt; } th, td { padding-right: 2mm; }
  .wide { overflow: visible; background: none; } td, th { white-space: normal; }
  td small { white-space: nowrap; }
  a { color: inherit; text-decoration: none; }
  pre { max-height: none; font-size: 7.5pt; }
  pre.prompt { max-height: none; }
}
"""
