"""A report as one page of HTML that needs nothing else: no scripts, no other files, no network."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megaprune import schema
from megaprune.analyze.summary import behaviour_figure
from megaprune.errors import InputError
from megaprune.report import STEPS_META
from megaprune.report.figures import Picture, number, to_png
from megaprune.report.markup import (
    CSS,
    SHORT,
    TIGHT,
    escape,
    interval,
    percent,
    points,
    shorten,
    signed_percent,
    table,
    tokens,
)
from megaprune.report.run_records import SampleRow
from megaprune.report.summary import (
    RESAMPLES,
    RULE,
    RULE_OF_ONE,
    AnswerExample,
    AnswerMeans,
    AnswerSummary,
    Estimate,
    MeansChange,
)

# Of a long text, what is shown: an answer's end is where it is given.
PROMPT = (2000, 500)
RESPONSE = (4000, 2000)
# A browser obeys this even if a text got through as markup: nothing runs, nothing is fetched.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'"


@dataclass(frozen=True)
class Page:
    """A page, the figures that are in it, and files of numbers beside it, by their names."""

    html: str
    pictures: tuple[Picture, ...]
    tables: Mapping[str, bytes] = field(default_factory=dict)


def make_page(
    name: str,
    header: str,
    parts: Sequence[str],
    pictures: Sequence[Picture],
    steps: int | None = None,
) -> Page:
    """Put a page together.

    Args:
        name: the name of what the page is about.
        header: HTML of the claim and what goes with it.
        parts: HTML of what follows; empty parts are left out.
        pictures: all figures that the parts show.
        steps: how many steps the run had done that the page is of; `steps_on_page` reads it.
    """
    meta = "" if steps is None else f'{STEPS_META}{steps}">\n'
    html = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n{meta}'
        f"<title>{escape(name)} · megaprune</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        f"<header>\n<h1>megaprune · {escape(name)}</h1>\n{header}\n</header>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )
    return Page(html, tuple(pictures))


def notes(texts: Sequence[str]) -> str:
    """Show what a reader must know."""
    return "".join(f'<p class="note">{escape(text)}</p>' for text in texts)


def figures(title: str, pictures: Sequence[Picture], kind: str = "") -> str:
    """Show figures under a heading; nothing if there are none."""
    if not pictures:
        return ""
    return (
        f'<h2>{escape(title)}</h2>\n<div class="figures {kind}">'
        + "".join(_figure(picture) for picture in pictures)
        + "</div>"
    )


def rule(chosen: Sequence[AnswerExample]) -> str:
    """Say by what rule answers were chosen."""
    if not chosen:
        return ""
    return f'<p class="soft">{RULE if len(chosen[0].sides) > 1 else RULE_OF_ONE}</p>'


def examples(chosen: Sequence[AnswerExample]) -> str:
    """Show answers, side by side where there are two."""
    return "".join(map(_example, chosen))


def config(text: str, name: str = schema.CONFIG_FILE) -> str:
    """Show a configuration, folded."""
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
        f'alt="{escape(f"{picture.title}. {picture.caption}")}">'
        f"<figcaption><b>{escape(picture.title)}.</b> {escape(picture.caption)}</figcaption>"
        "</figure>"
    )


def _example(example: AnswerExample) -> str:
    row = example.sides[0][1]
    return (
        f"<h3>{example.why[0].upper()}{example.why[1:]}: {_inline(row['problem'])}</h3>"
        f'<pre class="prompt" dir="auto" tabindex="0">{shorten(row["prompt"], *PROMPT)}</pre>'
        f'<p class="soft">Expected: {_inline(row["gold"])}</p>'
        f'<div class="answers">{"".join(_answer(*side) for side in example.sides)}</div>'
    )


def _answer(name: str, row: SampleRow) -> str:
    verdict = '<b class="right">✓ right</b>' if row["match"] else '<b class="wrong">✗ wrong</b>'
    end = ", cut off" if row["finish"] == "length" else ""
    extracted = "nothing" if row["extracted"] is None else _inline(row["extracted"])
    return (
        f"<section><h4>{_inline(name)}: {verdict} <span>· {row['length']:,} tokens{end} · answered "
        f"{extracted} ({_inline(row['why'])})</span></h4>"
        f'<pre dir="auto" tabindex="0">{shorten(row["response"], *RESPONSE)}</pre></section>'
    )


def _inline(text: str) -> str:
    """Show a text within a line; whichever way it is written, the words around it stay in order."""
    return f"<bdi>{shorten(text, *SHORT)}</bdi>"


ARROW = "<i>→</i>"
METHOD = (
    "Means over problems, of each problem's mean over its answers. Intervals: bootstrap over "
    f"problems, {RESAMPLES:,} resamples; Wilson's score interval where a share is the same for all "
    "problems, as at 0 and 100\u00a0%."
)
ROUNDED = 0.0005
"""What is less is 0.0 % on the page."""


def claim(lines: list[str]) -> str:
    """Show the page's first sentences, each on a line of its own."""
    return f'<p class="claim">{" ".join(f"<span>{line}</span>" for line in lines)}</p>'


