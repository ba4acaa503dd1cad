"""The page of several runs: what each came to, their curves overlaid, how they were set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megaprune import schema
from megaprune.report import page
from megaprune.report.curves import draw_overlaid
from megaprune.report.figures import Picture
from megaprune.report.markup import escape, interval, percent, points, signed_percent, table, tokens
from megaprune.report.run_records import RunRecord, distinct_names, read_run
from megaprune.report.summary import AnswerMeans, AnswerSummary, summarize
from megaprune.report.trade_off import TradeOffPoint, draw_paths

_CLAIMS = 4
"""A page begins with a sentence for each run if there are at most so many."""

_MEASURED_BY = ("data.validation", "data.max_prompt_length", "validation.")
"""Fields that say how a run is measured; where they differ, runs cannot be compared."""

_CURVES = (
    (schema.LENGTH_MEAN, "Response length in training", "mean tokens per answer"),
    (schema.ACCURACY, "Accuracy in training (cut off counts as wrong)", "share right"),
    (schema.REWARD, "Reward", "mean reward"),
    (schema.TRUNCATED, "Training answers cut off", "share of answers"),
    (schema.NO_SIGNAL, "Groups without signal", "share of groups"),
    (schema.ENTROPY, "Entropy", "nats per token"),
    (schema.KL, "KL divergence from the reference", "nats per token"),
    (schema.GRAD_NORM, "Gradient norm", "norm before clipping"),
)


@dataclass(frozen=True)
class NamedRun:
    """A run among others: its name on the page, what it wrote and what its answers came to."""

    name: str
    record: RunRecord
    summary: AnswerSummary


def runs_page(paths: Sequence[Path], analyses: Sequence[Path]) -> page.Page:
    """Read runs, and show them side by side."""
    records = [read_run(path) for path in paths]
    names = distinct_names(paths)
    runs = [
        NamedRun(name, record, summarize(record))
        for name, record in zip(names, records, strict=True)
    ]
    comparison, curves = _draw_comparison(runs), _draw_curves(runs)
    behaviours = page.draw_analyses(analyses)
    parts = [
        page.notes(_notes(runs)),
        f"<h2>Results</h2>{_results(runs)}",
        page.figures("Accuracy and length", comparison),
        page.figures("Over the steps", curves, "small"),
        page.figures("Thoughts", behaviours),
        f"<h2>Configuration</h2>{_differences(runs)}"
        + "".join(
            page.config(run.record.config_text, f"{run.name}: {run.record.path}/config.yaml")
            for run in runs
        ),
    ]
    header = f'{_claim(runs)}<p class="soft">{page.METHOD}</p>'
    return page.make_page(" · ".join(names), header, parts, [*comparison, *curves, *behaviours])


def _last(run: NamedRun) -> AnswerMeans | None:
    """The means of the last answers that a run was measured by; None if it kept none."""
    return run.summary.outcomes[-1] if run.summary.outcomes else None


def _claim(runs: Sequence[NamedRun]) -> str:
    lines = [
        f"{escape(run.name)}: {tokens(last.tokens.value)} tokens, "
        f"{percent(last.accuracy.value)} right at step {last.at}."
        for run in runs
        if (last := _last(run)) is not None
    ]
    if len(lines) == len(runs) <= _CLAIMS:
        return page.claim(lines)
    return page.claim([f"{len(runs)} runs side by side."])


def _notes(runs: Sequence[NamedRun]) -> list[str]:
    notes = [
        f"{run.name}: {note}" for run in runs for note in (*run.record.notes, *run.summary.notes)
    ]
    for run in runs:
        last, planned = max(run.record.metrics), run.record.setting("steps")
        if isinstance(planned, int) and last < planned:
            notes.append(f"{run.name} has done {last} of {planned} steps.")
        if not run.summary.held_out:
            notes.append(f"{run.name} has no validation: its numbers are of training answers.")
    different = [name for name in _differing(runs) if name.startswith(_MEASURED_BY)]
    measures = [name for name in different if name not in ("validation.every", "validation.first")]
    if measures:
        notes.append(
            f"The runs were not measured alike: they differ in {', '.join(measures)}. Their "
            "accuracy and length cannot be compared."
        )
    return notes


def _results(runs: Sequence[NamedRun]) -> str:
    head = ["run", "steps", "accuracy", "tokens", "cut off", "change of accuracy"]
    head += ["change of tokens"]
    rows = []
    for run in runs:
        last, change = _last(run), run.summary.change
        cells = [escape(run.name), f"{max(run.record.metrics):,}"]
        if last is None:
            cells += ["", "", ""]
        else:
            cells += [
                page.cell(last.accuracy, "share"),
                page.cell(last.tokens, "tokens"),
                page.cell(last.cut_off, "share"),
            ]
        cells += (
            ["", ""]
            if change is None
            else [
                f"{points(change.accuracy.value)}<small>{interval(change.accuracy, 'change')}"
                "</small>",
                f"{signed_percent(change.tokens.value)}"
                f"<small>{interval(change.tokens, 'change')}</small>",
            ]
        )
        rows.append(cells)
    what = "The last validation of every run"
    if not all(run.summary.held_out for run in runs):
        what = "The last validation, or training step, of every run"
    limits = (limit for run in runs for limit in _limits(run))
    caption = f"{what}, and its change from the run's first. {page.cut_off_at(limits)}."
    return table(head, rows, caption)


def _limits(run: NamedRun) -> list[int | None]:
    """The limits of the answers that a run is measured by."""
    record = run.record
    limit = record.validation_limit if run.summary.held_out else record.training_limit
    return [limit] if limit is not None else [each.limit for each in run.summary.outcomes]


def _draw_comparison(runs: Sequence[NamedRun]) -> list[Picture]:
    measured = [run for run in runs if run.summary.outcomes]
    paths = {
        run.name: [
            TradeOffPoint(f"step {means.at}", means.tokens, means.accuracy)
            for means in run.summary.outcomes
        ]
        for run in measured
    }
    if not paths:
        return []
    over_steps = [
        draw_overlaid(
            name,
            title,
            unit,
            {
                run.name: (
                    [means.at for means in run.summary.outcomes],
                    [getattr(means, attribute).value for means in run.summary.outcomes],
                )
                for run in measured
            },
            large=True,
        )
        for name, title, unit, attribute in (
            ("validation_length", "Length on validation", "mean tokens per answer", "tokens"),
            ("validation_accuracy", "Accuracy on validation", "share right", "accuracy"),
        )
    ]
    pictures = [draw_paths("trade_off", paths), *over_steps]
    return [picture for picture in pictures if picture is not None]


def _draw_curves(runs: Sequence[NamedRun]) -> list[Picture]:
    pictures = []
    for key, title, unit in _CURVES:
        series = {run.name: run.record.series(key) for run in runs}
        pictures.append(draw_overlaid(key.replace("/", "_"), title, unit, series))
    return [picture for picture in pictures if picture is not None]


def _differences(runs: Sequence[NamedRun]) -> str:
    differing = _differing(runs)
    if not differing:
        return '<p class="soft">The runs have the same configuration.</p>'
    head = ["field", *(escape(run.name) for run in runs)]
    rows = [
        [escape(name), *(f'<span class="path">{escape(value)}</span>' for value in values)]
        for name, values in differing.items()
    ]
    return table(head, rows, "Fields that differ")


def _differing(runs: Sequence[NamedRun]) -> dict[str, list[str]]:
    """The values of all runs, by the dotted names of the fields that differ."""
    flat = [dict(_leaves(run.record.config)) for run in runs]
    names = dict.fromkeys(name for leaves in flat for name in leaves if name != "out")
    values = {name: [leaves.get(name, "–") for leaves in flat] for name in names}
    return {name: texts for name, texts in values.items() if len(set(texts)) > 1}


def _leaves(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """All fields of a nested configuration by dotted names, with their values as text."""
    leaves: list[tuple[str, str]] = []
    for name, value in config.items():
        if isinstance(value, dict) and value:
            leaves += _leaves(value, f"{prefix}{name}.")
        else:
            leaves.append((f"{prefix}{name}", "null" if value is None else str(value)))
    return leaves
