"""What the checks of the doctor report, and how it is printed."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from megaprune.foreign_text import terminal

if TYPE_CHECKING:
    from rich.console import Console

State = Literal["ok", "missing", "wrong"]

STATES: tuple[State, ...] = ("ok", "missing", "wrong")

STYLES = {"ok": "green", "missing": "yellow", "wrong": "bold red"}

WIDTH = 100
"""Columns, where the output is no terminal."""


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Args:
        name: what was looked at.
        state: "missing" means that it is not there, "wrong" that it is there and of no use as it
            is.
        detail: what was seen.
        fix: the command that puts it right, or what to do.
        required: no job can run without it.
    """

    name: str
    state: State
    detail: str
    fix: str | None = None
    required: bool = False

    @property
    def stops(self) -> bool:
        """Whether it must be fixed first: what is optional may be missing, not broken."""
        return self.state == "wrong" or (self.required and self.state == "missing")


def short(text: str, most: int = 200) -> str:
    """Return the first line that is not blank, cut to so many characters."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= most else line[: most - 3] + "..."


def readable_size(count: float) -> str:
    """Write a number of bytes as people read it: 7.9 GiB."""
    units = ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while count >= 1024 and len(units) > 1:
        count /= 1024
        units.pop(0)
    return f"{count:.0f} {units[0]}" if count >= 100 else f"{count:.1f} {units[0]}"


def summarize(findings: Sequence[Finding]) -> dict[str, Any]:
    """Count the findings by state, and name those that must be fixed."""
    counts = Counter(finding.state for finding in findings)
    stops = [finding.name for finding in findings if finding.stops]
    return {**{state: counts[state] for state in STATES}, "fix": stops, "status": int(bool(stops))}


def print_findings(findings: Sequence[Finding]) -> None:
    """Print a line for each finding, with the command that fixes it below."""
    last = _last_line(findings)
    try:
        from rich.table import Table
        from rich.text import Text
    except ImportError:  # the report says what is missing, also where the table's package is
        for finding in findings:
            print(f"{finding.name:20} {finding.state:8} {finding.detail}")
            if finding.fix:
                print(f"{'':29} fix: {finding.fix}")
        print(last)
        return
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        state = Text(finding.state, STYLES[finding.state])
        table.add_row(finding.name, state, finding.detail)
        if finding.fix:
            table.add_row("", "", Text(f"fix: {finding.fix}", "cyan"))
    console = _console()
    console.print(table)
    console.print(f"\n{last}", style="bold")


def _last_line(findings: Sequence[Finding]) -> str:
    summary = summarize(findings)
    counts = ", ".join(f"{summary[state]} {state}" for state in STATES)
    if summary["fix"]:
        return f"{counts}; to be fixed: {', '.join(summary['fix'])}"
    return f"{counts}; nothing has to be fixed"


def _console() -> Console:
    width = None if sys.stdout.isatty() else WIDTH
    return terminal(highlight=False, width=width)
