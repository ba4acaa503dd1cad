"""A run's folder, read."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from megaprune import schema
from megaprune.errors import InputError
from megaprune.report.answers import Array

METRICS = "metrics.jsonl"
CONFIG = "config.yaml"


@dataclass(frozen=True)
class Run:
    """What a run has written.

    Attributes:
        path: the run's folder.
        config: the resolved configuration, nested as in its file.
        config_text: that file's text.
        metrics: numbers by step, in the order of steps; a step's training and validation together.
        validations: files of every validation's answers, by step.
        samples: files of every training step's answers, by step.
        notes: what a reader must know about what was read.
    """

    path: Path
    config: dict[str, Any]
    config_text: str
    metrics: dict[int, dict[str, float]]
    validations: dict[int, Path]
    samples: dict[int, Path]
    notes: tuple[str, ...]

    def setting(self, name: str) -> Any:
        """A value of the configuration by its dotted name; None if there is none."""
        return find_setting(self.config, name)

    def series(self, name: str) -> tuple[Array, Array]:
        """The steps that have a metric, and its values there; one that is not finite is NaN."""
        pairs = [(step, row[name]) for step, row in self.metrics.items() if name in row]
        steps, values = zip(*pairs, strict=True) if pairs else ((), ())
        finite = [value if math.isfinite(value) else math.nan for value in values]
        return np.array(steps, dtype=int), np.array(finite, dtype=float)


def read_run(path: Path) -> Run:
    """Read a run's folder, all but its answers.

    Raises:
        InputError: it is not the folder of a run that has done a step.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; expected the folder of a run, with {METRICS}")
    notes: list[str] = []
    metrics = _read_metrics(path / METRICS, notes)
    config_text, config = read_config(path / CONFIG, notes)
    validations, samples = (
        _list_steps(path / folder, max(metrics), notes) for folder in ("validation", "samples")
    )
    return Run(path, config, config_text, metrics, validations, samples, tuple(notes))


def read_config(path: Path, notes: list[str]) -> tuple[str, dict[str, Any]]:
    """A configuration's text, and what it says; adds to the notes if it says nothing."""
    if not path.is_file():
        notes.append(f"The folder has no {CONFIG}.")
        return "", {}
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError:
        config = None
    if not isinstance(config, dict):
        notes.append(f"{CONFIG} is not a YAML mapping; it is shown as it is.")
        return text, {}
    return text, config


def find_setting(config: dict[str, Any], name: str) -> Any:
    """A value by its dotted name; None if there is none."""
    value: Any = config
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _read_metrics(path: Path, notes: list[str]) -> dict[int, dict[str, float]]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a run's folder, which has one")
    metrics: dict[int, dict[str, float]] = {}
    lines = path.read_text(encoding="utf-8", errors="replace").rstrip("\n").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = _parse(line)
        if row is None:
            # A job that is killed leaves its last line torn; resumed, it goes on behind it.
            which = "the last line" if number == len(lines) else f"line {number}"
            notes.append(f"{METRICS}: {which} is torn or not a step's numbers; it was left out.")
            continue
        # A resumed run does some steps again: what it wrote last is what it went on with.
        metrics.setdefault(int(row.pop("step")), {}).update(row)
    if not metrics:
        raise InputError(f'{path}: has no step; expected a line like {{"step": 1, "reward": 0.5}}')
    return dict(sorted(metrics.items()))


def _parse(line: str) -> dict[str, float] | None:
    """The numbers of a line; None if it is none of a step."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        return None
    numbers = {key: value for key, value in row.items() if isinstance(value, (int, float))}
    return {schema.metric_name(key): float(value) for key, value in numbers.items()}


def _list_steps(folder: Path, last: int, notes: list[str]) -> dict[int, Path]:
    """Files of answers by step, without those that are torn.

    Nor those of steps after the last: a run that was killed and goes on from an earlier step
    leaves them there until it comes to write its own.
    """
    found: dict[int, Path] = {}
    for path in folder.glob("step_*.parquet"):
        match = re.fullmatch(r"step_(\d+)\.parquet", path.name)
        if not match or int(match[1]) > last:
            continue
        try:
            rows = pq.read_metadata(path).num_rows
        except pa.ArrowInvalid:
            rows = 0
        if rows:
            found[int(match[1])] = path
        else:
            notes.append(f"{folder.name}/{path.name} is torn or empty; it was left out.")
    return dict(sorted(found.items()))
