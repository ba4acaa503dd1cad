"""What `megaprune analyze` found of thoughts, read and drawn."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megaprune.analyze import behaviour_figure
from megaprune.errors import InputError
from megaprune.report.figures import Picture, number, to_png

ANALYSIS = "analysis.json"
_NAMED = 3
"""Of the kinds, how many a caption names for each input: the figure has them all."""


def draw_analyses(paths: Sequence[Path]) -> list[Picture]:
    """A figure of each analysis.

    Raises:
        InputError: a folder's analysis cannot be read.
    """
    return [_draw(path, f"behaviours_{index}") for index, path in enumerate(paths, start=1)]


def _draw(path: Path, name: str) -> Picture:
    file = path / ANALYSIS
    try:
        analysis = json.loads(file.read_text(encoding="utf-8"))
        judged = analysis["mode"] == "judge"
        said = "; ".join(_said(one, judged) for one in analysis["inputs"])
        png = to_png(behaviour_figure(analysis))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(
            f"{file}: cannot be read as an analysis ({error!r}); `megaprune analyze` writes it: "
            f"run the same command again"
        ) from error
    what = "Share of steps" if judged else "Sentences per answer"
    title = "What thoughts consist of" if judged else "Words of doubt in thoughts"
    return Picture(name, png, title, f"{what}: {said}.")


def _said(one: Mapping[str, Any], judged: bool) -> str:
    """The most frequent kinds of one input."""
    if judged:
        found = {kind: numbers["share"] for kind, numbers in one["behaviours"].items()}
    else:
        found = dict(one["lexical"])
    known = sorted((kind for kind in found if found[kind] is not None), key=lambda k: -found[k])
    kinds = [f"{kind} {number(found[kind], '.1%' if judged else '.2f')}" for kind in known]
    return f"{one['name']} {', '.join(kinds[:_NAMED]) or 'no thought that could be used'}"
