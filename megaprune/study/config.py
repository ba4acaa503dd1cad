"""The configuration of a study: what all runs share, what differs, and how models are measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from megaprune.config.fields import field, section
from megaprune.config.read import read_fields


@section()
class StudyConfig:
    """A study: every variant, with every combination of the grid, is trained with every seed.

    The same command with a changed grid keeps the runs that are there.
    """

    out: str = field(may_change=True, doc="Folder of the study. One that is there already goes on.")
    run: dict[str, Any] = field(
        default={},
        may_change=True,
        doc="Fields of every run, as `megaprune train` or `megaprune harmonize` takes them; "
        "recipe=NAME is one of them.",
    )
    variants: dict[str, Any] = field(
        default={},
        may_change=True,
        doc="Variants by name, each a mapping of the fields that it has beside those of `run`. "
        "Fields that only an evaluation has make it one, of the start model.",
    )
    grid: dict[str, Any] = field(
        default={},
        may_change=True,
        doc="Lists of values by field: each variant is trained with every combination of them.",
    )
    seeds: list[int] = field(
        default=[0], may_change=True, doc="Each variant is trained once with each of these seeds."
    )
    evaluate: dict[str, Any] = field(
        default={},
        may_change=True,
        doc="How the models are measured, the start model and those of all runs: fields of "
        "`megaprune evaluate`, or its recipe. What is not given is as in the runs' validation.",
    )
    references: dict[str, Any] = field(
        default={},
        may_change=True,
        doc="Fields of the evaluation of the start model on data.train, which is made once if a "
        "variant's reward needs it.",
    )
    n_jobs: int = field(
        default=1,
        gt=0,
        unit="runs",
        may_change=True,
        doc="Runs at once on this host, each in processes of its own.",
    )


def read_study_config(arguments: Sequence[str]) -> StudyConfig:
    """Read a study's configuration, as `config.read.read_fields` does.

    Raises:
        InputError: as there.
    """
    return read_fields(StudyConfig, arguments)
