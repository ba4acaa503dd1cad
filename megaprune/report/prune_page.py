"""The page of a pruning: its rounds, and what they came to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megaprune.report import headline, page
from megaprune.report.analysis import draw_analyses
from megaprune.report.answers import Answers, read_answers
from megaprune.report.charts import draw_lengths
from megaprune.report.curves import Stretch, draw_curves
from megaprune.report.examples import Example, choose_pairs, choose_some
from megaprune.report.figures import Picture
from megaprune.report.markup import escape, points, signed_percent, table
from megaprune.report.prune import Pruning, Round, read_pruning
from megaprune.report.run import find_setting
from megaprune.report.summary import Outcome, Summary, describe, summarize_sets
from megaprune.report.trade_off import Point, draw_path


def prune_page(path: Path, analyses: Sequence[Path]) -> page.Page:
    """Read a pruning, and say what its rounds came to."""
    pruning = read_pruning(path)
    shown = _shown(pruning)
    sets = {0: read_answers(pruning.start)} if pruning.start else {}
    sets |= {one.number: read_answers(one.answers) for one in pruning.rounds}
    ends = (0, shown.number) if pruning.start else None
    summary = summarize_sets(sets, held_out=True, ends=ends)
    outcomes = {outcome.at: outcome for outcome in summary.outcomes}
    comparison = _draw_rounds(outcomes, sets)
    curves = draw_curves(_stretches(pruning.rounds))
    behaviours = draw_analyses(analyses)
    parts = [
        headline.tiles_of_change(summary.change)
        if summary.change
        else headline.tiles_of_one(outcomes[shown.number]),
        f'<p class="soft">On held-out validation problems. {headline.METHOD}</p>',
        page.notes(_notes(pruning, summary)),
        f"<h2>Rounds</h2>{_table(pruning, outcomes)}",
        page.figures("Round by round", comparison),
        page.figures("Over the steps", curves),
        headline.table_by_source(summary),
        f"<h2>Answers</h2>{_examples(pruning, shown)}",
        page.figures("Thoughts", behaviours),
        "<h2>Configuration</h2>" + page.config(pruning.config_text) if pruning.config_text else "",
    ]
    name = pruning.path.resolve().name
    header = f"{_claim(pruning, summary, outcomes)}\n{_about(pruning)}"
    return page.make_page(name, header, parts, [*comparison, *curves, *behaviours])


def _shown(pruning: Pruning) -> Round:
    """The round whose model is the outcome; the last one, where none was taken."""
    return pruning.rounds[-1 if pruning.final is None else pruning.final - 1]


def _claim(pruning: Pruning, summary: Summary, outcomes: dict[int, Outcome]) -> str:
    if pruning.final is None:
        return headline.claim(["No round was taken: the model is as it was."])
    if summary.change:
        return headline.claim_change(summary.change)
    return headline.claim_one(outcomes[pruning.final], "the end of round")


def _about(pruning: Pruning) -> str:
    facts = [
        f"{len(pruning.rounds)} of {len(pruning.limits)} rounds",
        f"limits {', '.join(f'{limit:,}' for limit in pruning.limits)}",
    ]
    for name, key in (("model", "model"), ("seed", "seed")):
        if (value := find_setting(pruning.config, key)) is not None:
            facts.append(f"{name} {value}")
    return headline.facts(facts)


def _notes(pruning: Pruning, summary: Summary) -> list[str]:
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


def _table(pruning: Pruning, outcomes: dict[int, Outcome]) -> str:
    rows = []
    if pruning.start:
        model = find_setting(pruning.config, "model")
        rows.append(["start", "", "", *_cells(outcomes[0]), "", _path(model or "")])
    for one in pruning.rounds:
        taken = "<small>taken</small>" if one.number == pruning.final else ""
        if pruning.stopped and one is pruning.rounds[-1]:
            taken = "<small>not taken</small>"
        rows.append(
            [
                f"{one.number}{taken}",
                f"{one.limit:,}",
                f"{one.step:,}",
                *_cells(outcomes[one.number]),
                _change(outcomes.get(0), outcomes[one.number]),
                _path(one.model),
            ]
        )
    head = ["round", "limit", "step", "accuracy", "tokens", "against the start", "model"]
    return (
        '<p class="soft">In each round the model of the step that was best in validation is '
        "chosen, and the next round begins with it. Each round's own page is in its folder.</p>"
        + table(head, rows, "Every round, with 95 % intervals")
    )


def _cells(outcome: Outcome) -> list[str]:
    return [headline.cell(outcome.accuracy, "share"), headline.cell(outcome.tokens, "tokens")]


def _change(start: Outcome | None, outcome: Outcome) -> str:
    if start is None:
        return ""
    relative = outcome.tokens.value / start.tokens.value - 1 if start.tokens.value else 0.0
    difference = outcome.accuracy.value - start.accuracy.value
    return f"{points(difference)}<small>{signed_percent(relative)} tokens</small>"


def _path(path: str) -> str:
    return f'<span class="path">{escape(path)}</span>'


def _draw_rounds(outcomes: dict[int, Outcome], sets: dict[int, Answers]) -> list[Picture]:
    names = {at: f"round {at}" if at else "start" for at in outcomes}
    marks = [Point(names[at], one.tokens, one.accuracy) for at, one in outcomes.items()]
    rows = [(names[at], sets[at], one.tokens) for at, one in outcomes.items()]
    return [
        draw_path("trade_off", marks, "a round's chosen model on validation"),
        draw_lengths("histogram", "Lengths after each round", rows),
    ]


def _stretches(rounds: Sequence[Round]) -> list[Stretch]:
    found: list[Stretch] = []
    for one in rounds:
        begin = found[-1].end if found else 0
        name = f"round {one.number}: {one.limit:,}"
        validations = one.run.validations.items()
        outcomes = tuple(describe(step, read_answers(file)) for step, file in validations)
        found.append(Stretch(one.run, outcomes, begin, name, chosen=one.step))
    return found


def _examples(pruning: Pruning, shown: Round) -> str:
    after = f"after round {shown.number}"
    found: list[Example]
    if pruning.start:
        found = choose_pairs([pruning.start], [shown.answers], ("start", after))
    else:
        found = choose_some([shown.answers], after)
    nothing = '<p class="soft">The start and the end have no problem in common to show.</p>'
    return page.rule(found) + (page.examples(found) or nothing)
