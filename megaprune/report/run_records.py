"""Folders of runs, read: their configuration, metrics and answers."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from megaprune import schema
from megaprune.config.renamed import RENAMED
from megaprune.errors import InputError
from megaprune.yaml_text import load_yaml

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

ProblemKey: TypeAlias = tuple[str, str]
"""A problem: its data source and its name."""

SampleRow: TypeAlias = dict[str, Any]
"""An answer: columns of `schema.SAMPLE_COLUMNS`."""


def each_once(paths: Iterable[Path]) -> list[Path]:
    """Leave out paths to the same folder as one before."""
    first: dict[Path, Path] = {}
    for path in paths:
        first.setdefault(path.resolve(), path)
    return [*first.values()]


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """Name folders by the last parts of their paths: as many parts as tell all of them apart."""
    resolved = [path.resolve() for path in paths]
    for parts in range(1, max(len(path.parts) for path in resolved) + 1):
        names = ["/".join(path.parts[-parts:]) for path in resolved]
        if len({*names}) == len(names):
            break
    return names


@dataclass(frozen=True)
class AnswerTable:
    """The outcomes of answers.

    Attributes:
        problems: the problem of each answer.
        lengths: tokens of each answer.
        right: 1 for an answer that is right, 0 for one that is wrong.
        cut_off: 1 for an answer that the limit ended, 0 for one that the model ended.
    """

    problems: list[ProblemKey]
    lengths: Array
    right: Array
    cut_off: Array


def read_answers(*files: Path) -> AnswerTable:
    """Read the outcomes of all answers in some files."""
    column: dict[str, list[Any]] = {name: [] for name in schema.OUTCOME_COLUMNS}
    for file in files:
        table = _read_table(file, schema.OUTCOME_COLUMNS)
        for name in schema.OUTCOME_COLUMNS:
            column[name] += table[name].to_pylist()
    return AnswerTable(
        problems=list(zip(column["data_source"], column["problem"], strict=True)),
        lengths=np.array(column["length"], dtype=float),
        right=np.array(column["match"], dtype=float),
        cut_off=np.array([reason == "length" for reason in column["finish"]], dtype=float),
    )


def read_rows(files: Sequence[Path], columns: Sequence[str]) -> list[SampleRow]:
    """Read some columns of every answer."""
    return [row for file in files for row in _read_table(file, [*columns]).to_pylist()]


def read_first_answers(*files: Path) -> dict[ProblemKey, SampleRow]:
    """Find each problem's answer with the lowest number: its outcome, its number, its `file`."""
    rows = [row | {"file": file} for file in files for row in read_rows([file], _FIRST)]
    rows.sort(key=lambda row: row["number"], reverse=True)  # so that the lowest is kept
    return {(row["data_source"], row["problem"]): row for row in rows}


def read_texts(first: SampleRow) -> SampleRow:
    """Read an answer with its texts.

    Args:
        first: the answer as `read_first_answers` returns it.
    """
    names = ("data_source", "problem", "number")
    wanted = [(name, "==", first[name]) for name in names]
    row: SampleRow = (
        _read_table(first["file"], [*schema.OUTCOME_COLUMNS, *schema.TEXT_COLUMNS], wanted)
        .slice(0, 1)
        .to_pylist()[0]
    )
    return row


_FIRST = [*schema.OUTCOME_COLUMNS, "number"]


def _read_table(path: Path, columns: Sequence[str], wanted: Sequence[Any] = ()) -> Any:
    """Read columns of a file, without the answers whose thought was closed early."""
    try:
        # No partitioning: a folder named like `lr=1e-6` is not a column.
        file = pq.ParquetFile(path)
        chosen = pq.filters_to_expression([*wanted]) if wanted else None
        stored = schema.stored_columns([*columns, "exit_at"], file.schema_arrow.names)
        if "exit_at" in stored:
            own = pc.field(stored["exit_at"]).is_null()
            chosen = own if chosen is None else chosen & own
        names = [stored.get(name, name) for name in columns]
        table = pq.read_table(path, columns=names, filters=chosen, partitioning=None)
        return table.rename_columns([*columns])
    except (pa.ArrowException, OSError) as error:
        detail = " ".join(str(error).split())
        raise InputError(
            f"{path}: cannot be read as answers ({detail}); expected a file with the columns "
            f"{', '.join(columns)}, as `megaprune train` and `megaprune evaluate` write them"
        ) from error