def facts(texts: list[str]) -> str:
    """Show facts in a line."""
    return f'<p class="soft">{" · ".join(shorten(fact, *SHORT) for fact in texts)}</p>'


def claim_change(change: MeansChange) -> str:
    """Say how answers changed."""
    old, new = change.before, change.after
    return claim(
        [
            f"Answers are {longer_or_shorter(change.tokens.value)}: "
            f"{tokens(old.tokens.value)} → {tokens(new.tokens.value)} tokens.",
            f"Accuracy: {percent(old.accuracy.value)} → {percent(new.accuracy.value)}, "
            f"{points(change.accuracy.value)}.",
        ]
    )


def claim_one(outcome: AnswerMeans, unit: str) -> str:
    """Say what answers are like that are compared with nothing."""
    return claim(
        [
            f"At {unit} {outcome.at} answers have {tokens(outcome.tokens.value)} tokens and "
            f"{percent(outcome.accuracy.value)} of them are right."
        ]
    )


def cut_off_at(limits: Iterable[int | None]) -> str:
    """Say at how many tokens answers were cut off: `Answers cut off at 4,000 tokens`.

    Args:
        limits: of the sets of answers; those that are not known are left out.
    """
    known = [f"{limit:,}" for limit in dict.fromkeys(limits) if limit is not None]
    return f"Answers cut off at {' and '.join(known)} tokens" if known else "Answers cut off"


def longer_or_shorter(change: float, other: str = "before") -> str:
    """Say a relative change of length: `40.0 % shorter`, or `as long as before`.

    Args:
        change: of the mean tokens; not finite if there were none before.
        other: what answers are as long as, where nothing is left of the change once it is rounded.
    """
    if math.isnan(change) or abs(change) < ROUNDED:
        return f"as long as {other}"
    word = "shorter" if change < 0 else "longer"
    return f"{percent(abs(change))} {word}" if math.isfinite(change) else word


def tiles_of_change(change: MeansChange, limit: int | None = None) -> str:
    """Show tiles from before to after, with intervals of the changes.

    Args:
        limit: the most tokens of an answer; None for what the answers themselves tell.
    """
    old, new = change.before, change.after
    return _tiles(
        (
            "Mean tokens per answer",
            f"{tokens(old.tokens.value)} {ARROW} {tokens(new.tokens.value)}",
            _with_interval(signed_percent(change.tokens.value), change.tokens, "%"),
        ),
        (
            "Accuracy",
            f"{percent(old.accuracy.value)} {ARROW} {percent(new.accuracy.value)}",
            _with_interval(points(change.accuracy.value), change.accuracy, "points"),
        ),
        (
            cut_off_at([limit] if limit is not None else [old.limit, new.limit]),
            f"{percent(old.cut_off.value)} {ARROW} {percent(new.cut_off.value)}",
            _with_interval(points(change.cut_off.value), change.cut_off, "points"),
        ),
        _tile_of_problems(old, new),
    )


def tiles_of_one(outcome: AnswerMeans, limit: int | None = None) -> str:
    """Show tiles of one set of answers, with intervals; `limit` as in `tiles_of_change`."""
    shares = (
        ("Accuracy", outcome.accuracy),
        (cut_off_at([outcome.limit if limit is None else limit]), outcome.cut_off),
    )
    return _tiles(
        (
            "Mean tokens per answer",
            tokens(outcome.tokens.value),
            _bounds(interval(outcome.tokens, "tokens")),
        ),
        *(
            (name, percent(share.value), _bounds(interval(share, "share"), "%"))
            for name, share in shares
        ),
        _tile_of_problems(outcome, outcome),
    )


def cell(estimate: Estimate, kind: str) -> str:
    """Fill a table's cell with tokens or a share, and the interval in small."""
    value = tokens(estimate.value) if kind == "tokens" else percent(estimate.value)
    return f"{value}<small>{interval(estimate, kind)}</small>"


