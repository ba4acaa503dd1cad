"""What `megaprune data` prints: the sets there are, and what became of a source's rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from megaprune.data.sets import SETS
from megaprune.foreign_text import terminal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_PAIRS = 20
"""How many pairs the table shows."""

_TEXT = 200
"""How many characters of a problem the table shows."""


def print_sets() -> None:
    """Print the sets that have names."""
    table = _table("set", "use", ">samples", "grader", "from", "licence")
    for known in SETS.values():
        use = "train" if known.training else "evaluate"
        samples = str(known.samples)
        table.add_row(known.name, use, samples, known.grader, known.place, known.licence)
    _console().print(table)


def print_report(
    about: Mapping[str, Any], pairs: Sequence[Mapping[str, Any]], files: Sequence[str]
) -> None:
    """Print the rows written and dropped, the most alike pairs and the files.

    Args:
        about: as in a file's metadata.
        pairs: with kind, similarity, ours, theirs (index and problem each) and set.
        files: their paths.
    """
    console = _console()
    table = _table(about["set"], ">rows")
    table.add_row("read", str(about["rows"]))
    for reason, count in about["dropped"].items():
        table.add_row(f"  {reason}", f"-{count}")
    table.add_row("written", str(about["written"]), style="bold")
    for reason, count in about["kept_duplicates"].items():
        table.add_row(f"  {reason}, kept", str(count))
    console.print(table)
    _print_instructions(console, about["instructions"])
    if about["overlap"]["pairs"]:
        _print_overlap(console, about["overlap"], pairs)
    for file in files:
        console.print(f"wrote {file}", style="dim")


def _print_instructions(console: Console, instructions: Mapping[str, Any]) -> None:
    """Say how many problems have words around them that ask for a form of the answer."""
    if not instructions["rows"]:
        return
    forms = ", ".join(f"{count} for {form}" for form, count in instructions["rows"].items())
    words = (
        "kept; --instructions drop leaves these words out"
        if instructions["kept"]
        else "these words are left out"
    )
    console.print(f"instructions beside problems, which ask {forms}: {words}", markup=False)


def _print_overlap(
    console: Console, overlap: Mapping[str, Any], pairs: Sequence[Mapping[str, Any]]
) -> None:
    counts = overlap["pairs"]
    kinds = list(next(iter(counts.values())))
    table = _table("pairs with", *(f">{kind}" for kind in kinds))
    for name, by_kind in counts.items():
        table.add_row(name, *(str(by_kind[kind]) for kind in kinds))
    console.print()
    console.print(table)
    if not pairs:
        return
    ranked = sorted(pairs, key=lambda pair: (kinds.index(pair["kind"]), -pair["similarity"]))
    table = _table("kind", ">alike", "row", "problem")
    for pair in ranked[:_PAIRS]:
        ours, theirs = pair["ours"], pair["theirs"]
        alike = f"{pair['similarity']:.2f}"
        table.add_row(pair["kind"], alike, str(ours["index"]), _short(ours))
        table.add_row("", "", f"{pair['set']} {theirs['index']}", _short(theirs))
    console.print()
    console.print(table)
    if len(pairs) > _PAIRS:
        console.print(f"and {len(pairs) - _PAIRS} more pairs: --json has all", style="dim")


def _short(question: Mapping[str, Any]) -> str:
    text = " ".join(question["problem"].split())
    return text[:_TEXT] + "..." * (len(text) > _TEXT)


def _table(*columns: str) -> Table:
    """Make a table without a frame; a column that begins with > holds numbers."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in columns:
        number = column.startswith(">")
        table.add_column(
            column.removeprefix(">"), justify="right" if number else "left", overflow="fold"
        )
    return table


def _console() -> Console:
    return terminal(highlight=False)
