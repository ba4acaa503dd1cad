"""What runs, prunings and evaluations came to, on one page: numbers, figures, answers.

`run_records`, `pruning_records` and `evaluation_records` read folders; `summary` counts and
chooses answers to show; `curves`, `diagnostics`, `charts` and `trade_off` draw in the manner of
`figures` and `labels`; `page` has the pieces of a page in HTML, made with `markup`; `run_page`,
`runs_page`, `prune_page`, `harmonize_page` and `evaluations_page` put them together; the `study`
modules read, draw and show a study; `write` sees what the folders are and writes; `progress` writes
the page of a run underway.
The same folders give the same page.
"""

import re
from pathlib import Path

STEPS_META = '<meta name="megaprune-steps" content="'
"""The tag by which a page says how many steps the run had done that it is of."""


def write_report(*paths: Path, out: Path | None = None, baseline: Path | None = None) -> Path:
    """Write a page that needs no other file, and its figures beside it.

    Args:
        paths: folders of one or more runs, which need not have ended, of a pruning, of a
            harmonizing, of a study, or of one or more evaluations; and folders of analyses of them.
        out: the report's folder; by default `report` in the folder that it is of, or here, if it is
            of several. Other files in it are left alone.
        baseline: the evaluation that the others are compared with; by default the one that they
            name themselves.

    Returns:
        The path of the page.

    Raises:
        InputError: a folder is none of these, or what makes it is not done with it, or its files
            cannot be read, or they do not go together.
    """
    # matplotlib and pyarrow take a second to import: only when a report is written.
    from megaprune.report.write import write

    return write(paths, out, baseline)


def steps_on_page(page: Path) -> int | None:
    """Read how many steps the run had done that a page is of; None if it does not say."""
    if not page.is_file():
        return None
    with page.open(encoding="utf-8") as file:
        match = re.search(re.escape(STEPS_META) + r"(\d+)", file.read(2000))
    return int(match[1]) if match else None