def table_by_source(summary: AnswerSummary) -> str:
    """Show the changes of each data source; nothing if there is only one."""
    if not summary.by_source:
        return ""
    rows = [_source_row(source, change) for source, change in summary.by_source.items()]
    head = ["data source", "problems", "tokens", "accuracy"]
    return table(head, rows, "By data source, with 95 % intervals of the changes")


def _source_row(source: str, change: MeansChange) -> list[str]:
    old, new = change.before, change.after
    return [
        escape(source),
        f"{new.problems:,}",
        f"{tokens(old.tokens.value)} {ARROW} {tokens(new.tokens.value)}"
        f"<small>{signed_percent(change.tokens.value)}</small>"
        f"<small>{interval(change.tokens, 'change')}</small>",
        f"{percent(old.accuracy.value)} {ARROW} {percent(new.accuracy.value)}"
        f"<small>{points(change.accuracy.value)}</small>"
        f"<small>{interval(change.accuracy, 'change')}</small>",
    ]


def _tile_of_problems(old: AnswerMeans, new: AnswerMeans) -> tuple[str, str, str]:
    problems = [f"{outcome.problems:,}" for outcome in (old, new)]
    answers = [f"{outcome.answers:,}" for outcome in (old, new)]
    return (
        "Problems",
        problems[0] if old.problems == new.problems else f" {ARROW} ".join(problems),
        f"{answers[0] if old.answers == new.answers else ' and '.join(answers)} answers"
        + (" each time" if old is not new and old.answers == new.answers else ""),
    )


def _tiles(*tiles: tuple[str, str, str]) -> str:
    cells = "".join(
        f'<div class="tile"><dt>{name}</dt><dd class="value">{value}</dd>'
        f'<dd class="less">{less}</dd></div>'
        for name, value, less in tiles
    )
    return f'<dl class="tiles">{cells}</dl>'


def _with_interval(text: str, estimate: Estimate, unit: str) -> str:
    return f"<b>{text}</b><br>{_bounds(interval(estimate, 'change'), unit)}"


def _bounds(bounds: str, unit: str = "") -> str:
    unit = unit and TIGHT + unit
    return (
        f'<span class="soft">95{TIGHT}% interval <span class="bounds">{bounds}{unit}</span></span>'
    )


_NAMED = 3
"""How many kinds a caption names for each input; the figure has all of them."""


def draw_analyses(paths: Sequence[Path]) -> list[Picture]:
    """Draw a figure of each analysis.

    Raises:
        InputError: a folder's analysis cannot be read.
    """
    return [
        _draw_analysis(path, f"behaviours_{index}") for index, path in enumerate(paths, start=1)
    ]


def _draw_analysis(path: Path, name: str) -> Picture:
    file = path / schema.ANALYSIS_FILE
    try:
        analysis = json.loads(file.read_text(encoding="utf-8"))
        judged = analysis["mode"] == "judge"
        kinds = "; ".join(_most_frequent(analysed, judged) for analysed in analysis["inputs"])
        counts = "; ".join(map(_thoughts, analysis["inputs"]))
        png = to_png(behaviour_figure(analysis))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(
            f"{file}: cannot be read as an analysis ({error!r}); `megaprune analyze` writes it: "
            f"run the same command again"
        ) from error
    what = "Share of steps" if judged else "Sentences per answer"
    title = "What thoughts consist of" if judged else "Words of doubt in thoughts"
    return Picture(name, png, title, f"{what}: {kinds}. Of each problem's first answer: {counts}.")


def _thoughts(analysed: Mapping[str, Any]) -> str:
    """Say how many thoughts of one input were looked at; older analyses had closed ones alone."""
    still_open = analysed.get("open", 0)
    cut = f", {still_open:,} of them cut off before they were closed" if still_open else ""
    return f"{analysed['name']} {analysed['answers']:,} of {analysed['problems']:,} thoughts{cut}"


def _most_frequent(analysed: Mapping[str, Any], judged: bool) -> str:
    """Name the most frequent kinds of one input."""
    if judged:
        amounts = {kind: numbers["share"] for kind, numbers in analysed["behaviours"].items()}
    else:
        amounts = dict(analysed["lexical"])
    known = sorted(
        (kind for kind in amounts if amounts[kind] is not None), key=lambda k: -amounts[k]
    )
    kinds = [f"{kind} {number(amounts[kind], '.1%' if judged else '.2f')}" for kind in known]
    return f"{analysed['name']} {', '.join(kinds[:_NAMED]) or 'no thought that could be used'}"
