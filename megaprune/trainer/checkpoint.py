"""Checkpoints of a run: whole or not there, written while training goes on, last and best.

They are `torch_dist`, each in RUN/checkpoints/iter_0000020, with the model's Hugging Face files
beside the weights: `megaprune convert` reads them, and so does Megatron-core.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

import megaprune.actor  # noqa: F401  # before Megatron-core: see actor/transformer_engine.py

# isort: split
from megatron.core import dist_checkpointing
from torch.distributed.checkpoint.api import CheckpointException

from megaprune import schema
from megaprune.actor.actor import Actor
from megaprune.actor.cpu import redirect_cuda
from megaprune.actor.megatron_versions import READS_COMMON_OBJECT
from megaprune.config.run import CheckpointConfig, Config
from megaprune.distributed.device import device
from megaprune.distributed.objects import all_gather_object, broadcast_from_rank0
from megaprune.distributed.world import raise_on_all_ranks
from megaprune.engine_versions import MEGATRON
from megaprune.errors import InputError
from megaprune.files import check_folder_output, clear_up_inside
from megaprune.trainer.checkpoint_files import (
    Best,
    Score,
    Shelf,
    best_whole,
    checkpoint_path,
    damage_of,
    put_aside,
    warn,
)
from megaprune.trainer.checkpoint_saving import HostCopies, Saving
from megaprune.weights.convert import megatron_to_hf
from megaprune.weights.files.checkpoint_metadata import METADATA
from megaprune.weights.files.digests import in_short
from megaprune.weights.files.kind import COMMON_OBJECT, iterations


@dataclass(frozen=True)
class ResumePoint:
    """Where a run is: steps that are done, and the state of its source of batches."""

    step: int
    source: dict[str, Any]


class Checkpoints:
    """The checkpoints of a run. Methods are collective, but for `latest`.

    Args:
        folder: where they lie.
        side: the Hugging Face model's other files, by name.
        config: how many are kept, and whether to wait for them.
        before_naming: called on the first rank before a checkpoint gets its name: until what
            belongs to its step is on the disk. What it raises ends the save.
    """

    def __init__(
        self,
        folder: Path,
        side: Mapping[str, Path],
        config: CheckpointConfig,
        before_naming: Callable[[], None] = lambda: None,
    ):
        self.folder, self._side, self._config = folder, dict(side), config
        self._before_naming = before_naming
        self._saving: Saving | None = None
        self._copies = HostCopies()
        self._best, self._shelf = Best(config.tie), Shelf(folder, config)
        if device().type == "cpu":
            redirect_cuda()  # what was imported here since
        if dist.get_rank() == 0:
            try:
                clear_up_inside(folder)
            except OSError as error:  # remains stay, and are in nobody's way
                warn(f"what an earlier run left in {folder} cannot be removed: {error}")

    def latest(self) -> Path | None:
        """The last checkpoint; None if there is none. Not collective."""
        return next(reversed(iterations(self.folder)), None)

    def load_latest(self, actor: Actor) -> ResumePoint:
        """Make an actor what it was at the latest whole checkpoint; tell where that one was.

        Random numbers go on where they were; on a world of another size, all ranks' go on where the
        first rank's were. Damaged checkpoints are set aside, and those that are too many go.

        Raises:
            InputError: no checkpoint is whole, or one is damaged and `on_damage` says to stop, or
                it does not say where its data source was.
        """
        path = self._latest_whole()
        if path is None:
            return ResumePoint(0, {})
        state = {"run": None, **actor.state(loading=True)}
        try:
            loaded = dist_checkpointing.load(state, str(path), validate_access_integrity=False)
        except (Exception, CheckpointException) as error:  # torch's is no Exception
            if not READS_COMMON_OBJECT and _has_common_object(path):
                raise InputError(
                    f"{path} was saved by Megatron-core 0.19 or newer, and {MEGATRON.installed()} "
                    f"is installed, which cannot load it: pip install 'megatron-core>=0.19'"
                ) from error
            if self._config.verify == "full":
                raise RuntimeError(f"{path} is what was saved, and cannot be loaded") from error
            raise InputError(
                f"{path} cannot be loaded ({in_short(str(error).splitlines()[-1:])}); "
                f"checkpoint.verify=full tells what in it is damaged"
            ) from error
        actor.restore(loaded)
        if "source" not in loaded["run"]:
            raise InputError(
                f"{path} does not say which problems its run has had; give another out=..., and "
                f"model=DIR of its exported model (megaprune convert to-hf) to go on from there"
            )
        states = loaded["run"]["random_numbers"]
        same_size = len(states) == dist.get_world_size()
        _set_random_state(states[dist.get_rank() if same_size else 0])
        if self._config.keep_best:
            self._best = broadcast_from_rank0(Best.of(self.folder, self._config.tie))
        self._tidy()
        return ResumePoint(int(loaded["run"]["step"]), loaded["run"]["source"])

    def check_places(self, step: int, steps: int) -> None:
        """See that later checkpoints can get their names.

        Args:
            step: steps that are done.
            steps: steps that there will be.

        Raises:
            InputError: something of another's has the name of one of them.
        """
        with raise_on_all_ranks():
            if dist.get_rank() == 0:
                for path in sorted(self.folder.glob("iter_*")):
                    number = re.fullmatch(r"iter_([0-9]+)", path.name)
                    if number and step < int(number[1]) <= steps:
                        check_folder_output(path, overwrite=True)

    def _latest_whole(self) -> Path | None:
        """Find the last checkpoint without damage; set aside those after it."""
        damaged: list[tuple[Path, list[str]]] = []
        for path in reversed(broadcast_from_rank0(iterations(self.folder))):
            lines = self._damage(path)
            if not lines:
                self._put_aside(damaged, path)
                return path
            damaged.append((path, lines))
            if self._config.on_damage == "stop":
                raise InputError(
                    f"{path} is damaged: {in_short(lines)}. With checkpoint.on_damage=previous the "
                    f"run goes on from the whole one before it; all files are as they were"
                )
        if damaged:
            named = "; ".join(f"{path.name}: {in_short(lines, 1)}" for path, lines in damaged)
            raise InputError(
                f"no checkpoint in {self.folder} is whole: {named}. Restore one from a copy, or "
                f"give another out=... to begin anew; all files are as they were"
            )
        return None

    def _damage(self, path: Path) -> list[str]:
        """What is wrong with a checkpoint; each rank looks at its share."""
        share = (dist.get_rank(), dist.get_world_size())
        lines: list[str] = []
        with raise_on_all_ranks():
            lines = damage_of(path, self._config.verify, share)
        return list(dict.fromkeys(line for of_rank in all_gather_object(lines) for line in of_rank))

    def _put_aside(self, damaged: list[tuple[Path, list[str]]], whole: Path) -> None:
        with raise_on_all_ranks():
            if dist.get_rank() == 0:
                for path, lines in damaged:
                    warn(f"{put_aside(path, lines)}; the run goes on from {whole}")

    def _tidy(self) -> None:
        with raise_on_all_ranks():
            if dist.get_rank() == 0:
                self._shelf.tidy(self._best.score)

    def save(
        self, step: int, actor: Actor, source: dict[str, Any], score: Score | None = None
    ) -> None:
        """Begin to save; `finish` ends it. What is saved is the state at this moment.

        Args:
            step: names the checkpoint.
            source: state of the source of batches.
            score: of this step's model, if that was measured.

        Raises:
            InputError: the disk is too full. All earlier checkpoints are as they were.
        """
        self.finish()
        if self.is_best(score):
            self._best = replace(self._best, score=score)
        run = {
            "step": step,
            "source": source,
            "random_numbers": all_gather_object(_random_state()),
        }
        path = checkpoint_path(self.folder, step)
        state = {**actor.state(), "run": run}
        record = self._best.record(step, score)
        self._saving = Saving(path, state, self._side, _bytes(actor), record, self._copies)
        if self._config.wait:
            self.finish()

    def is_best(self, score: Score | None) -> bool:
        """Whether a score is better than that of any checkpoint, and those are to be kept."""
        if score is None or not self._config.keep_best:
            return False
        self._best = replace(self._best, highest=max(self._best.highest, score.accuracy))
        return self._best.after(score).score == score

    def finish(self, only_if_done: bool = False) -> None:
        """See a checkpoint that was begun to its end: it gets its name, and old ones go.

        Args:
            only_if_done: return at once if some rank is still writing.
        """
        if self._saving is None or (only_if_done and not self._saving.done()):
            return
        saving, self._saving = self._saving, None
        saving.finish(self._before_naming)
        self._tidy()


def export(checkpoint: Path, out: Path, verify: str = "full") -> None:
    """Make a Hugging Face model of a checkpoint, in place of one that is there. Not collective.

    Args:
        verify: how much of the checkpoint is compared with its digests first.

    Raises:
        InputError: it is damaged; or `out` cannot be written.
    """
    megatron_to_hf(checkpoint, out, lambda *_: lambda *_: None, overwrite=True, digests=verify)


def export_best(run: Config) -> tuple[Path, Score]:
    """Choose the best model of a run that has ended, and make it if it is not the last one.

    Not collective.

    Returns:
        Its Hugging Face folder, and its score.

    Raises:
        InputError: nothing was validated, or as `export`.
    """
    folder = Path(run.out)
    checkpoints = folder / schema.CHECKPOINTS_FOLDER
    score = best_whole(checkpoints, run.checkpoint)
    if score is None:
        raise InputError(f"nothing was validated in {folder}; give validation.every=STEPS")
    if score.step == run.steps:
        return folder / schema.MODEL_FOLDER, score
    model = folder / schema.CHOSEN_FOLDER
    export(checkpoint_path(checkpoints, score.step), model, run.checkpoint.verify)
    return model, score


def _has_common_object(path: Path) -> bool:
    """Whether Megatron-core 0.19 or newer saved a checkpoint; `.metadata` names what it has."""
    metadata = path / METADATA
    return metadata.is_file() and COMMON_OBJECT.encode() in metadata.read_bytes()


def _bytes(actor: Actor) -> int:
    """About what a checkpoint takes: weights, and twice or three times that in fp32."""
    mine = sum(p.numel() * (p.element_size() + 12) for p in actor.parameters().values())
    return int(sum(all_gather_object(mine)))


def _random_state() -> dict[str, Any]:
    state = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    if device().type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def seed_random_numbers(seed: int) -> None:
    """Begin the random numbers of Python, numpy and torch of this process anew.

    Nothing here draws from them, but a user's reward may. Checkpoints hold their states, so that
    the checkpoints of two runs can be equal only if the states are.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed % 2**32)


def _set_random_state(state: Mapping[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if device().type == "cuda":
        torch.cuda.set_rng_state(state["cuda"])
