"""Parquet files to train and to measure on: problems in a prompt, without those in other sets."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import megaprune
from megaprune.data.collect import Collection, Question
from megaprune.data.overlap import KINDS, Index, Pair, Text
from megaprune.data.parquet import Row, write_parquet
from megaprune.data.templates import Template
from megaprune.errors import InputError

METADATA = "megaprune"
"""Key of a file's schema metadata, whose value says in JSON what the file is."""


@dataclass(frozen=True)
class Overlap:
    """Pairs of a collection's questions and those of a set that is measured on."""

    name: str
    ours: tuple[Question, ...]
    theirs: tuple[Question, ...]
    pairs: tuple[Pair, ...]

    @property
    def duplicates(self) -> set[int]:
        """Places of the collection's questions that are exact or near duplicates."""
        return {pair.ours for pair in self.pairs if pair.kind != "numbers"}

    def counts(self) -> dict[str, int]:
        """Pairs of each kind."""
        found = Counter(pair.kind for pair in self.pairs)
        return {kind: found[kind] for kind in KINDS}

    def told(self) -> list[dict[str, Any]]:
        """The pairs for a report."""

        def of(question: Question) -> dict[str, Any]:
            return {"index": question.index, "problem": question.problem}

        return [
            {
                "set": self.name,
                "kind": pair.kind,
                "similarity": round(pair.similarity, 4),
                "ours": of(self.ours[pair.ours]),
                "theirs": of(self.theirs[pair.theirs]),
            }
            for pair in self.pairs
        ]


def find_overlaps(ours: Collection, others: Mapping[str, Collection], near: float) -> list[Overlap]:
    """Compare a collection with others; see `overlap`.

    Args:
        others: by name.
        near: the similarity of near-duplicates.
    """
    texts = [Text(question.problem) for question in ours.questions]
    overlaps = []
    for name, other in others.items():
        pairs = Index([each.problem for each in other.questions]).pairs(texts, near)
        overlaps.append(Overlap(name, ours.questions, other.questions, tuple(pairs)))
    return overlaps


def drop_overlaps(ours: Collection, overlaps: Sequence[Overlap]) -> Collection:
    """A collection without its exact and near duplicates of others.

    Raises:
        InputError: nothing is left.
    """
    gone: set[int] = set()
    dropped = Counter(ours.dropped)
    for overlap in overlaps:
        if fresh := overlap.duplicates - gone:
            dropped[f"overlap with {overlap.name}"] += len(fresh)
        gone |= overlap.duplicates
    left = tuple(each for place, each in enumerate(ours.questions) if place not in gone)
    if not left:
        raise InputError(
            f"all {len(ours.questions)} problems are in the sets of --against too; is the input "
            f"one of them?"
        )
    return Collection(left, ours.rows, dropped)


def refuse_overlaps(overlaps: Sequence[Overlap]) -> None:
    """See that there are no exact and near duplicates.

    Raises:
        InputError: there are; says how many.
    """
    if found := {o.name: len(o.duplicates) for o in overlaps if o.duplicates}:
        said = ", ".join(f"{count} with {name}" for name, count in found.items())
        raise InputError(
            f"problems overlap with sets of --against: {said}; nothing was written. Give "
            f"--drop-overlap to leave them out"
        )


def write(
    path: Path,
    collection: Collection,
    split: str,
    template: Template,
    limit: int | None,
    about: Mapping[str, Any],
) -> None:
    """Write a file that `read_parquet` reads; one that is there is replaced when this is whole.

    Its extra_info has the bare problem and the kept columns too; its metadata, in JSON, `about`,
    the limit and the template.

    Args:
        about: the report; its set is the data_source.

    Raises:
        InputError: it cannot be written there.
    """
    said = {
        "version": megaprune.__version__,
        **about,
        "limit": limit,
        "template": asdict(template),
    }
    rows = [
        Row(about["set"], template.messages(each.problem, limit), each.gold, each.index, split)
        for each in collection.questions
    ]
    extra = [{"problem": each.problem, **each.kept} for each in collection.questions]
    write_parquet(path, rows, extra, {METADATA: json.dumps(said, ensure_ascii=False)})