@dataclass(frozen=True)
class RunRecord:
    """What a run has written.

    Attributes:
        path: its folder.
        config: the resolved configuration, nested as in its file.
        config_text: that file's text.
        metrics: the metrics of each step and of the validation after it, in the order of steps,
            by the names of `megaprune.schema`.
        validations: the file with the answers of each validation, by step.
        samples: the file with the answers of each training step, by step.
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
        """Look up a value of the configuration by its dotted name; None if there is none."""
        return find_setting(self.config, name)

    @property
    def training_limit(self) -> int | None:
        """The most tokens of an answer in training; None if the configuration does not say."""
        return _whole(self.setting("rollout.max_response_length"))

    @property
    def validation_limit(self) -> int | None:
        """The most tokens of an answer in a validation; None if the configuration does not say."""
        return _whole(self.setting("validation.max_response_length"))

    def series(self, name: str) -> tuple[Array, Array]:
        """The steps that have a metric, and its values; a value that is not finite is NaN."""
        pairs = [(step, row[name]) for step, row in self.metrics.items() if name in row]
        steps, values = zip(*pairs, strict=True) if pairs else ((), ())
        finite = [value if math.isfinite(value) else math.nan for value in values]
        return np.array(steps, dtype=int), np.array(finite, dtype=float)


def read_run(path: Path) -> RunRecord:
    """Read a run's folder, all but its answers.

    Raises:
        InputError: it is not the folder of a run that has done a step.
    """
    if not path.is_dir():
        raise InputError(
            f"{path}: no such folder; expected the folder of a run, with {schema.METRICS_FILE}"
        )
    notes: list[str] = []
    metrics = _read_metrics(path / schema.METRICS_FILE, notes)
    config_text, config = read_config(path / schema.CONFIG_FILE, notes)
    validations, samples = (
        _list_steps(path / folder, max(metrics), notes)
        for folder in (schema.VALIDATION_FOLDER, schema.SAMPLES_FOLDER)
    )
    return RunRecord(path, config, config_text, metrics, validations, samples, tuple(notes))


def read_config(path: Path, notes: list[str]) -> tuple[str, dict[str, Any]]:
    """Read a configuration: its text and its content; a note says why if there is none."""
    if not path.is_file():
        notes.append(f"The folder has no {schema.CONFIG_FILE}.")
        return "", {}
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        config = load_yaml(text)
    except InputError:
        config = None
    if not isinstance(config, dict):
        notes.append(f"{schema.CONFIG_FILE} is not a YAML mapping; it is shown as it is.")
        return text, {}
    return text, _with_names_of_today(config)


def _with_names_of_today(config: dict[str, Any]) -> dict[str, Any]:
    """Give renamed fields of an older configuration the names that they have now."""
    renamed = copy.deepcopy(config)
    for old, new in RENAMED.items():
        *parts, name = old.split(".")
        section = find_setting(renamed, ".".join(parts)) if parts else renamed
        if not isinstance(section, dict) or name not in section:
            continue
        value, target = section.pop(name), renamed
        *parts, name = new.split(".")
        for part in parts:
            if not isinstance(target.get(part), dict):
                target[part] = {}
            target = target[part]
        target.setdefault(name, value)
    return renamed


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def find_setting(config: dict[str, Any], name: str) -> Any:
    """Look up a value by its dotted name; None if there is none."""
    value: Any = config
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def model_of(config: dict[str, Any]) -> str:
    """The path or name of the model that a run began with; empty if the configuration says none."""
    value = find_setting(config, "model")
    if isinstance(value, dict):
        value = value.get("path", value.get("name"))
    return value if isinstance(value, str) else ""


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
            notes.append(
                f"{schema.METRICS_FILE}: {which} is torn or not a step's numbers; it was left out."
            )
            continue
        # A resumed run does some steps again: what it wrote last is what it went on with.
        metrics.setdefault(int(row.pop("step")), {}).update(row)
    if not metrics:
        raise InputError(f'{path}: has no step; expected a line like {{"step": 1, "reward": 0.5}}')
    return dict(sorted(metrics.items()))


def _parse(line: str) -> dict[str, float] | None:
    """Read the numbers of a line; None if it is not the line of a step."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        return None
    numbers = {key: value for key, value in row.items() if isinstance(value, (int, float))}
    return {schema.metric_name(key): float(value) for key, value in numbers.items()}


def _list_steps(folder: Path, last: int, notes: list[str]) -> dict[int, Path]:
    """List files of answers by step, without torn ones and those of steps after the last.

    A run that was killed and goes on from an earlier step leaves files of later steps there until
    it writes its own.
    """
    files: dict[int, Path] = {}
    for path in folder.glob("step_*.parquet"):
        step = schema.step_of_file(path.name)
        if step is None or step > last:
            continue
        try:
            rows = pq.read_metadata(path).num_rows
        except pa.ArrowInvalid:
            rows = 0
        if rows:
            files[step] = path
        else:
            notes.append(f"{folder.name}/{path.name} is torn or empty; it was left out.")
    return dict(sorted(files.items()))
