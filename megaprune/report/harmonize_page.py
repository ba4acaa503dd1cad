"""The page of a harmonizing: what was learned from in its rounds, and the test before and after."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megaprune import schema
from megaprune.errors import InputError
from megaprune.report import page
from megaprune.report.evaluation_records import read_comparison
from megaprune.report.evaluations_page import show_comparison
from megaprune.report.markup import escape, link, path_between, percent, table, tokens
from megaprune.report.run_records import find_setting, read_config

_WORDS = (
    "Of all responses that were drawn in a round: how many are right, and their mean tokens. Of "
    "the chosen ones: how many there are, of how many problems; how many right ones have a "
    "negative weight, so that they become unlikelier; and how many wrong ones a positive one. The "
    "names of rounds lead to the pages of their training."
)


def harmonize_page(path: Path, analyses: Sequence[Path], out: Path) -> page.Page:
    """Read a harmonizing, and show what came of it, with links from `out` to its runs' pages.

    Raises:
        InputError: harmonize.json cannot be read, or no round has ended.
    """
    record = _read(path / schema.HARMONIZE_FILE)
    notes: list[str] = []
    text, config = read_config(path / schema.CONFIG_FILE, notes)
    title = f"{path.resolve().name} · {record['method']}"
    rounds = f'<h2>Rounds</h2>{_rounds(path, record, out)}<p class="soft">{_WORDS}</p>'
    configuration = page.config(text)
    if record["test"] is None:
        behaviours = page.draw_analyses(analyses)
        facts = [f"model {find_setting(config, 'model')}", "not tested (test.data)"]
        count = len(record["rounds"])
        header = page.claim([f"{count} round{'s' * (count > 1)} of {escape(record['method'])}."])
        parts = [page.notes(notes), rounds, page.figures("Thoughts", behaviours)]
        parts.append(f"<h2>Configuration</h2>{configuration}")
        return page.make_page(title, f"{header}\n{page.facts(facts)}", parts, behaviours)
    before = Path(os.path.normpath(path / (record.get("before") or schema.BEFORE_FOLDER)))
    after = path / schema.AFTER_FOLDER
    comparison = read_comparison([before, after], before)
    return show_comparison(comparison, analyses, title, [page.notes(notes), rounds], configuration)


def _read(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        for entry in content["rounds"]:
            missing = {"round", "step", "steps", "model", "statistics"} - entry.keys()
            missing |= _STATISTICS - entry["statistics"].keys()
            if missing:
                raise ValueError(f"a round lacks {min(missing)}")
        if not content["rounds"] or {"method", "test"} - content.keys():
            raise ValueError("no round has ended")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file}: cannot be read as what came of a harmonizing ({error!r}); `megaprune "
            f"harmonize` writes it: run the same command again"
        ) from error
    return content


_STATISTICS = {
    "responses", "accuracy", "length", "chosen", "chosen_problems", "right_unlikelier",
    "wrong_likelier",
}  # fmt: skip


def _rounds(path: Path, record: Mapping[str, Any], out: Path) -> str:
    head = ["round", "responses", "right", "tokens", "chosen", "right, unlikelier"]
    head += ["wrong, likelier", "step", "model"]
    rows = []
    for entry in record["rounds"]:
        numbers, name = entry["statistics"], f"round {entry['round']}"
        run = path / schema.harmonize_round(entry["round"]) / schema.TRAIN_FOLDER
        own = run / schema.REPORT_FOLDER / schema.PAGE_FILE
        rows.append(
            [
                link(name, path_between(out, own)) if own.is_file() else name,
                f"{numbers['responses']:,}",
                percent(numbers["accuracy"]),
                tokens(numbers["length"]),
                f"{numbers['chosen']:,}<small>of {numbers['chosen_problems']:,} problems</small>",
                _percent(numbers["right_unlikelier"]),
                _percent(numbers["wrong_likelier"]),
                f"{entry['step']:,}<small>of {entry['steps']:,}</small>",
                f'<span class="path">{escape(entry["model"])}</span>',
            ]
        )
    return table(head, rows, "What every round learned from")


def _percent(share: float | None) -> str:
    return "–" if share is None else percent(share)
