"""What kind of page folders make, seen from their files; and the page and its figures, written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megaprune import schema
from megaprune.errors import InputError
from megaprune.files import write_files
from megaprune.report.evaluations_page import evaluations_page
from megaprune.report.harmonize_page import harmonize_page
from megaprune.report.page import Page
from megaprune.report.prune_page import prune_page
from megaprune.report.run_page import run_page
from megaprune.report.run_records import each_once
from megaprune.report.runs_page import runs_page
from megaprune.report.study_page import study_page

_KINDS = {
    schema.STUDY_FILE: ("study", "study"),
    schema.ROUNDS_FILE: ("pruning", "prune"),
    schema.HARMONIZE_FILE: ("harmonizing", "harmonize"),
    schema.METRICS_FILE: ("run", "train"),
    schema.SUMMARY_FILE: ("evaluation", "evaluate"),
    schema.ANALYSIS_FILE: ("analysis", "analyze"),
}
"""A file that only one kind of folder has: the kind, and the command that writes it."""

_BEGUN = {
    schema.ROUND_FOLDERS: (schema.ROUNDS_FILE, "when its first round has ended"),
    f"{schema.HARMONIZE_ROUNDS}/{schema.PRESAMPLE_FOLDER}": (
        schema.HARMONIZE_FILE,
        "when its first round has ended",
    ),
    f"{schema.SAMPLES_FOLDER}/*/*.parquet": (schema.SUMMARY_FILE, "when all answers are there"),
    schema.REPLIES_FILE: (schema.ANALYSIS_FILE, "when it ends"),
    f"{schema.SAMPLES_FOLDER}/*.parquet": (schema.METRICS_FILE, "with its first step"),
    f"{schema.VALIDATION_FOLDER}/*.parquet": (schema.METRICS_FILE, "with its first step"),
}
"""What a folder has before that file is there: the file, and when it is written."""


def kind_of(path: Path) -> str:
    """Tell what a folder is: "run", "pruning", "harmonizing", "study", "evaluation", "analysis".

    Raises:
        InputError: it is none of them, or the command that writes it has only begun.
    """
    if not path.is_dir():
        raise InputError(
            f"{path}: no such folder; expected the folder of a run, a pruning, a study or an "
            f"evaluation"
        )
    for name, (kind, _) in _KINDS.items():
        if (path / name).is_file():
            return kind
    for pattern, (name, when) in _BEGUN.items():
        if any(path.glob(pattern)):
            raise InputError(
                f"{path / name}: no such file; `megaprune {_KINDS[name][1]}` writes it {when}: run "
                f"the same command again, it goes on where it was"
            )
    files = ", ".join(f"{name} (`megaprune {command}`)" for name, (_, command) in _KINDS.items())
    raise InputError(f"{path}: has none of the files that tell what it is: {files}")


def by_kind(paths: Sequence[Path]) -> dict[str, list[Path]]:
    """Group folders that one page can show by their kind; each comes once.

    Raises:
        InputError: they are of kinds that do not go together.
    """
    grouped: dict[str, list[Path]] = {}
    for path in each_once(paths):
        grouped.setdefault(kind_of(path), []).append(path)
    subjects = {kind: group for kind, group in grouped.items() if kind != "analysis"}
    count = sum(map(len, subjects.values()))
    if count == 0:
        raise InputError(
            f"{paths[0]}: an analysis is shown beside what it is of; give that folder too"
        )
    if count > 1 and [*subjects] not in (["evaluation"], ["run"]):
        folders = ", ".join(f"{kind} {path}" for kind, group in subjects.items() for path in group)
        raise InputError(
            f"expected any number of runs, one pruning, one harmonizing, one study, or any number "
            f"of evaluations on a page; found {folders}"
        )
    return grouped


def write(paths: Sequence[Path], out: Path | None, baseline: Path | None) -> Path:
    """See `megaprune.report.write_report`."""
    grouped = by_kind(paths)
    analyses = grouped.pop("analysis", [])
    ((kind, subjects),) = grouped.items()
    if baseline is not None:
        for path in (*subjects, baseline):
            if (other := kind_of(path)) != "evaluation":
                raise InputError(
                    f"--baseline compares evaluations; expected nothing else, found {other} {path}"
                )
    out = _default_folder(subjects) if out is None else out
    page = _make_page(kind, subjects, baseline, analyses, out)
    pictures = {f"{picture.name}.png": picture.png for picture in page.pictures}
    write_files(out, pictures | dict(page.tables) | {schema.PAGE_FILE: page.html.encode()})
    return out / schema.PAGE_FILE


def _make_page(
    kind: str,
    subjects: Sequence[Path],
    baseline: Path | None,
    analyses: Sequence[Path],
    out: Path,
) -> Page:
    if kind == "run" and len(subjects) > 1:
        return runs_page(subjects, analyses)
    if kind == "run":
        return run_page(subjects[0], analyses)
    if kind == "pruning":
        return prune_page(subjects[0], analyses, out)
    if kind == "harmonizing":
        return harmonize_page(subjects[0], analyses, out)
    if kind == "study":
        return study_page(subjects[0], analyses)
    return evaluations_page(subjects, baseline, analyses)


def _default_folder(subjects: Sequence[Path]) -> Path:
    """Where a report goes without --out: into the one folder that it is of, or here."""
    if len(subjects) == 1:
        return subjects[0] / schema.REPORT_FOLDER
    out = Path(schema.REPORT_FOLDER)
    others = [path.name for path in out.iterdir()] if out.is_dir() else []
    if out.exists() and not out.is_dir():
        raise InputError("report is a file; say with --out where the report is to be written")
    if others and schema.PAGE_FILE not in others:
        raise InputError(
            f"report has {', '.join(sorted(others)[:3])} in it and is no report; say with --out "
            f"where the report is to be written"
        )
    return out
