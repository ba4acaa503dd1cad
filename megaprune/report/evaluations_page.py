"""The page of evaluations: models beside each other, set by set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from megaprune.report import headline, page
from megaprune.report.analysis import draw_analyses
from megaprune.report.answers import read_answers
from megaprune.report.charts import (
    Line,
    draw_budgets,
    draw_lengths,
    draw_samples,
)
from megaprune.report.comparison import Comparison, read_comparison
from megaprune.report.evaluation import Against, Evaluation, Measured
from megaprune.report.examples import choose_pairs, choose_some
from megaprune.report.figures import Picture, file_name
from megaprune.report.markup import (
    escape,
    interval,
    percent,
    points,
    score,
    signed_percent,
    table,
    tokens,
)
from megaprune.report.summary import Estimate
from megaprune.report.trade_off import Point, draw_models

WORDS = "Cut off: at the limit. Unparsable: ended, but without an answer that can be read."
METHOD = (
    "Accuracy and tokens are means over problems, of each problem's mean over its samples, with "
    "95 % intervals (bootstrap over problems; of a difference: of the same problems, in pairs)."
)
AES = (
    " AES, the accuracy-efficiency score, is the share of tokens saved plus 3 times the relative "
    "change of accuracy if that is a gain, and less 5 times if it is a loss. Below it, absolute: "
    "with 3 times the change whatever its sign, as the table of O1-Pruner (arXiv 2501.12570) "
    "prints it, which credits losses."
)
_CLAIMS = 4
"""Models that a page can begin with a sentence for each of."""


def evaluations_page(
    paths: Sequence[Path], baseline: Path | None, analyses: Sequence[Path]
) -> page.Page:
    """Read evaluations, and say how they compare."""
    found = read_comparison(paths, baseline)
    by_set: dict[str, list[Picture]] = {}
    for index, name in enumerate(found.sets, start=1):
        # Two sets' names may be one as a file's.
        by_set[name] = _draw_set(found, name, file_name(f"{index}-{name}"))
    behaviours = draw_analyses(analyses)
    names = [one.name for one in found.evaluations]
    parts = [
        page.notes(found.notes),
        f"<h2>Results</h2>{_table(found)}",
        *(page.figures(name, pictures) for name, pictures in by_set.items()),
        f"<h2>Answers</h2>{_examples(found)}",
        page.figures("Thoughts", behaviours),
        "<h2>Configuration</h2>"
        + "".join(
            page.config(one.config_text, f"{one.name}: {one.path}/config.yaml")
            for one in found.evaluations
        ),
    ]
    pictures = [picture for some in by_set.values() for picture in some]
    header = f'{_claim(found)}\n{_about(found)}<p class="soft">{METHOD}</p>'
    return page.make_page(" · ".join(names), header, parts, [*pictures, *behaviours])


def _others(found: Comparison) -> list[Evaluation]:
    return [one for one in found.evaluations if one is not found.baseline]


def _claim(found: Comparison) -> str:
    lines = [_claim_against(one, found.baseline) for one in _others(found)]
    if found.baseline is not None and 0 < len(lines) <= _CLAIMS and all(lines):
        return headline.claim(lines)
    if len(found.evaluations) == 1 and len(found.sets) == 1:
        (measured,) = found.evaluations[0].sets.values()
        return headline.claim(
            [
                f"{escape(measured.name)}: answers have {tokens(measured.tokens.value)} tokens and "
                f"{percent(measured.accuracy.value)} of them are right."
            ]
        )
    models, sets = len(found.evaluations), len(found.sets)
    return headline.claim(
        [f"{models} model{'s' * (models > 1)} on {sets} set{'s' * (sets > 1)} of problems."]
    )


def _claim_against(one: Evaluation, base: Evaluation | None) -> str:
    """The mean of all sets' changes, as in the table; nothing if there are none."""
    changes = [m.against for m in one.sets.values() if m.against is not None]
    if base is None or not changes:
        return ""
    length = float(np.mean([change.length_ratio for change in changes])) - 1
    right = float(np.mean([change.accuracy.value for change in changes]))
    return (
        f"{escape(one.name)}: answers are {headline.longer_or_shorter(length)}, accuracy "
        f"{points(right)}."
    )


def _about(found: Comparison) -> str:
    """Models and settings that all have."""
    facts = [f"{one.name}: {one.model}" for one in found.evaluations]
    if found.baseline is not None:
        facts.append(f"compared with {found.baseline.name}")
        if len(found.sets) > 1:
            facts.append("changes above: means of the sets' changes")
    for name in ("max_response_length", "temperature", "top_p", "seed"):
        values = [one.settings.get(name) for one in found.evaluations]
        if values[0] is not None and all(value == values[0] for value in values):
            facts.append(f"{name} {values[0]}")
    return headline.facts(facts)


