"""Checkpoints of a run: whole or not there, written while training goes on, last and best.

They are `torch_dist`, each in RUN/checkpoints/iter_0000020, with the model's Hugging Face files
beside the weights: `megaprune convert` reads them, and so does Megatron-core.
"""

from __future__ import annotations

import json
import queue
import random
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy

from megaprune.actor.actor import Actor
from megaprune.actor.cpu import redirect_cuda
from megaprune.config.run import CheckpointConfig
from megaprune.distributed.device import device
from megaprune.distributed.world import all_gather_object, broadcast_from_rank0, raise_on_all_ranks
from megaprune.errors import InputError
from megaprune.files import clear_up_inside, remove_folder, replace_text
from megaprune.weights.convert import megatron_to_hf
from megaprune.weights.files.checkpoint_index import HF_FILES, TRACKER
from megaprune.weights.files.hf_folder import copy_side_files
from megaprune.weights.files.staging import staged

_BEST = "best.json"


@dataclass(frozen=True)
class Score:
    """How good a step's model is: its accuracy, of 1, and mean length, in tokens."""

    step: int
    accuracy: float
    length: float


@dataclass(frozen=True)
class ResumePoint:
    """Where a run is: steps that are done, and the state of its source of batches."""

    step: int
    source: dict[str, Any]


@dataclass(frozen=True)
class Best:
    """The choice among scores: the shortest of those as right as the rightest, or nearly so.

    Args:
        tie: points (of 100) that accuracies may differ by and be equal.
        score: that was chosen; None before the first.
        highest: accuracy of all that were seen.
    """

    tie: float
    score: Score | None = None
    highest: float = 0.0

    def after(self, new: Score) -> Best:
        """The choice when one more is seen; the earlier of two equals stays."""
        highest = max(self.highest, new.accuracy)
        enough = highest - self.tie / 100
        now = self.score
        better = now is None or now.accuracy < enough or new.length < now.length
        return Best(self.tie, new if better and new.accuracy >= enough else now, highest)


class Checkpoints:
    """The checkpoints of a run. Methods are collective, but for `latest`.

    Args:
        folder: where they lie.
        side: the Hugging Face model's other files, by name.
        config: how many are kept, and whether to wait for them.
    """

    def __init__(self, folder: Path, side: Mapping[str, Path], config: CheckpointConfig):
        self.folder, self._side, self._config = folder, dict(side), config
        self._saving: _Saving | None = None
        self._best = Best(config.tie)
        if device().type == "cpu":
            redirect_cuda()  # what was imported here since
        if dist.get_rank() == 0 and folder.is_dir():
            clear_up_inside(folder)
            if (folder / _BEST).is_file():
                self._best = _read_best(folder / _BEST, config.tie)
        self._best = broadcast_from_rank0(self._best)

    def latest(self) -> Path | None:
        """The last whole checkpoint; None if there is none. Not collective."""
        return max(saved(self.folder), default=None, key=step_of)

    def load_latest(self, actor: Actor) -> ResumePoint:
        """Make an actor what it was at the latest checkpoint; tell where that one was.

        Random numbers go on where they were, on worlds of the same size.

        Raises:
            InputError: the checkpoint does not say where its data source was.
        """
        path = broadcast_from_rank0(self.latest())
        if path is None:
            return ResumePoint(0, {})
        state = {"run": None, **actor.state(loading=True)}
        loaded = dist_checkpointing.load(state, str(path), validate_access_integrity=False)
        actor.restore(loaded)
        states = loaded["run"]["random_numbers"]
        if len(states) == dist.get_world_size():
            _set_random_state(states[dist.get_rank()])
        if "source" not in loaded["run"]:
            raise InputError(
                f"{path} does not say which problems its run has had; give another out=..., and "
                f"model=DIR of its exported model (megaprune convert to-hf) to go on from there"
            )
        return ResumePoint(int(loaded["run"]["step"]), loaded["run"]["source"])

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
        run = {
            "step": step,
            "source": source,
            "random_numbers": all_gather_object(_random_state()),
        }
        path = self.folder / f"iter_{step:07}"
        state = {**actor.state(), "run": run}
        self._saving = _Saving(path, state, self._side, _bytes(actor), score)
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
        saving.finish()
        if self.is_best(saving.score):
            self._best = replace(self._best, score=saving.score)
        if dist.get_rank() == 0:
            if self._best.score is not None:
                content = {**vars(self._best.score), "highest": self._best.highest}
                replace_text(self.folder / _BEST, json.dumps(content))
            replace_text(self.folder / TRACKER, str(step_of(saving.path)))
            self._remove_old()

    def _remove_old(self) -> None:
        kept = sorted(saved(self.folder), key=step_of)
        for path in kept[: -self._config.keep_last]:
            if self._best.score is None or step_of(path) != self._best.score.step:
                remove_folder(path)


