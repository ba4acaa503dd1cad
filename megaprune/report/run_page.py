"""The page of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megaprune.report import page
from megaprune.report.charts import draw_lengths
from megaprune.report.curves import RunSegment, draw_curves
from megaprune.report.diagnostics import draw_diagnostics
from megaprune.report.figures import Picture
from megaprune.report.markup import escape, plain, table
from megaprune.report.page import draw_analyses
from megaprune.report.published import curve_of, results_of
from megaprune.report.run_records import RunRecord, model_of, read_run
from megaprune.report.summary import (
    AnswerExample,
    AnswerMeans,
    AnswerSummary,
    choose_pairs,
    choose_some,
    summarize,
)
from megaprune.report.trade_off import TradeOffPoint, draw_path


def run_page(path: Path, analyses: Sequence[Path]) -> page.Page:
    """Read a run, and show what it came to."""
    run = read_run(path)
    summary = summarize(run)
    model = model_of(run.config)
    outcomes, sets = (summary.outcomes, summary.sources) if summary.held_out else ((), ())
    curves = draw_curves([RunSegment(run, outcomes, published=curve_of(model, sets))])
    comparison = _draw_comparison(summary, model)
    behaviours = draw_analyses(analyses)
    diagnostics = draw_diagnostics(run)
    parts = [
        _tiles(run, summary),
        _method(summary),
        page.notes(_notes(run, summary)),
        page.figures("Over the steps", curves),
        page.figures("Before and after" if summary.change else "Lengths", comparison),
        _tables(run, summary),
        _answers(choose(run), summary),
        page.figures("Thoughts", behaviours),
        page.figures("Diagnostics", diagnostics, "small"),
        _metrics(run),
        "<h2>Configuration</h2>" + page.config(run.config_text) if run.config_text else "",
    ]
    pictures = [*curves, *comparison, *behaviours, *diagnostics]
    return page.make_page(
        run.path.resolve().name,
        f"{_claim(summary)}\n{_about(run)}",
        parts,
        pictures,
        steps=max(run.metrics),
    )


def choose(run: RunRecord) -> list[AnswerExample]:
    """Choose answers of the first and the last validation; without any, of training steps."""
    files = run.validations or run.samples
    paths = [*files.values()]
    if len(paths) > 1:
        return choose_pairs(paths[:1], paths[-1:], ("before", "after"))
    return choose_some(paths, f"step {min(files)}") if files else []


def _draw_comparison(summary: AnswerSummary, model: str) -> list[Picture]:
    """Draw lengths before and after, and accuracy against length."""
    pictures = []
    if summary.first is not None:
        rows = [(summary.outcomes[0], summary.first)]
        names, title = ["all"], "Lengths"
        if summary.change and summary.last is not None:
            rows = [(summary.change.before, summary.first), (summary.change.after, summary.last)]
            names, title = ["before", "after"], "Lengths before and after"
        drawn = [
            (f"{name}, step {outcome.at}", answers, outcome.tokens)
            for name, (outcome, answers) in zip(names, rows, strict=True)
        ]
        pictures.append(draw_lengths("histogram", title, drawn))
    if summary.held_out:
        points = [
            TradeOffPoint(f"step {outcome.at}", outcome.tokens, outcome.accuracy)
            for outcome in summary.outcomes
        ]
        sets = summary.sources
        published = results_of(frozenset({model}), sets[0]) if len(sets) == 1 else []
        pictures.append(draw_path("trade_off", points, "a validation", published))
    return pictures


def _claim(summary: AnswerSummary) -> str:
    if summary.change:
        return page.claim_change(summary.change)
    if summary.outcomes:
        return page.claim_one(summary.outcomes[0], "step")
    return page.claim(["There are no answers to compare."])


def _tiles(run: RunRecord, summary: AnswerSummary) -> str:
    limit = _limit(run, summary)
    if summary.change:
        return page.tiles_of_change(summary.change, limit)
    return page.tiles_of_one(summary.outcomes[0], limit) if summary.outcomes else ""


def _limit(run: RunRecord, summary: AnswerSummary) -> int | None:
    """The most tokens of the answers that are counted, if the configuration says it."""
    return run.validation_limit if summary.held_out else run.training_limit


def _about(run: RunRecord) -> str:
    """Say what was run, as far as the configuration tells."""
    last = max(run.metrics)
    planned = run.setting("steps")
    facts = [f"{last} of {planned} steps" if planned is not None else f"{last} steps"]
    for name, key in (
        ("model", "model"),
        ("training limit", "rollout.max_response_length"),
        ("validation limit", "validation.max_response_length"),
        ("answers per problem", "rollout.n"),
        ("seed", "seed"),
    ):
        value = model_of(run.config) if key == "model" else run.setting(key)
        if value not in (None, ""):
            facts.append(f"{name} {value}")
    return page.facts(facts)


def _method(summary: AnswerSummary) -> str:
    if not summary.outcomes:
        return ""
    what = "held-out validation problems" if summary.held_out else "training problems"
    ends = dict.fromkeys((summary.outcomes[0], summary.outcomes[-1]))
    steps = " and ".join(str(outcome.at) for outcome in ends)
    plural = "s" if len(ends) > 1 else ""
    return f'<p class="soft">On {what}, step{plural} {steps}. {page.METHOD}</p>'


def _notes(run: RunRecord, summary: AnswerSummary) -> list[str]:
    notes = [*run.notes, *summary.notes]
    if not summary.held_out and summary.outcomes:
        notes.insert(
            0,
            "This run has no validation: the numbers are of training answers, and not of held-out "
            "ones" + (", before and after on different problems." if summary.change else "."),
        )
    elif not summary.outcomes:
        notes.insert(0, "This run has kept no answers: the report has only its metrics.")
    elif not summary.change:
        notes.insert(0, "This run has one validation so far: there is a before, but no after.")
    if summary.held_out and summary.outcomes[0].at > 0:
        notes.append(
            f"The first validation is of step {summary.outcomes[0].at}: the model had already "
            "been trained."
        )
    return notes


def _tables(run: RunRecord, summary: AnswerSummary) -> str:
    every = ""
    if len(summary.outcomes) > 1:
        what = "validation" if summary.held_out else "step"
        rows = [_outcome_row(outcome) for outcome in summary.outcomes]
        head = ["step", "problems", "tokens", "accuracy", "cut off"]
        limit = _limit(run, summary)
        limits = [limit] if limit is not None else [each.limit for each in summary.outcomes]
        caption = f"Every {what}, with 95 % intervals. {page.cut_off_at(limits)}."
        every = table(head, rows, caption)
    return page.table_by_source(summary) + every


def _outcome_row(outcome: AnswerMeans) -> list[str]:
    return [
        str(outcome.at),
        f"{outcome.problems:,}",
        page.cell(outcome.tokens, "tokens"),
        page.cell(outcome.accuracy, "share"),
        page.cell(outcome.cut_off, "share"),
    ]


def _answers(examples: list[AnswerExample], summary: AnswerSummary) -> str:
    if not summary.outcomes:
        return ""
    nothing = '<p class="soft">The two steps have no problem in common to show.</p>'
    return f"<h2>Answers</h2>{page.rule(examples)}{page.examples(examples) or nothing}"


def _metrics(run: RunRecord) -> str:
    rows = []
    for name in sorted({name for row in run.metrics.values() for name in row}):
        steps, values = run.series(name)
        ends = (f"{plain(float(values[at]))}<small>step {steps[at]}</small>" for at in (0, -1))
        rows.append([escape(name), *ends])
    return "<h2>Metrics</h2>" + table(
        ["metric", "first", "last"], rows, "Every metric where it was first and last measured"
    )
