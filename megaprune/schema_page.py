"""docs/metrics.md, made of the declarations of `megaprune.schema`.

Run `python -m megaprune.schema_page [FILE]` to write it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from megaprune.schema import (
    FILES,
    METRICS,
    METRICS_FILE,
    OLD_METRICS,
    SAMPLE_COLUMNS,
    WEIGHT_COLUMNS,
    WEIGHTS_FILE,
)


def metrics_page() -> str:
    """The text of docs/metrics.md."""
    metrics = [(f"`{m.name}`", m.unit, _code(m.formula), m.doc) for m in METRICS]
    old = [(f"`{name}`", f"`{new}`") for name, new in OLD_METRICS.items()]
    columns = [(f"`{column.name}`", column.type, column.doc) for column in SAMPLE_COLUMNS]
    weights = [(f"`{column.name}`", column.type, column.doc) for column in WEIGHT_COLUMNS]
    files = [(f"`{path}`", doc) for path, doc in FILES.items()]
    return "\n".join(
        (
            "# What runs and evaluations write",
            "",
            "This page is made by `python -m megaprune.schema_page` from the declarations in "
            "megaprune/schema.py.",
            "",
            "## Metrics",
            "",
            f"`{METRICS_FILE}` has a line for each step and each validation; W&B gets the same "
            "names. Shares are of 1. The numbers of responses are of all that a step drew (but for "
            "its surplus), and those with `learned/` of the ones that it learned from.",
            "",
            "*Learned tokens* are those of responses whose advantage is not 0, whatever else the "
            "loss has computed for a KL divergence or an entropy; with a loss that does without "
            "advantages (`sft`), those of all responses. In a step without any, `entropy` and "
            "`mismatch` are of what was computed all the same, and the others are not there.",
            "",
            *_table(("metric", "unit", "formula", "what it says"), metrics),
            "",
            "Runs may have older names, which `megaprune report` reads too:",
            "",
            *_table(("older", "today"), old),
            "",
            "## Tables of responses",
            "",
            "All are parquet, with the same columns in runs and evaluations.",
            "",
            *_table(("column", "type", "what it holds"), columns),
            "",
            f"A harmonizing's `{WEIGHTS_FILE}` has a row for each response:",
            "",
            *_table(("column", "type", "what it holds"), weights),
            "",
            "## Files",
            "",
            *_table(("path", "what it is"), files),
            "",
        )
    )


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def main(arguments: Sequence[str]) -> None:
    """Write the page: `python -m megaprune.schema_page [FILE]`."""
    path = Path(arguments[0] if arguments else "docs/metrics.md")
    path.parent.mkdir(exist_ok=True)
    path.write_text(metrics_page(), encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
