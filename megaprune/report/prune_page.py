"""The page of a pruning: its rounds, and what they came to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megaprune import schema
from megaprune.report import page
from megaprune.report.charts import draw_lengths
from megaprune.report.curves import RunSegment, draw_curves
from megaprune.report.figures import Picture
from megaprune.report.markup import escape, link, path_between, points, signed_percent, table
from megaprune.report.page import draw_analyses
from megaprune.report.pruning_records import PruningRecord, RoundRecord, read_pruning
from megaprune.report.published import PublishedCurve, curve_of, results_of
from megaprune.report.run_records import (
    AnswerTable,
    find_setting,
    model_of,
    read_answers,
)
from megaprune.report.summary import (
    AnswerExample,
    AnswerMeans,
    AnswerSummary,
    choose_pairs,
    choose_some,
    describe,
    summarize_sets,
)
from megaprune.report.trade_off import TradeOffPoint, draw_path


def prune_page(path: Path, analyses: Sequence[Path], out: Path) -> page.Page:
    """Read a pruning, and show what its rounds came to, with links from `out` to their pages."""
    pruning = read_pruning(path)
    shown = _shown(pruning)
    sets = {0: read_answers(pruning.start)} if pruning.start else {}
    sets |= {ended.number: read_answers(ended.answers) for ended in pruning.rounds}
    ends = (0, shown.number) if pruning.start else None
    summary = summarize_sets(sets, held_out=True, ends=ends)
    outcomes = {outcome.at: outcome for outcome in summary.outcomes}
    model = model_of(pruning.config)
    comparison = _draw_rounds(outcomes, sets, model, summary.sources)
    curves = draw_curves(_segments(pruning.rounds, curve_of(model, summary.sources)))
    behaviours = draw_analyses(analyses)
    parts = [
        page.tiles_of_change(summary.change, shown.run.validation_limit)
        if summary.change
        else page.tiles_of_one(outcomes[shown.number], shown.run.validation_limit),
        f'<p class="soft">On held-out validation problems. {page.METHOD}</p>',
        page.notes(_notes(pruning, summary)),
        f"<h2>Rounds</h2>{_table(pruning, outcomes, out)}",
        page.figures("Round by round", comparison),
        page.figures("Over the steps", curves),
        page.table_by_source(summary),
        f"<h2>Answers</h2>{_examples(pruning, shown)}",
        page.figures("Thoughts", behaviours),
        "<h2>Configuration</h2>" + page.config(pruning.config_text) if pruning.config_text else "",
    ]
    name = pruning.path.resolve().name
    header = f"{_claim(pruning, summary, outcomes)}\n{_about(pruning)}"
    return page.make_page(name, header, parts, [*comparison, *curves, *behaviours])


def _shown(pruning: PruningRecord) -> RoundRecord:
    """The round whose model is the outcome; the last round, if none was taken."""
    return pruning.rounds[-1 if pruning.final is None else pruning.final - 1]


def _claim(pruning: PruningRecord, summary: AnswerSummary, outcomes: dict[int, AnswerMeans]) -> str:
    if pruning.final is None:
        return page.claim(["No round was taken: the model is as it was."])
    if summary.change:
        return page.claim_change(summary.change)
    return page.claim_one(outcomes[pruning.final], "the end of round")


def _about(pruning: PruningRecord) -> str:
    facts = [
        f"{len(pruning.rounds)} of {len(pruning.limits)} rounds",
        f"limits {', '.join(f'{limit:,}' for limit in pruning.limits)}",
    ]
    for name, key in (("model", "model"), ("seed", "seed")):
        if (value := find_setting(pruning.config, key)) is not None:
            facts.append(f"{name} {value}")
    return page.facts(facts)


def _notes(pruning: PruningRecord, summary: AnswerSummary) -> list[str]:
    notes = [*pruning.notes, *summary.notes]
    if pruning.final is None:
        notes.insert(0, f"The numbers are those of round {_shown(pruning).number}, not taken.")
    if pruning.stopped:
        notes.insert(0, f"Stopped: {pruning.stopped}.")
    elif len(pruning.rounds) < len(pruning.limits):
        notes.insert(0, f"{len(pruning.rounds)} of {len(pruning.limits)} rounds have ended so far.")
    if not pruning.start:
        notes.append("The model that all rounds began with was not validated: there is no before.")
    return notes


def _table(pruning: PruningRecord, outcomes: dict[int, AnswerMeans], out: Path) -> str:
    rows = []
    linked = False
    if pruning.start:
        model = find_setting(pruning.config, "model")
        rows.append(["start", "", "", *_cells(outcomes[0]), "", _path(model or "")])
    for ended in pruning.rounds:
        taken = "<small>taken</small>" if ended.number == pruning.final else ""
        if pruning.stopped and ended is pruning.rounds[-1]:
            taken = "<small>not taken</small>"
        own = ended.run.path / schema.REPORT_FOLDER / schema.PAGE_FILE
        name = f"round {ended.number}"
        if own.is_file():
            name, linked = link(name, path_between(out, own)), True
        rows.append(
            [
                f"{name}{taken}",
                f"{ended.limit:,}",
                f"{ended.step:,}",
                *_cells(outcomes[ended.number]),
                _change(outcomes.get(0), outcomes[ended.number]),
                _path(ended.model),
            ]
        )
    head = ["round", "limit", "step", "accuracy", "tokens", "against the start", "model"]
    text = (
        "In each round the model of the step that was best in validation is chosen, and the next "
        "round begins with it."
    )
    if linked:
        text += " The names of rounds lead to their own pages."
    return f'<p class="soft">{text}</p>' + table(head, rows, "Every round, with 95 % intervals")


def _cells(outcome: AnswerMeans) -> list[str]:
    return [page.cell(outcome.accuracy, "share"), page.cell(outcome.tokens, "tokens")]


def _change(start: AnswerMeans | None, outcome: AnswerMeans) -> str:
    if start is None:
        return ""
    relative = outcome.tokens.value / start.tokens.value - 1 if start.tokens.value else 0.0
    difference = outcome.accuracy.value - start.accuracy.value
    return f"{points(difference)}<small>{signed_percent(relative)} tokens</small>"


def _path(path: str) -> str:
    return f'<span class="path">{escape(path)}</span>'


def _draw_rounds(
    outcomes: dict[int, AnswerMeans],
    sets: dict[int, AnswerTable],
    model: str,
    sources: Sequence[str],
) -> list[Picture]:
    published = results_of(frozenset({model}), sources[0]) if len(sources) == 1 else []
    names = {at: f"round {at}" if at else "start" for at in outcomes}
    marks = [
        TradeOffPoint(names[at], means.tokens, means.accuracy) for at, means in outcomes.items()
    ]
    rows = [(names[at], sets[at], means.tokens) for at, means in outcomes.items()]
    return [
        draw_path("trade_off", marks, "a round's chosen model on validation", published),
        draw_lengths("histogram", "Lengths after each round", rows),
    ]


def _segments(rounds: Sequence[RoundRecord], published: PublishedCurve | None) -> list[RunSegment]:
    segments: list[RunSegment] = []
    for ended in rounds:
        begin = segments[-1].end if segments else 0
        name = f"round {ended.number}: {ended.limit:,}"
        validations = ended.run.validations.items()
        outcomes = tuple(
            describe(step, read_answers(file), ended.limit) for step, file in validations
        )
        short = str(ended.number)
        beside = published if ended.number == 1 else None
        segments.append(RunSegment(ended.run, outcomes, begin, name, short, ended.step, beside))
    return segments


def _examples(pruning: PruningRecord, shown: RoundRecord) -> str:
    after = f"after round {shown.number}"
    chosen: list[AnswerExample]
    if pruning.start:
        chosen = choose_pairs([pruning.start], [shown.answers], ("start", after))
    else:
        chosen = choose_some([shown.answers], after)
    nothing = '<p class="soft">The start and the end have no problem in common to show.</p>'
    return page.rule(chosen) + (page.examples(chosen) or nothing)
