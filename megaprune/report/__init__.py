"""What runs, prunings and evaluations came to, on one page: numbers, figures, answers.

`inputs` sees what a folder is of; `run`, `prune`, `comparison` and `evaluation` read; `summary`
counts; `curves`, `diagnostics` and `charts` draw in the manner of `figures`, `analysis` has drawn;
`examples` chooses answers; `run_page`, `prune_page` and `evaluations_page` put together what is
shown, from pieces of `page` and `headline`; `write` does all that. The same folders give the same
page.
"""

from pathlib import Path


def write_report(*paths: Path, out: Path | None = None, baseline: Path | None = None) -> Path:
    """Write a page that needs no other file, and its figures beside it.

    Args:
        paths: the folder of a run, which need not have ended, of a pruning, or of one or more
            evaluations; and of analyses of them.
        out: the report's folder; by default `report` in the one that it is of, or here, if it is
            of several evaluations. Other files in it are left alone.
        baseline: the evaluation that the others are compared with; by default the one that they
            name themselves.

    Returns:
        The page.

    Raises:
        InputError: a folder is none of these, or what makes it is not done with it, or its files
            cannot be read, or they do not go together.
    """
    # matplotlib and pyarrow take a second to import: only when a report is written.
    from megaprune.report.write import write

    return write(paths, out, baseline)