def saved(folder: Path) -> list[Path]:
    """The whole checkpoints in a folder."""
    return [p for p in folder.glob("iter_*") if re.fullmatch(r"iter_\d+", p.name)]


def latest_step(folder: Path) -> int:
    """The step of the latest whole checkpoint in a folder; 0 if there is none."""
    return max(map(step_of, saved(folder)), default=0)


def best(folder: Path) -> Score | None:
    """The score of the best checkpoint in a folder; None if none was measured."""
    path = folder / _BEST
    return _read_best(path, 0.0).score if path.is_file() else None


def _read_best(path: Path, tie: float) -> Best:
    content = json.loads(path.read_text())
    highest = content.pop("highest", content["accuracy"])
    return Best(tie, Score(**content), highest)


def step_of(path: Path) -> int:
    """The step that a checkpoint's name says."""
    return int(path.name.removeprefix("iter_"))


def export(checkpoint: Path, out: Path) -> None:
    """Make a Hugging Face model of a checkpoint, in place of one that is there. Not collective."""
    megatron_to_hf(checkpoint, out, lambda *_: lambda *_: None, overwrite=True)


class _Saving:
    """One checkpoint on its way to the disk, by a thread of each rank."""

    def __init__(
        self,
        path: Path,
        state: dict[str, Any],
        side: dict[str, Path],
        nbytes: int,
        score: Score | None,
    ):
        self.path, self.score = path, score
        self._staged = ExitStack()
        partial = path
        with raise_on_all_ranks():
            if dist.get_rank() == 0:
                partial = self._staged.enter_context(staged(path, True, nbytes))
        partial = broadcast_from_rank0(partial)
        # A plain queue: the results come from a thread, not from Megatron-core's own processes.
        filesystem_async._results_queue = queue.Queue()
        self._error: Exception | None = None
        with self._undone_by_errors():
            self._request: AsyncRequest = dist_checkpointing.save(
                state,
                str(partial),
                TorchDistSaveShardedStrategy("torch_dist", 1, thread_count=1),
                async_sharded_save=True,
            )
            if dist.get_rank() == 0:
                (partial / HF_FILES).mkdir()
                copy_side_files(side, partial / HF_FILES)
        self._thread = threading.Thread(target=self._write, args=(self._held(),))
        self._thread.start()

    def done(self) -> bool:
        """Whether all ranks have written."""
        return all(all_gather_object(not self._thread.is_alive()))

    def finish(self) -> None:
        """Wait for all ranks, then give the checkpoint its name."""
        self._thread.join()
        errors = [e for e in all_gather_object(str(self._error or "")) if e]
        with self._undone_by_errors():
            if self._error is not None:
                raise self._error
            if errors:
                raise RuntimeError(f"another rank could not write {self.path}: {errors[0]}")
            for end in self._request.finalize_fns:
                end()
            self._staged.close()

    @contextmanager
    def _undone_by_errors(self) -> Iterator[None]:
        """What was written so far is removed if an error passes; a full disk is called that."""
        try:
            yield
        except BaseException as error:
            self._staged.__exit__(type(error), error, error.__traceback__)
            raise

    def _held(self) -> list[Any]:
        """What this rank is to write, copied: training changes the tensors themselves.

        Beside a GPU, what is in the host's memory is a copy that Megatron-core gathered there.
        """
        if self._request.async_fn is None:
            return []
        copy = device().type == "cpu"
        return [
            (path, key, (data, [(item, t.to("cpu", copy=copy)) for item, t in tensors]))
            for path, key, (data, tensors) in self._request.async_fn_args[1]
        ]

    def _write(self, buckets: list[Any]) -> None:
        # Megatron-core would fork processes here, out of one that holds CUDA and vLLM's threads.
        written: dict[int, Any] = {}
        for number, bucket in enumerate(buckets):
            results: queue.Queue[Any] = queue.Queue()
            count: queue.Queue[int] = queue.Queue()
            count.put(number)
            filesystem_async.FileSystemWriterAsync.write_preloaded_data(
                self._request.async_fn.args[0], number, bucket, results, count, True
            )
            _, result = results.get()
            if isinstance(result, Exception):
                self._error = result
                return
            written[number] = result
        if buckets:
            filesystem_async._results_queue.put(written)


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


def _set_random_state(state: Mapping[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if device().type == "cuda":
        torch.cuda.set_rng_state(state["cuda"])
