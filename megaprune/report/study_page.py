"""The page of a study: what each way to prune costs in accuracy, and what it saves in tokens."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from megaprune import schema
from megaprune.config.fields import shown
from megaprune.errors import counted
from megaprune.report import page
from megaprune.report.evaluations_page import AES, EFFICIENCY, GAP
from megaprune.report.markup import (
    escape,
    interval,
    percent,
    plain,
    points,
    score,
    signed_percent,
    table,
    tokens,
)
from megaprune.report.study_figures import (
    draw_groups,
    draw_study,
    draw_study_budgets,
    front_of,
)
from megaprune.report.study_records import SHAPING, StudyRecord, StudyVariant, read_study
from megaprune.report.summary import Estimate

METHOD = (
    "Accuracy and tokens are means over seeds and problems, of each problem's mean over its "
    "answers. Intervals are of 95\u00a0%: seeds and problems are drawn anew, both (pigeonhole "
    "bootstrap, Owen 2007), or problems alone where there is one seed. With few seeds they say "
    "little of seeds. Changes are from the start model, on the same problems."
)
OWN_FRONTIER = " Here the best is that of all models of this study."
FRONT = "\u25c6"
"""Marks the models of the Pareto front in a table."""


def study_page(path: Path, analyses: Sequence[Path]) -> page.Page:
    """Read a study, and show its variants side by side."""
    record = read_study(path)
    order = _order(record)
    pictures = [draw_study(record, order), draw_study_budgets(record, order)]
    comparison = [picture for picture in pictures if picture is not None]
    grouped = draw_groups(record, order)
    behaviours = page.draw_analyses(analyses)
    parts = [
        page.notes(_notes(record)),
        page.figures("Accuracy and length", comparison),
        f"<h2>Results</h2>{_results(record, order)}",
        f'<p class="soft">{(EFFICIENCY + GAP + OWN_FRONTIER + AES).strip()}</p>',
        page.figures("By set" if record.by_set else "By difficulty", grouped),
        _group_table(record, order),
        _budget_table(record, order),
        f"<h2>Training</h2>{_training(record)}",
        page.figures("Thoughts", behaviours),
        f"<h2>Configuration</h2>{_fields(record)}{_runs(record)}{page.config(record.config_text)}",
    ]
    header = f'{_claim(record)}{_about(record)}<p class="soft">{METHOD}</p>'
    report = page.make_page(
        path.resolve().name, header, parts, [*comparison, *grouped, *behaviours]
    )
    return replace(report, tables=_tables(record))


def _order(record: StudyRecord) -> list[StudyVariant]:
    """The start model, then all variants by their signed AES, the best one first."""

    def key(variant: StudyVariant) -> float:
        value = variant.means["aes_signed"]
        return -value if value is not None else 0.0

    return [*([record.start] if record.start else []), *sorted(record.variants, key=key)]


def _claim(record: StudyRecord) -> str:
    variants = [v for v in record.variants if v.means["aes_signed"] is not None]
    lines = [f"{counted(len(record.variants), 'way')} to train one model, side by side."]
    if variants:
        best = max(variants, key=lambda v: v.means["aes_signed"] or 0.0)
        assert best.saved is not None
        assert best.change is not None
        lines.append(
            f"Best by AES is {escape(best.name)}: answers are "
            f"{page.longer_or_shorter(-best.saved)}, accuracy {points(best.change.value)}."
        )
    return page.claim(lines)


def _about(record: StudyRecord) -> str:
    runs = [run for variant in record.variants for run in variant.runs]
    facts = [
        f"{counted(len(runs), 'run')}",
        f"{runs[0].numbers['problems']:,} problems, "
        f"{runs[0].numbers['answers']:,} answers of each model",
        f"Pareto front: {', '.join(model.name for model in front_of(record))}",
    ]
    if record.limit is not None:
        facts.append(page.cut_off_at([record.limit]))
    return page.facts(facts)


def _notes(record: StudyRecord) -> list[str]:
    notes = []
    if record.start is None:
        notes.append("The start model is not measured yet: there are no changes.")
    if record.missing:
        shown_names = ", ".join(record.missing[:5]) + ", ..." * (len(record.missing) > 5)
        notes.append(
            f"{counted(len(record.missing), 'run')} not done and left out: {shown_names}. The same "
            f"command does what is left."
        )
    if len({len(variant.runs) for variant in record.variants}) > 1:
        notes.append(f"Variants have {_seeds(record)}: compare their intervals.")
    steps = {run.numbers["steps"] for variant in record.variants for run in variant.runs}
    if len(steps) > 1:
        notes.append(f"Runs have {' or '.join(map(str, sorted(steps)))} steps.")
    return notes


def _named(record: StudyRecord, order: Sequence[StudyVariant], model: StudyVariant) -> str:
    mark = f" {FRONT}" if model.on_front else ""
    return f"{order.index(model) + 1}. {escape(model.name)}{mark}"


def _results(record: StudyRecord, order: Sequence[StudyVariant]) -> str:
    head = ["variant", "accuracy", "tokens", "change of accuracy", "change of tokens"]
    head += ["AES", "OckScore", "budget area", "REG", "cut off"]
    rows = []
    for model in order:
        means, is_start = model.means, model is record.start
        absolute = _number(means["aes_absolute"], score)
        rows.append(
            [
                _named(record, order, model),
                page.cell(model.accuracy, "share"),
                page.cell(model.tokens, "tokens"),
                "" if is_start else _change(model.change),
                "" if is_start or model.saved is None else signed_percent(-model.saved),
                ""
                if is_start or not absolute
                else f"{_number(means['aes_signed'], score)}<small>{absolute} absolute</small>",
                _number(means["ock_score"], plain),
                _number(means["budget_area"], percent),
                _number(means["efficiency_gap"], _gap),
                _number(means[schema.TRUNCATED], percent),
            ]
        )
    caption = (
        f"Means over {_seeds(record)}, in the order of AES. {FRONT} on "
        f"the Pareto front: no other model is as right with fewer tokens, nor more right with as "
        f"many"
    )
    return table(head, rows, caption)


def _seeds(record: StudyRecord) -> str:
    least, most = (of(len(variant.runs) for variant in record.variants) for of in (min, max))
    return counted(most, "seed") if least == most else f"{least} to {counted(most, 'seed')}"


def _change(change: Estimate | None) -> str:
    if change is None:
        return ""
    return f"{points(change.value)}<small>{interval(change, 'change')}</small>"


def _number(value: float | None, form: Callable[[float], str]) -> str:
    return "" if value is None else form(value)


def _gap(gap: float) -> str:
    """Format tokens; a rounding error below zero is none."""
    return plain(round(gap, 1) + 0.0)


def _group_table(record: StudyRecord, order: Sequence[StudyVariant]) -> str:
    groups = [*record.groups]
    if len(groups) < 2:
        return ""
    head = ["variant", *(f"right, {escape(group)}" for group in groups)]
    head += [f"tokens, {escape(group)}" for group in groups]
    none = (None, None)
    rows = [
        [
            _named(record, order, model),
            *(_number(model.by_group.get(group, none)[0], percent) for group in groups),
            *(_number(model.by_group.get(group, none)[1], tokens) for group in groups),
        ]
        for model in order
    ]
    by = "set" if record.by_set else "difficulty"
    return table(head, rows, f"Accuracy, and mean tokens of right answers, by {by}")


def _budget_table(record: StudyRecord, order: Sequence[StudyVariant]) -> str:
    if not record.budgets:
        return ""
    head = ["variant", *(f"{budget:,}" for budget in record.budgets)]
    rows = [
        [
            _named(record, order, model),
            *(percent(share) for share, _ in model.at_budget.values()),
        ]
        for model in order
    ]
    caption = "Accuracy, if answers longer than so many tokens count as wrong"
    return f"<h2>Within budgets</h2>{table(head, rows, caption)}"


def _training(record: StudyRecord) -> str:
    head = ["variant", "wiped", "adjusted", "unshaped", "seconds", "measuring", "tokens"]
    rows = [
        [
            escape(variant.name),
            *(_number(variant.means[name], percent) for name in SHAPING),
            _number(variant.means["training_seconds"], plain_seconds),
            _number(variant.means["validation_seconds"], plain_seconds),
            _number(variant.means["training_tokens"], tokens),
        ]
        for variant in record.variants
    ]
    caption = (
        "What rewards did to right answers, mean over steps. Wiped: right answers worth 0 or less; "
        "adjusted: not worth 1; unshaped: groups with a right answer in which length made no "
        "difference. What a run took: seconds of its steps without its start, seconds of "
        "measuring, and tokens that the steps generated"
    )
    return table(head, rows, caption)


def plain_seconds(seconds: float) -> str:
    """Format seconds: whole ones from ten on."""
    return plain(round(seconds) if seconds >= 10 else round(seconds, 1))


def _fields(record: StudyRecord) -> str:
    rows = [
        [escape(name), f'<span class="path">{escape(_words(fields))}</span>']
        for name, fields in record.fields.items()
    ]
    return table(["variant", "fields"], rows, "What variants have beside the fields of all runs")


def _words(fields: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={shown(value)}" for name, value in fields.items()) or "none"


def _runs(record: StudyRecord) -> str:
    head = ["run", "seed", "accuracy", "tokens", "AES", "seconds"]
    rows = [
        [
            escape(run.numbers["name"]),
            str(run.numbers["seed"]),
            percent(run.numbers["accuracy"]),
            tokens(run.numbers["length"]),
            _number(run.numbers["aes_signed"], score),
            _number(run.numbers["training_seconds"], plain_seconds),
        ]
        for variant in record.variants
        for run in variant.runs
    ]
    listed = table(head, rows, "Every run; runs.parquet and runs.csv have all numbers")
    return f"<details><summary>All runs</summary>{listed}</details>"


def _tables(record: StudyRecord) -> dict[str, bytes]:
    """The table of all runs as parquet and CSV, and a summary of variants as JSON."""
    rows: list[dict[str, Any]] = [
        {**run.numbers, "fields": json.dumps(record.fields.get(model.name, {}))}
        for model in record.models
        for run in model.runs
    ]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    whole = pa.table({name: [row.get(name) for row in rows] for name in columns})
    parquet = io.BytesIO()
    pq.write_table(whole, parquet)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    summary = {
        "front": [model.name for model in front_of(record)],
        "missing": list(record.missing),
        "models": {model.name: _summary(model) for model in record.models},
    }
    return {
        f"{schema.RUNS_TABLE}.parquet": parquet.getvalue(),
        f"{schema.RUNS_TABLE}.csv": text.getvalue().encode(),
        schema.SUMMARY_FILE: (json.dumps(summary, indent=2) + "\n").encode(),
    }


def _summary(model: StudyVariant) -> dict[str, Any]:
    return {
        "seeds": [run.numbers["seed"] for run in model.runs],
        "on_front": model.on_front,
        **model.means,
        "accuracy_interval": [model.accuracy.low, model.accuracy.high],
        "length_interval": [model.tokens.low, model.tokens.high],
        "accuracy_change_interval": model.change and [model.change.low, model.change.high],
    }
