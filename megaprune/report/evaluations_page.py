"""The page of evaluations: models beside each other, set by set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from megaprune.evaluation.metrics import area_under_budgets, ock_score
from megaprune.report import page
from megaprune.report.charts import (
    AccuracyLine,
    draw_budgets,
    draw_intervals,
    draw_lengths,
    draw_samples,
)
from megaprune.report.evaluation_records import (
    BaselineChange,
    EvaluationComparison,
    EvaluationRecord,
    SetRecord,
    read_comparison,
)
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
from megaprune.report.page import draw_analyses
from megaprune.report.published import results_of
from megaprune.report.run_records import read_answers
from megaprune.report.summary import Estimate, choose_pairs, choose_some
from megaprune.report.trade_off import TradeOffPoint, draw_models

WORDS = "Unparsable: ended, but without an answer that can be read."
METHOD = (
    "Accuracy and tokens are means over problems, of each problem's mean over its samples, with "
    "95 % intervals: bootstrap over problems, or Wilson's score interval of a share that is the "
    "same for all problems, as at 0 and 100\u00a0%."
)
OF_DIFFERENCES = " Differences are of the same problems, in pairs."
EFFICIENCY = (
    " OckScore (2511.05722) is the accuracy in percent less 10 ln(tokens / 10,000 + 1). The budget "
    "area is the mean accuracy over budgets, if responses were cut there, each doubling of the "
    "budget weighing the same."
)
GAP = (
    " REG, the reasoning efficiency gap (2506.07104), is the area between the best accuracy that "
    "is known within each number of tokens and a model's own, in tokens."
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
    """Read evaluations, and show how they compare."""
    comparison = read_comparison(paths, baseline)
    names = [evaluation.name for evaluation in comparison.evaluations]
    return show_comparison(comparison, analyses, " · ".join(names))


def show_comparison(
    comparison: EvaluationComparison,
    analyses: Sequence[Path],
    title: str,
    more: Sequence[str] = (),
    configuration: str = "",
) -> page.Page:
    """Show how evaluations compare.

    Args:
        title: the name of what the page is about.
        more: HTML of parts that follow the results.
        configuration: HTML that comes before the evaluations' own configurations.
    """
    by_set: dict[str, list[Picture]] = {}
    for index, name in enumerate(comparison.sets, start=1):
        # Two sets' names may be one as a file's.
        by_set[name] = _draw_set(comparison, name, file_name(f"{index}-{name}"))
    behaviours = draw_analyses(analyses)
    parts = [
        page.notes(comparison.notes),
        f"<h2>Results</h2>{_table(comparison)}",
        *more,
        *(page.figures(name, pictures) for name, pictures in by_set.items()),
        f"<h2>Answers</h2>{_examples(comparison)}",
        page.figures("Thoughts", behaviours),
        f"<h2>Configuration</h2>{configuration}"
        + "".join(
            page.config(evaluation.config_text, f"{evaluation.name}: {evaluation.path}/config.yaml")
            for evaluation in comparison.evaluations
        ),
    ]
    pictures = [picture for drawn in by_set.values() for picture in drawn]
    method = METHOD + OF_DIFFERENCES * _compares(comparison)
    header = f'{_claim(comparison)}\n{_about(comparison)}<p class="soft">{method}</p>'
    return page.make_page(title, header, parts, [*pictures, *behaviours])


def _others(comparison: EvaluationComparison) -> list[EvaluationRecord]:
    return [
        evaluation for evaluation in comparison.evaluations if evaluation is not comparison.baseline
    ]


def _claim(comparison: EvaluationComparison) -> str:
    lines = [_claim_against(evaluation, comparison.baseline) for evaluation in _others(comparison)]
    if comparison.baseline is not None and 0 < len(lines) <= _CLAIMS and all(lines):
        return page.claim(lines)
    if len(comparison.evaluations) == 1 and len(comparison.sets) == 1:
        (measured,) = comparison.evaluations[0].sets.values()
        return page.claim(
            [
                f"{escape(measured.name)}: answers have {tokens(measured.tokens.value)} tokens and "
                f"{percent(measured.accuracy.value)} of them are right."
            ]
        )
    models, sets = len(comparison.evaluations), len(comparison.sets)
    return page.claim(
        [f"{models} model{'s' * (models > 1)} on {sets} set{'s' * (sets > 1)} of problems."]
    )


def _claim_against(evaluation: EvaluationRecord, base: EvaluationRecord | None) -> str:
    """Say the mean change over all sets, as the table has it; nothing if there are no changes."""
    changes = [m.against for m in evaluation.sets.values() if m.against is not None]
    if base is None or not changes:
        return ""
    length = float(np.mean([change.length_ratio for change in changes])) - 1
    right = float(np.mean([change.accuracy.value for change in changes]))
    return (
        f"{escape(evaluation.name)}: answers are "
        f"{page.longer_or_shorter(length, f'those of {escape(base.name)}')}, accuracy "
        f"{points(right)}."
    )


def _about(comparison: EvaluationComparison) -> str:
    """Name the models, and the settings that all of them share."""
    facts = [f"{evaluation.name}: {evaluation.model}" for evaluation in comparison.evaluations]
    if comparison.baseline is not None:
        facts.append(f"compared with {comparison.baseline.name}")
        if len(comparison.sets) > 1:
            facts.append("changes above: means of the sets' changes")
    for name in ("max_response_length", "temperature", "top_p", "seed"):
        values = [evaluation.settings.get(name) for evaluation in comparison.evaluations]
        if values[0] is not None and all(value == values[0] for value in values):
            facts.append(f"{name} {values[0]}")
    return page.facts(facts)


def _compares(comparison: EvaluationComparison) -> bool:
    return any(
        measured.against
        for evaluation in comparison.evaluations
        for measured in evaluation.sets.values()
    )


def _cut_off_words(comparison: EvaluationComparison) -> str:
    """Say at how many tokens answers were cut off, of each evaluation if they differ."""
    limits = {
        evaluation.name: evaluation.settings.get("max_response_length")
        for evaluation in comparison.evaluations
    }
    known = {name: limit for name, limit in limits.items() if isinstance(limit, int)}
    if len(known) == len(limits) and len({*known.values()}) == 1:
        return f"Cut off: at {next(iter(known.values())):,} tokens (max_response_length)."
    each = [f"{escape(name)} at {limit:,} tokens" for name, limit in known.items()]
    return f"Cut off: {', '.join(each) or 'at max_response_length'}."


def _table(comparison: EvaluationComparison) -> str:
    compared = _compares(comparison)
    failed = any(
        m.grading_failed for evaluation in comparison.evaluations for m in evaluation.sets.values()
    )
    head = ["model", "problems", "accuracy", "tokens", "cut off", "unparsable"]
    head += ["grading failed"] * failed
    head += ["OckScore<small>budget area</small>"]
    head += ["change of accuracy", "change of tokens", "AES<small>absolute</small>"] * compared
    rows = []
    for name in comparison.sets:
        rows.append([escape(name)])
        for evaluation in comparison.evaluations:
            if name in evaluation.sets:
                rows.append(_row(evaluation, evaluation.sets[name], failed, compared))
    if len(comparison.shared) > 1:
        rows.append([f"Mean of the {len(comparison.shared)} sets that all have"])
        for evaluation in comparison.evaluations:
            rows.append(
                _mean_row(
                    evaluation,
                    [evaluation.sets[name] for name in comparison.shared],
                    failed,
                    compared,
                )
            )
    sets = [m for evaluation in comparison.evaluations for m in evaluation.sets.values()]
    gaps = any(measured.efficiency_gap is not None for measured in sets)
    explanation = f"{_cut_off_words(comparison)} {WORDS}{EFFICIENCY}" + GAP * gaps + AES * compared
    return f'{table(head, rows, "Every model on every set")}<p class="soft">{explanation}</p>'


def _row(
    evaluation: EvaluationRecord, measured: SetRecord, failed: bool, compared: bool
) -> list[str]:
    cells = [
        escape(evaluation.name),
        f"{measured.problems:,}<small>{measured.samples:,} samples</small>",
        page.cell(measured.accuracy, "share"),
        page.cell(measured.tokens, "tokens"),
        percent(measured.cut_off),
        percent(measured.unparsable),
    ]
    cells += [percent(measured.grading_failed)] * failed
    cells.append(_efficiency([measured]))
    return cells + (_compared(measured.against) if compared else [])


def _efficiency(sets: Sequence[SetRecord]) -> str:
    """OckScore; below it the area under accuracy over budgets, and REG; their means over sets."""
    scores = [ock_score(m.accuracy.value, m.tokens.value) for m in sets]
    areas = [area_under_budgets({b: a for b, (a, _) in m.at_budget.items()}) for m in sets]
    known = [area for area in areas if area is not None]
    area = f"<small>{percent(float(np.mean(known)))}</small>" if len(known) == len(sets) else ""
    gaps = [m.efficiency_gap for m in sets if m.efficiency_gap is not None]
    gap = f"<small>REG {float(np.mean(gaps)):,.1f}</small>" if len(gaps) == len(sets) else ""
    return f"{float(np.mean(scores)):.1f}{area}{gap}"


def _compared(against: BaselineChange | None) -> list[str]:
    if against is None:
        return ["", "", ""]
    return [
        f"{points(against.accuracy.value)}<small>{interval(against.accuracy, 'change')}</small>",
        signed_percent(against.length_ratio - 1),
        _scores(*against.aes) if against.aes else "–",
    ]


def _mean_row(
    evaluation: EvaluationRecord, sets: Sequence[SetRecord], failed: bool, compared: bool
) -> list[str]:
    """Average the sets' numbers plainly; so the AES is the mean of the sets' scores."""

    def mean(of: Callable[[SetRecord], float]) -> float:
        return float(np.mean([of(measured) for measured in sets]))

    problems, samples = (sum(getattr(m, name) for m in sets) for name in ("problems", "samples"))
    cells = [
        escape(evaluation.name),
        f"{problems:,}<small>{samples:,} samples</small>",
        percent(mean(lambda m: m.accuracy.value)),
        tokens(mean(lambda m: m.tokens.value)),
        percent(mean(lambda m: m.cut_off)),
        percent(mean(lambda m: m.unparsable)),
    ]
    cells += [percent(mean(lambda m: m.grading_failed))] * failed
    cells.append(_efficiency(sets))
    changes = [m.against for m in sets if m.against is not None]
    if not compared:
        return cells
    if len(changes) < len(sets):
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


def _draw_set(comparison: EvaluationComparison, name: str, file: str) -> list[Picture]:
    """Draw all figures of a set, in files whose names begin with `file`."""
    measured = {
        evaluation.name: evaluation.sets[name]
        for evaluation in comparison.evaluations
        if name in evaluation.sets
    }
    base = comparison.baseline.name if comparison.baseline else None
    marks = [
        TradeOffPoint(
            model, m.tokens, m.accuracy, [m.at_budget[at][::-1] for at in sorted(m.at_budget)]
        )
        for model, m in measured.items()
    ]
    models = frozenset(evaluation.model for evaluation in comparison.evaluations)
    lengths = [(model, read_answers(*m.files), m.tokens) for model, m in measured.items()]
    limits = {
        evaluation.name: evaluation.settings.get("max_response_length")
        for evaluation in comparison.evaluations
    }
    pictures = [
        draw_models(f"{file}_trade_off", marks, base, results_of(models, name)),
        draw_lengths(f"{file}_histogram", "Lengths", lengths),
        draw_budgets(
            f"{file}_budgets",
            [_budget_line(model, m, limits[model]) for model, m in measured.items()],
        ),
        draw_samples(
            f"{file}_samples",
            [AccuracyLine(model, m.pass_at, m.majority_at) for model, m in measured.items()],
        ),
        draw_intervals(
            f"{file}_intervals",
            [AccuracyLine(model, m.by_rank, m.by_width) for model, m in measured.items()],
        ),
    ]
    return [picture for picture in pictures if picture is not None]


def _budget_line(model: str, measured: SetRecord, limit: object) -> AccuracyLine:
    """Make the line of a model, with the limit that its samples really had as the last budget."""
    solid = {at: measured.at_budget[at][0] for at in sorted(measured.at_budget)}
    if isinstance(limit, int) and all(limit > at for at in solid):
        solid[limit] = measured.accuracy.value
    early: dict[int, Estimate] = {at: measured.exit_at[at] for at in sorted(measured.exit_at)}
    return AccuracyLine(model, solid, marks=early)


def _examples(comparison: EvaluationComparison) -> str:
    """Show answers of each model beside those of the baseline; without one, of each model alone."""
    base, rule = comparison.baseline, ""
    parts: list[str] = []
    for evaluation in _others(comparison) or comparison.evaluations:
        if base is None or base is evaluation:
            chosen, title = choose_some(_files(evaluation), evaluation.name), evaluation.name
        else:
            chosen = choose_pairs(_files(base), _files(evaluation), (base.name, evaluation.name))
            title = f"{base.name} and {evaluation.name}"
        rule = rule or page.rule(chosen)
        nothing = '<p class="soft">They have no answer to the same problem to show.</p>'
        shown = page.examples(chosen) or nothing
        is_open = " open" * (not parts)
        parts.append(f"<details{is_open}><summary>{escape(title)}</summary>{shown}</details>")
    return rule + "".join(parts)


def _files(evaluation: EvaluationRecord) -> list[Path]:
    return [file for measured in evaluation.sets.values() for file in measured.files]
