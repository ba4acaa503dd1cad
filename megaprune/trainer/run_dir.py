"""A run's folder: whose it is, and what it keeps. Written by rank 0; nothing is half there.

config.yaml         the resolved configuration
metrics.jsonl       one line for each step, and for each validation
samples/            every response that was trained on: step_000001.parquet, ...
validation/         every response of each validation; the number is that of steps done
checkpoints/        see megaprune.trainer.checkpoint
model/, report/     in the end: the model in Hugging Face's format; what became of it
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch.distributed as dist

from megaprune import schema
from megaprune.config.run import MAY_CHANGE, Config
from megaprune.distributed import world
from megaprune.trainer.run_lock import RunLock, writing
from megaprune.weights.files.staging import replace_text


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
        self._metrics = self.path / "metrics.jsonl"
        self._first = dist.get_rank() == 0
        self._own = RunLock(self.path, config, MAY_CHANGE)
        with world.raise_on_all_ranks():
            if self._first:
                with writing(self.path):
                    for name in ("samples", "validation"):
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
        with writing(self._metrics), self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def samples(self, kind: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a step's responses; `kind` is a subfolder."""
        if not self._first:
            return
        path = self.path / kind / f"step_{step:06}.parquet"
        partial = path.with_name(path.name + ".partial")
        with writing(path):
            path.parent.mkdir(exist_ok=True)
            table = pa.Table.from_pylist(
                [{"step": step, **row} for row in rows], schema=schema.samples_schema()
            )
            try:
                pq.write_table(table, partial, compression="zstd")
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
