"""Trackers: places that metrics go to besides metrics.jsonl, which stays the truth.

A process that is killed takes with it what a tracker had not written yet. So each tracker is told
everything again that the folder's metrics.jsonl has when a run goes on: whatever of its files is
read, the last of them is whole.
"""

from __future__ import annotations

import importlib
import os
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from megaprune import schema
from megaprune.config.run import WandbConfig
from megaprune.errors import InputError
from megaprune.files import replace_text
from megaprune.foreign_text import for_people

Line = Mapping[str, Any]
"""A line of metrics.jsonl: "step", and numbers by their names."""


class Tracker(Protocol):
    """Something that metrics are told to."""

    def log(self, line: Line) -> None:
        """Take a line. Steps do not fall, and two lines may have the same one."""

    def close(self) -> None:
        """Write what is not written yet."""


@dataclass(frozen=True)
class Tracked:
    """What is tracked.

    Args:
        folder: of the job.
        kind: what it is: "train" or "evaluate".
        config: its configuration, as dictionaries, for others' eyes.
        wandb: whether and where to W&B.
        tensorboard: whether files for TensorBoard are written.
    """

    folder: Path
    kind: str
    config: Mapping[str, Any]
    wandb: WandbConfig
    tensorboard: bool


class Trackers:
    """All trackers that are wanted, which are told what was before.

    One that fails is warned of and left: metrics.jsonl has what it lacks.

    Args:
        history: the lines of the steps that are done.
    """

    def __init__(self, tracked: Tracked, history: Sequence[Line]):
        self._all: list[Tracker] = []
        if tracked.wandb.mode != "disabled":
            self._all.append(WandbTracker(tracked, history))
        if tracked.tensorboard:
            self._all.append(TensorBoardTracker(tracked, history))

    def log(self, line: Line) -> None:
        """Tell all of them a line."""
        for tracker in list(self._all):
            with self._leaving(tracker):
                tracker.log(line)

    def close(self) -> None:
        """Close them all."""
        while self._all:
            tracker = self._all[0]
            with self._leaving(tracker):
                tracker.close()
            self._all = [other for other in self._all if other is not tracker]

    @contextmanager
    def _leaving(self, tracker: Tracker) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 (the run is worth more than a copy of its metrics)
            self._all = [other for other in self._all if other is not tracker]
            print(
                f"megaprune: warning: {type(tracker).__name__} failed ({for_people(repr(error))}) "
                f"and gets nothing more; {schema.METRICS_FILE} has all, and it gets that when the "
                f"run goes on",
                file=sys.stderr,
                flush=True,
            )


def check_trackers(wandb: WandbConfig, tensorboard: bool) -> None:
    """See that the trackers that are wanted can be begun.

    Raises:
        InputError: a package is not installed; the message has the line to type.
    """
    wanted = []
    if wandb.mode != "disabled":
        wanted.append((f"wandb.mode={wandb.mode}", "wandb", "wandb", "wandb.mode=disabled"))
    if tensorboard:
        module = "torch.utils.tensorboard"
        wanted.append(("tensorboard=true", module, "tensorboard", "tensorboard=false"))
    for field, module, package, without in wanted:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise InputError(
                f"{field}, and {package} cannot be imported ({error}); install it with: pip "
                f"install {package}, or do without it: {without}"
            ) from error


class WandbTracker:
    """The W&B run of a folder; without the server, one that can be uploaded later.

    A run that goes on has the same id, and its line `resumed_after_step` in W&B's configuration.
    """

    def __init__(self, tracked: Tracked, history: Sequence[Line]):
        os.environ.setdefault("WANDB_SILENT", "true")  # it would ask for a key, and wait
        self._run = _start_wandb(tracked, history)
        # A server that knows the run drops steps that it has.
        first = self._run.starting_step
        for line in history:
            if line["step"] >= first:
                self.log(line)

    def log(self, line: Line) -> None:
        """See `Tracker`."""
        values = {name: value for name, value in line.items() if name != "step"}
        self._run.log(values, step=line["step"])

    def close(self) -> None:
        """See `Tracker`."""
        self._run.finish()


class TensorBoardTracker:
    """TensorBoard's files, in the folder's `tensorboard/`."""

    def __init__(self, tracked: Tracked, history: Sequence[Line]):
        from torch.utils.tensorboard import SummaryWriter

        folder = tracked.folder / schema.TENSORBOARD_FOLDER
        # Step 0 of a new file has TensorBoard forget those of the files before it.
        self._writer = SummaryWriter(str(folder), purge_step=0 if folder.is_dir() else None)
        for line in history:
            self.log(line)
        self._writer.flush()

    def log(self, line: Line) -> None:
        """See `Tracker`."""
        for name, value in line.items():
            if name != "step" and isinstance(value, int | float):
                self._writer.add_scalar(name, value, line["step"])

    def close(self) -> None:
        """See `Tracker`."""
        self._writer.close()


def _start_wandb(tracked: Tracked, history: Sequence[Line]) -> Any:
    import wandb

    out, fields = tracked.folder, tracked.wandb
    known = out / schema.WANDB_ID_FILE
    resumed: dict[str, Any] = {}
    if known.exists():
        resumed = {"resumed_after_step": max((line["step"] for line in history), default=0)}
    else:
        replace_text(known, uuid.uuid4().hex[:8])
    wanted: dict[str, Any] = {
        "project": fields.project,
        "name": fields.name or out.resolve().name,
        "group": fields.group,
        "job_type": tracked.kind,
        "tags": ["resumed"] if resumed else None,
        "id": known.read_text(),
        "resume": "allow",
        "dir": str(out),
        "config": {**tracked.config, **resumed},
    }
    limits: dict[str, Any] = {}
    if "WANDB_INIT_TIMEOUT" not in os.environ:
        limits["init_timeout"] = 30.0
    if "finish_timeout" in wandb.Settings.model_fields:
        limits["finish_timeout"] = 60.0  # a server that went away does not hold the end
    if fields.mode == "online":
        try:
            settings = wandb.Settings(silent=True, **limits)
            return wandb.init(mode="online", settings=settings, **wanted)
        except (wandb.errors.Error, OSError) as error:
            wandb.teardown()  # it would hold the run's id
            words = for_people(" ".join(str(error).split()))
            print(
                f"megaprune: warning: W&B cannot be reached ({words}): the run goes on, and "
                f"keeps what it would have sent in {out}/wandb; send it later with: wandb "
                f"sync {out}/wandb/offline-*",
                file=sys.stderr,
                flush=True,
            )
    return wandb.init(mode="offline", settings=wandb.Settings(silent=True, **limits), **wanted)
