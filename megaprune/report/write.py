"""A page of whatever the paths are of, and its figures, written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from megaprune.errors import InputError
from megaprune.report.evaluations_page import evaluations_page
from megaprune.report.inputs import by_kind, kind_of
from megaprune.report.page import Page
from megaprune.report.prune_page import prune_page
from megaprune.report.run_page import run_page


def write(paths: Sequence[Path], out: Path | None, baseline: Path | None) -> Path:
    """See `megaprune.report.write_report`."""
    found = by_kind(paths)
    analyses = found.pop("analysis", [])
    ((kind, subjects),) = found.items()
    if baseline is not None:
        for path in (*subjects, baseline):
            if (what := kind_of(path)) != "evaluation":
                raise InputError(
                    f"--baseline compares evaluations; expected nothing else, found {what} {path}"
                )
    out = _place(subjects) if out is None else out
    page = _make(kind, subjects, baseline, analyses)
    out.mkdir(parents=True, exist_ok=True)
    for picture in page.pictures:
        _write(out / f"{picture.name}.png", picture.png)
    _write(out / "index.html", page.html.encode("utf-8"))
    return out / "index.html"


def _make(
    kind: str, subjects: Sequence[Path], baseline: Path | None, analyses: Sequence[Path]
) -> Page:
    if kind == "run":
        return run_page(subjects[0], analyses)
    if kind == "pruning":
        return prune_page(subjects[0], analyses)
    return evaluations_page(subjects, baseline, analyses)


def _place(subjects: Sequence[Path]) -> Path:
    """Where a report is written if nothing is said: in the one folder that it is of, or here."""
    if len(subjects) == 1:
        return subjects[0] / "report"
    out = Path("report")
    others = [path.name for path in out.iterdir()] if out.is_dir() else []
    if out.exists() and not out.is_dir():
        raise InputError("report is a file; say with --out where the report is to be written")
    if others and "index.html" not in others:
        raise InputError(
            f"report has {', '.join(sorted(others)[:3])} in it and is no report; say with --out "
            f"where the report is to be written"
        )
    return out


def _write(path: Path, content: bytes) -> None:
    """Write aside and rename: whoever looks meanwhile sees the old file or the new one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
