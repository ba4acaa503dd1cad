"""Parquet files to train and to measure on: problems in a prompt, without those in other sets."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import megaprune
from megaprune.data.collect import BareProblem, Collection
from megaprune.data.overlap import KINDS, NormalizedText, OverlapIndex, OverlapPair
from megaprune.data.parquet import ProblemRow, write_parquet
from megaprune.data.templates import Template
from megaprune.errors import InputError

METADATA = "megaprune"
"""Key of a file's schema metadata, whose value says in JSON what the file is."""


@dataclass(frozen=True)
class Overlap:
    """The pairs of alike problems in a collection and in a set that is measured on."""

    name: str
    ours: tuple[BareProblem, ...]
    theirs: tuple[BareProblem, ...]
    pairs: tuple[OverlapPair, ...]

    @property
    def duplicates(self) -> set[int]:
        """The places in the collection of questions that are exact or near duplicates."""
        return {pair.ours for pair in self.pairs if pair.kind != "numbers"}

    def counts(self) -> dict[str, int]:
        """Count the pairs of each kind."""
        counts = Counter(pair.kind for pair in self.pairs)
        return {kind: counts[kind] for kind in KINDS}

    def as_json(self) -> list[dict[str, Any]]:
        """Return the pairs as a report has them."""

        def described(question: BareProblem) -> dict[str, Any]:
            return {"index": question.index, "problem": question.problem}

        return [
            {
                "set": self.name,
                "kind": pair.kind,
                "similarity": round(pair.similarity, 4),
                "ours": described(self.ours[pair.ours]),
                "theirs": described(self.theirs[pair.theirs]),
            }
            for pair in self.pairs
        ]


@dataclass(frozen=True)
class Budgets:
    """Numbers of tokens that responses should have, one drawn for each problem (L1, 2503.04697).

    Args:
        low, high: the smallest and the largest; all between are equally likely.
        seed: of the draws.
        kind: "exact" if prompts ask for so many tokens, "max" if for no more.
    """

    low: int
    high: int
    seed: int
    kind: str

    def draw(self, count: int) -> list[int]:
        """Return a budget for each of so many problems."""
        drawn = np.random.default_rng(self.seed).integers(self.low, self.high + 1, count)
        return [int(tokens) for tokens in drawn]


def find_overlaps(ours: Collection, others: Mapping[str, Collection], near: float) -> list[Overlap]:
    """Compare a collection with others; see `overlap`.

    Args:
        others: by name.
        near: the similarity of near-duplicates.
    """
    texts = [NormalizedText(question.problem) for question in ours.questions]
    overlaps = []
    for name, other in others.items():
        pairs = OverlapIndex([question.problem for question in other.questions]).pairs(texts, near)
        overlaps.append(Overlap(name, ours.questions, other.questions, tuple(pairs)))
    return overlaps


def drop_overlaps(ours: Collection, overlaps: Sequence[Overlap]) -> Collection:
    """Return a collection without its exact and near duplicates of others.

    Raises:
        InputError: nothing is left.
    """
    gone: set[int] = set()
    dropped = Counter(ours.dropped)
    for overlap in overlaps:
        if fresh := overlap.duplicates - gone:
            dropped[f"overlap with {overlap.name}"] += len(fresh)
        gone |= overlap.duplicates
    left = tuple(q for place, q in enumerate(ours.questions) if place not in gone)
    if not left:
        raise InputError(
            f"all {len(ours.questions)} problems are in the sets of --against too; is the input "
            f"one of them?"
        )
    return replace(ours, questions=left, dropped=dropped)


def refuse_overlaps(overlaps: Sequence[Overlap]) -> None:
    """Refuse a collection with exact or near duplicates of others.

    Raises:
        InputError: there are; says how many.
    """
    if counts := {o.name: len(o.duplicates) for o in overlaps if o.duplicates}:
        shown = ", ".join(f"{count} with {name}" for name, count in counts.items())
        raise InputError(
            f"problems overlap with sets of --against: {shown}; nothing was written. Give "
            f"--drop-overlap to leave them out"
        )


def is_made(path: Path) -> bool:
    """Say whether a file is one that `write` made, by its metadata."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException):
        return False
    return METADATA.encode() in metadata


def write(
    path: Path,
    collection: Collection,
    split: str,
    template: Template,
    limit: int | None,
    about: Mapping[str, Any],
    budgets: Budgets | None = None,
) -> None:
    """Write a file that `read_parquet` reads; one that is there is replaced when this is whole.

    Its extra_info has the bare problem and the kept columns too; its metadata, in JSON, `about`,
    the limit and the template.

    Args:
        limit: tokens, the same for all problems; said in prompts.
        about: the report; its set is the data_source.
        budgets: tokens of each problem; said in prompts in the limit's place.

    Raises:
        InputError: it cannot be written there.
    """
    metadata = {
        "version": megaprune.__version__,
        **about,
        "limit": limit,
        "template": asdict(template),
        **({} if budgets is None else {"budgets": asdict(budgets)}),
    }
    count = len(collection.questions)
    drawn = [None] * count if budgets is None else budgets.draw(count)
    rows = []
    for question, budget in zip(collection.questions, drawn, strict=True):
        at_most = budget if budgets is not None and budgets.kind == "max" else limit
        about_so_many = budget if budgets is not None and budgets.kind == "exact" else None
        messages = template.messages(question.problem, at_most, about_so_many)
        row = ProblemRow(
            about["set"], messages, question.gold, question.index, split, budget=budget
        )
        rows.append(row)
    extra = [{"problem": q.problem, **q.kept} for q in collection.questions]
    write_parquet(path, rows, extra, {METADATA: json.dumps(metadata, ensure_ascii=False)})
