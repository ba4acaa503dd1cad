"""`megaprune report`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from megaprune.report import write_report


def add_parser(commands: Any) -> None:
    """Add `report PATH [PATH ...] [--baseline EVALUATION] [--out DIR]`."""
    command = commands.add_parser(
        "report",
        help="write a page of what runs, a pruning, a study or evaluations came to",
        description="Write a page of what a run, a pruning, a study or a set of evaluations came "
        "to: lengths and accuracy with intervals, curves, and answers side by side. Several runs "
        "are compared: accuracy against tokens, curves overlaid, the fields that differ. What a "
        "folder is of is seen from its files. A run need not have ended.",
    )
    command.add_argument(
        "paths",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="folders of runs or of evaluations (any number of one kind), or of one pruning or "
        "study; folders of `megaprune analyze` may go with them",
    )
    command.add_argument(
        "--baseline",
        type=Path,
        metavar="EVALUATION",
        help="compare the others with it (default: the baseline=... that they were made with)",
    )
    command.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where to write it (default: PATH/report; of several: ./report)",
    )
    command.set_defaults(run=run_report)


def run_report(options: argparse.Namespace) -> int:
    """Write the report, print where."""
    print(write_report(*options.paths, out=options.out, baseline=options.baseline))
    return 0
