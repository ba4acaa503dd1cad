"""A report as one page of HTML that needs nothing else: no scripts, no other files, no network."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from megaprune.report.answers import Row
from megaprune.report.examples import RULE, RULE_OF_ONE, Example
from megaprune.report.figures import Picture
from megaprune.report.markup import SHORT, escape, shorten
from megaprune.report.run import CONFIG
from megaprune.report.style import CSS

# Of a long text, what is shown: an answer's end is where it is given.
PROMPT = (2000, 500)
RESPONSE = (4000, 2000)
# A browser obeys this even if a text got through as markup: nothing runs, nothing is fetched.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'"


@dataclass(frozen=True)
class Page:
    """A page, and the figures that are in it."""

    html: str
    pictures: tuple[Picture, ...]


def make_page(name: str, header: str, parts: Sequence[str], pictures: Sequence[Picture]) -> Page:
    """A whole page.

    Args:
        name: of what it is about.
        header: HTML of the claim and what goes with it.
        parts: HTML of what follows; empty ones are left out.
        pictures: all that the parts show.
    """
    html = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(name)} · megaprune</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        f"<header>\n<h1>megaprune · {escape(name)}</h1>\n{header}\n</header>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )
    return Page(html, tuple(pictures))


def notes(texts: Sequence[str]) -> str:
    """What a reader must know."""
    return "".join(f'<p class="note">{escape(text)}</p>' for text in texts)


def figures(title: str, pictures: Sequence[Picture], kind: str = "") -> str:
    """Figures under a heading; nothing if there are none."""
    if not pictures:
        return ""
    return (
        f'<h2>{escape(title)}</h2>\n<div class="figures {kind}">'
        + "".join(_figure(picture) for picture in pictures)
        + "</div>"
    )


def rule(found: Sequence[Example]) -> str:
    """What answers were chosen by."""
    if not found:
        return ""
    return f'<p class="soft">{RULE if len(found[0].sides) > 1 else RULE_OF_ONE}</p>'


def examples(found: Sequence[Example]) -> str:
    """Answers, side by side where there are two."""
    return "".join(map(_example, found))


def config(text: str, name: str = CONFIG) -> str:
    """A configuration, folded."""
    if not text:
        return ""
    return (
        f"<details><summary>{escape(name)}</summary>"
        f'<pre tabindex="0">{escape(text)}</pre></details>'
    )


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode("ascii")
    return (
        f'<figure id="{picture.name}"><img src="data:image/png;base64,{data}" '
        f'alt="{escape(f"{picture.title}. {picture.says}")}">'
        f"<figcaption><b>{escape(picture.title)}.</b> {escape(picture.says)}</figcaption></figure>"
    )


def _example(example: Example) -> str:
    row = example.sides[0][1]
    return (
        f"<h3>{example.why[0].upper()}{example.why[1:]}: {_inline(row['problem'])}</h3>"
        f'<pre class="prompt" dir="auto" tabindex="0">{shorten(row["prompt"], *PROMPT)}</pre>'
        f'<p class="soft">Expected: {_inline(row["gold"])}</p>'
        f'<div class="answers">{"".join(_answer(*side) for side in example.sides)}</div>'
    )


def _answer(name: str, row: Row) -> str:
    verdict = '<b class="right">✓ right</b>' if row["match"] else '<b class="wrong">✗ wrong</b>'
    end = ", cut off" if row["finish"] == "length" else ""
    found = "nothing" if row["extracted"] is None else _inline(row["extracted"])
    return (
        f"<section><h4>{_inline(name)}: {verdict} <span>· {row['length']:,} tokens{end} · answered "
        f"{found} ({_inline(row['why'])})</span></h4>"
        f'<pre dir="auto" tabindex="0">{shorten(row["response"], *RESPONSE)}</pre></section>'
    )


def _inline(text: str) -> str:
    """A text within a line; whichever way it is written, the words around it stay in order."""
    return f"<bdi>{shorten(text, *SHORT)}</bdi>"