def _table(found: Comparison) -> str:
    compared = any(m.against for one in found.evaluations for m in one.sets.values())
    failed = any(m.grading_failed for one in found.evaluations for m in one.sets.values())
    head = ["model", "problems", "accuracy", "tokens", "cut off", "unparsable"]
    head += ["grading failed"] * failed
    head += ["change of accuracy", "change of tokens", "AES<small>absolute</small>"] * compared
    rows = []
    for name in found.sets:
        rows.append([escape(name)])
        for one in found.evaluations:
            if name in one.sets:
                rows.append(_row(one, one.sets[name], failed, compared))
    if len(found.shared) > 1:
        rows.append([f"Mean of the {len(found.shared)} sets that all have"])
        for one in found.evaluations:
            rows.append(_mean_row(one, [one.sets[name] for name in found.shared], failed, compared))
    said = WORDS + AES * compared
    return f'{table(head, rows, "Every model on every set")}<p class="soft">{said}</p>'


def _row(one: Evaluation, measured: Measured, failed: bool, compared: bool) -> list[str]:
    cells = [
        escape(one.name),
        f"{measured.problems:,}<small>{measured.samples:,} samples</small>",
        headline.cell(measured.accuracy, "share"),
        headline.cell(measured.tokens, "tokens"),
        percent(measured.cut_off),
        percent(measured.unparsable),
    ]
    cells += [percent(measured.grading_failed)] * failed
    return cells + (_compared(measured.against) if compared else [])


def _compared(against: Against | None) -> list[str]:
    if against is None:
        return ["", "", ""]
    return [
        f"{points(against.accuracy.value)}<small>{interval(against.accuracy, 'change')}</small>",
        signed_percent(against.length_ratio - 1),
        _scores(*against.aes) if against.aes else "–",
    ]


def _mean_row(one: Evaluation, some: Sequence[Measured], failed: bool, compared: bool) -> list[str]:
    """Plain means of the sets' numbers; so the AES is the mean of the sets' scores."""

    def mean(of: Callable[[Measured], float]) -> float:
        return float(np.mean([of(measured) for measured in some]))

    problems, samples = (sum(getattr(m, name) for m in some) for name in ("problems", "samples"))
    cells = [
        escape(one.name),
        f"{problems:,}<small>{samples:,} samples</small>",
        percent(mean(lambda m: m.accuracy.value)),
        tokens(mean(lambda m: m.tokens.value)),
        percent(mean(lambda m: m.cut_off)),
        percent(mean(lambda m: m.unparsable)),
    ]
    cells += [percent(mean(lambda m: m.grading_failed))] * failed
    changes = [m.against for m in some if m.against is not None]
    if not compared:
        return cells
    if len(changes) < len(some):
        return [*cells, "", "", ""]
    scores = [change.aes for change in changes if change.aes is not None]
    return [
        *cells,
        points(float(np.mean([change.accuracy.value for change in changes]))),
        signed_percent(float(np.mean([change.length_ratio for change in changes])) - 1),
        _scores(*np.mean(scores, axis=0)) if len(scores) == len(changes) else "–",
    ]


def _scores(signed: float, absolute: float) -> str:
    return f"{score(signed)}<small>{score(absolute)}</small>"


def _draw_set(found: Comparison, name: str, file: str) -> list[Picture]:
    """All figures of a set, in files named so."""
    measured = {one.name: one.sets[name] for one in found.evaluations if name in one.sets}
    base = found.baseline.name if found.baseline else None
    marks = [
        Point(model, m.tokens, m.accuracy, [m.at_budget[at][::-1] for at in sorted(m.at_budget)])
        for model, m in measured.items()
    ]
    lengths = [(model, read_answers(*m.files), m.tokens) for model, m in measured.items()]
    limits = {one.name: one.settings.get("max_response_length") for one in found.evaluations}
    pictures = [
        draw_models(f"{file}_trade_off", marks, base),
        draw_lengths(f"{file}_histogram", "Lengths", lengths),
        draw_budgets(
            f"{file}_budgets",
            [_budget_line(model, m, limits[model]) for model, m in measured.items()],
        ),
        draw_samples(
            f"{file}_samples",
            [Line(model, m.pass_at, m.majority_at) for model, m in measured.items()],
        ),
    ]
    return [picture for picture in pictures if picture is not None]


def _budget_line(model: str, measured: Measured, limit: object) -> Line:
    """With the limit that the samples really had as the last budget."""
    solid = {at: measured.at_budget[at][0] for at in sorted(measured.at_budget)}
    if isinstance(limit, int) and all(limit > at for at in solid):
        solid[limit] = measured.accuracy.value
    forced: dict[int, Estimate] = {at: measured.forced[at] for at in sorted(measured.forced)}
    return Line(model, solid, marks=forced)


def _examples(found: Comparison) -> str:
    """Of each model beside the baseline; without one, of each model alone."""
    base, rule = found.baseline, ""
    parts: list[str] = []
    for one in _others(found) or found.evaluations:
        if base is None or base is one:
            chosen, title = choose_some(_files(one), one.name), one.name
        else:
            chosen = choose_pairs(_files(base), _files(one), (base.name, one.name))
            title = f"{base.name} and {one.name}"
        rule = rule or page.rule(chosen)
        nothing = '<p class="soft">They have no answer to the same problem to show.</p>'
        shown = page.examples(chosen) or nothing
        is_open = " open" * (not parts)
        parts.append(f"<details{is_open}><summary>{escape(title)}</summary>{shown}</details>")
    return rule + "".join(parts)


def _files(one: Evaluation) -> list[Path]:
    return [file for measured in one.sets.values() for file in measured.files]
