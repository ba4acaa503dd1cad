"""How findings are printed."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from megaprune.doctor.finding import STATES, Finding

if TYPE_CHECKING:
    from rich.console import Console

STYLES = {"ok": "green", "missing": "yellow", "wrong": "bold red"}

WIDTH = 100
"""Columns, where the output is no terminal."""


def summary(findings: Sequence[Finding]) -> dict[str, Any]:
    """Counts, and what must be mended."""
    counts = Counter(finding.state for finding in findings)
    stops = [finding.name for finding in findings if finding.stops]
    return {**{state: counts[state] for state in STATES}, "mend": stops, "status": int(bool(stops))}


def print_findings(findings: Sequence[Finding]) -> None:
    """One line each, with the command that mends it below."""
    last = _last(findings)
    try:
        from rich.table import Table
        from rich.text import Text
    except ImportError:  # it is told what is missing, also where the table's package is
        for finding in findings:
            print(f"{finding.name:20} {finding.state:8} {finding.found}")
            if finding.mend:
                print(f"{'':29} mend: {finding.mend}")
        print(last)
        return
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        state = Text(finding.state, STYLES[finding.state])
        table.add_row(finding.name, state, finding.found)
        if finding.mend:
            table.add_row("", "", Text(f"mend: {finding.mend}", "cyan"))
    console = _console()
    console.print(table)
    console.print(f"\n{last}", style="bold")


def _last(findings: Sequence[Finding]) -> str:
    said = summary(findings)
    counts = ", ".join(f"{said[state]} {state}" for state in STATES)
    if said["mend"]:
        return f"{counts}; to be mended: {', '.join(said['mend'])}"
    return f"{counts}; nothing has to be mended"


def _console() -> Console:
    from rich.console import Console

    width = None if sys.stdout.isatty() else WIDTH
    return Console(highlight=False, markup=False, width=width)
