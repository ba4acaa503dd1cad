"""A run's folder: whose it is, and what it keeps. Rank 0 writes; no file is ever half there.

The files are named in `megaprune.schema`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch.distributed as dist

from megaprune import schema
from megaprune.config.run import Config
from megaprune.distributed import world
from megaprune.files import append_line, new_file, remove_file, replace_bytes, set_aside, writing
from megaprune.trainer.checkpoint_files import warn
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
        # One thread: a step's responses are written while the next step draws its own.
        self._writer = ThreadPoolExecutor(1, "samples")
        self._writing: Future[None] | None = None
        self._own = RunLock(self.path, config)
        with world.raise_on_all_ranks():
            if self._first:
                with writing(self.path):
                    for name in (schema.SAMPLES_FOLDER, schema.VALIDATION_FOLDER):
                        (self.path / name).mkdir(exist_ok=True)

    def close(self) -> None:
        """Finish what is being written, and let other processes have the folder.

        Raises:
            InputError: responses could not be written.
        """
        try:
            self.wait()
        finally:
            self._writer.shutdown()
            self._own.close()

    def rewind(self, step: int) -> None:
        """Forget what later steps left, which are to be done again; all of it for 0.

        Lines of metrics that cannot be read are left out, which is said; if they are not the last
        one, which a killed run leaves, the file that has them is set aside.
        """
        if not self._first:
            return
        with writing(self.path):
            for kind in (schema.SAMPLES_FOLDER, schema.VALIDATION_FOLDER):
                for path in (self.path / kind).glob("step_*.parquet"):
                    if (written := schema.step_of_file(path.name)) is not None and written > step:
                        remove_file(path)
        if not self._metrics.exists():
            return
        lines = self._metrics.read_bytes().splitlines(keepends=True)
        steps = [_step_of_line(line) for line in lines]
        with writing(self._metrics):
            if torn := [number for number, done in enumerate(steps, 1) if done is None]:
                self._say_torn(torn, len(lines))
            text = b"".join(
                line.rstrip(b"\r\n") + b"\n"
                for line, done in zip(lines, steps, strict=True)
                if done is not None and 0 < step >= done
            )
            replace_bytes(self._metrics, text)
        missing = [n for n in range(1, step + 1) if n not in steps]
        if missing and step:
            numbers = ", ".join(map(str, missing[:5])) + ", ..." * (len(missing) > 5)
            warn(f"{self._metrics} has no line of step {numbers}: reports lack them")

    def _say_torn(self, torn: list[int], count: int) -> None:
        numbers = ", ".join(map(str, torn[:5])) + ", ..." * (len(torn) > 5)
        text = f"{self._metrics}: line {numbers} cannot be read as a step's numbers: left out"
        if torn != [count]:
            text += f"; the file as it was is {set_aside(self._metrics, 'damaged').name}"
        warn(text)

    def history(self) -> list[dict[str, Any]]:
        """Return the lines that there are, on the first rank."""
        if not self._first or not self._metrics.exists():
            return []
        lines = self._metrics.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def metrics(self, line: Mapping[str, Any]) -> None:
        """Add a line."""
        if not self._first:
            return
        self._own.check()
        with writing(self._metrics):
            append_line(self._metrics, json.dumps(line))

    def start(self, line: Mapping[str, Any]) -> None:
        """Add what is recorded of a start."""
        if self._first:
            path = self.path / schema.STARTS_FILE
            with writing(path):
                append_line(path, json.dumps(line))

    def samples(self, kind: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Begin to write a step's responses, in a thread; `wait` ends it.

        Those that are not to be kept any longer are removed afterwards.

        Args:
            kind: the subfolder: `schema.SAMPLES_FOLDER` or another one.
            step: how many are done.
            rows: by the columns of `schema.SAMPLE_COLUMNS`; a column that a row lacks is null.

        Raises:
            InputError: the responses before these could not be written.
        """
        self.wait()
        last_steps = self._retention.keep_last if kind == schema.SAMPLES_FOLDER else None
        if not self._first or last_steps == 0:
            return
        whole = self._retention.tokens or kind == schema.FAILED_FOLDER
        without = () if whole else _LARGE_COLUMNS
        folder = self.path / kind
        self._writing = self._writer.submit(_write_step, folder, step, rows, without, last_steps)

    def wait(self) -> None:
        """Wait until all responses are on the disk.

        Raises:
            InputError: they could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def _write_step(
    folder: Path,
    step: int,
    rows: Sequence[Mapping[str, Any]],
    without: Sequence[str],
    last_steps: int | None,
) -> None:
    """Write a step's responses, and remove those of steps before the last `last_steps`."""
    write_samples(folder / schema.step_file(step), [{"step": step, **row} for row in rows], without)
    if last_steps is not None:
        for path in folder.glob("step_*.parquet"):
            written = schema.step_of_file(path.name)
            if written is not None and written <= step - last_steps:
                remove_file(path)


def _step_of_line(line: bytes) -> int | None:
    """The step that a line of metrics is of; None if it is torn, or no such line."""
    try:
        step = json.loads(line.decode("utf-8"))["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return step if type(step) is int else None


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
