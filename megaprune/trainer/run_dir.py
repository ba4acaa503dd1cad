"""A run's folder: whose it is, and what it keeps. Rank 0 writes; no file is ever half there.

The files are named in `megaprune.schema`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch.distributed as dist

from megaprune import schema
from megaprune.config.run import Config
from megaprune.distributed import world
from megaprune.files import append_line, new_file, remove_file, replace_text, writing
from megaprune.trainer.run_lock import RunLock

_LARGE_COLUMNS = ("prompt_tokens", "tokens", "log_probs")


class RunDir:
    """The folder of a run, which is this job's alone. Ranks but the first write nothing.

    Args:
        config: of the run that is to begin here or go on.

    Raises:
        InputError: the folder is another run's, or is no run's and not empty, or another process
            is at it, or it cannot be written.
    """

    def __init__(self, config: Config):
        self.path = Path(config.out)
        self._retention = config.samples
        self._metrics = self.path / schema.METRICS_FILE
        self._first = dist.get_rank() == 0
        self._own = RunLock(self.path, config)
        with world.raise_on_all_ranks():
            if self._first:
                with writing(self.path):
                    for name in (schema.SAMPLES_FOLDER, schema.VALIDATION_FOLDER):
                        (self.path / name).mkdir(exist_ok=True)

    def close(self) -> None:
        """Let other processes have it."""
        self._own.close()

    def rewind(self, step: int) -> None:
        """Forget the metrics of later steps, which are to be done again; all of them for 0."""
        if not self._first or not self._metrics.exists():
            return
        kept = []
        for line in self._metrics.read_text(encoding="utf-8").splitlines():
            try:
                done = json.loads(line)["step"]
            except ValueError:  # the last line of a run that was killed as it wrote it
                continue
            if 0 < step >= done:
                kept.append(line + "\n")
        with writing(self._metrics):
            replace_text(self._metrics, "".join(kept))

    def metrics(self, line: Mapping[str, Any]) -> None:
        """Add a line."""
        if not self._first:
            return
        self._own.check()
        with writing(self._metrics):
            append_line(self._metrics, json.dumps(line))

    def samples(self, kind: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a step's responses, and remove those that are not to be kept any longer.

        Args:
            kind: the subfolder: `schema.SAMPLES_FOLDER` or another one.
            step: how many are done.
            rows: by the columns of `schema.SAMPLE_COLUMNS`; a column that a row lacks is null.
        """
        last_steps = self._retention.keep_last if kind == schema.SAMPLES_FOLDER else None
        if not self._first or last_steps == 0:
            return
        whole = self._retention.tokens or kind == schema.FAILED_FOLDER
        without = () if whole else _LARGE_COLUMNS
        folder = self.path / kind
        write_samples(
            folder / schema.step_file(step), [{"step": step, **row} for row in rows], without
        )
        if last_steps is not None:
            for path in folder.glob("step_*.parquet"):
                written = schema.step_of_file(path.name)
                if written is not None and written <= step - last_steps:
                    remove_file(path)


def write_samples(
    path: Path, rows: Sequence[Mapping[str, Any]], without: Sequence[str] = ()
) -> None:
    """Write a table of responses, in place of one that is there.

    Args:
        path: its folder is made if it is not there.
        rows: by the columns of `schema.SAMPLE_COLUMNS`; a column that a row lacks is null.
        without: columns to leave empty.

    Raises:
        InputError: it cannot be written.
    """
    kept = [{name: row[name] for name in row if name not in without} for row in rows]
    table = pa.Table.from_pylist(kept, schema=schema.samples_schema())
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(path) as new:
            pq.write_table(table, new, compression="zstd")
