"""Grade many responses in guarded worker processes while the caller does something else."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from megaprune.errors import InputError
from megaprune.grading.graders import ALL, GRADERS
from megaprune.grading.process import (
    MAY_PASS_SECONDS,
    START_SECONDS,
    START_TRIES,
    GradingLimits,
    GradingWorker,
)
from megaprune.grading.thought import THOUGHTS
from megaprune.grading.verdict import Verdict

CLOSE_SECONDS = 90.0
"""More than a worker's end may take."""


@dataclass(frozen=True)
class GradingStats:
    """How much a pool has graded since it began."""

    graded: int = 0
    """Responses with a verdict."""

    failed: int = 0
    """Those of them whose grader failed: Verdict.failed."""

    seconds: float = 0.0
    """Wall time of the workers' grading, all workers together; starting them is not counted."""


@dataclass(frozen=True)
class _Job:
    key: Hashable
    message: dict[str, Any]


class Pool:
    """Workers that grade, each a process with limits, watched by a thread that sleeps meanwhile.

    graders maps a response's data source to its grader's name (see `graders.resolve`); sources
    that are not in it take `default`. A response that costs more than `seconds` of CPU time (or
    four times as many of wall time, as a grader that sleeps does) or `memory_bytes` of address
    space gets a verdict that says so, and costs the others nothing.

    The workers' environment has what Python needs and the `variables` that are named, without the
    keys and passwords of this process; of its files they have standard error alone.

    `boxes`, one of `graders.BOXES`, says which boxes of a response are its answer, and `thought`,
    one of `thought.THOUGHTS`, how the thought before it is marked.

    Raises InputError if a grader cannot be loaded. To be used as a context manager.
    """

    def __init__(
        self,
        graders: Mapping[str, str],
        default: str = "strict",
        *,
        workers: int = 1,
        seconds: float = 5.0,
        memory_bytes: int = 1 << 30,
        variables: Sequence[str] = (),
        boxes: str = ALL,
        thought: str = "think",
    ):
        if workers < 1 or seconds <= 0:
            raise InputError(
                f"workers={workers}, seconds={seconds}: grading needs one worker at the least, "
                "and more than no time"
            )
        self._graders = dict(graders)
        self._default = default
        self._boxes, self._thought = boxes, THOUGHTS[thought]
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._submitted: set[Hashable] = set()
        self._verdicts: dict[Hashable, Verdict] = {}
        self._stats = GradingStats()
        self._error: Exception | None = None
        self._closed = False
        names = sorted({default, *self._graders.values()})
        limits = GradingLimits(seconds, memory_bytes)
        # A verdict comes, or an error, in this time: a worker's starts, and a response.
        start = MAY_PASS_SECONDS + START_TRIES * (START_SECONDS + START_TRIES)
        self._patience = 2 * (limits.wall_seconds + start)
        self._workers: list[GradingWorker] = []
        self._threads: list[threading.Thread] = []
        try:
            for _ in range(workers):
                self._workers.append(GradingWorker(names, limits, variables))
            for worker in self._workers:
                worker.wait_ready()
            self._start_threads()
        except BaseException:
            self.close()
            raise

    def _start_threads(self) -> None:
        for worker in self._workers:
            thread = threading.Thread(
                target=self._supervise, args=(worker,), daemon=True, name="grading"
            )
            try:
                thread.start()
            except RuntimeError as error:  # as Python says that there are no more threads
                raise InputError(
                    f"a thread that watches a grading worker could not be started: {error}; see to "
                    f"the limit of processes (ulimit -u), or ask for fewer grading.workers"
                ) from error
            self._threads.append(thread)

    def submit(
        self, key: Hashable, data_source: str, gold: str, response: str, finished: bool
    ) -> None:
        """Have a response graded; returns at once. `finished`: it ended by itself.

        The key is what `results` will call it by; it must be new among the pending.
        """
        if key in self._submitted:
            raise ValueError(f"{key!r} was submitted before")
        if self._closed:
            raise ValueError("the pool is closed")
        name = self._graders.get(data_source, self._default)
        answer: str | Verdict | None = None
        if name in GRADERS:
            # Finding is cheap; it spares the worker the thought, and often all.
            answer = GRADERS[name].find(response, finished, self._boxes, self._thought)
        self._submitted.add(key)
        if isinstance(answer, Verdict):
            self._record(key, answer, 0.0)
            return
        message = {
            "grader": name,
            "gold": gold,
            "response": response if answer is None else answer,
            "finished": finished,
            "is_answer": answer is not None,
        }
        self._jobs.put(_Job(key, message))

    def results(self) -> dict[Hashable, Verdict]:
        """Wait for all that were submitted since the last call, and return their verdicts by key.

        Raises InputError if workers can be started no longer, or no verdict comes for longer than
        any could take.
        """
        with self._changed:
            graded = -1
            while not (self._error or self._closed) and self.pending:
                if not self._changed.wait(self._patience) and graded == self._stats.graded:
                    raise InputError(
                        f"no verdict for {self._patience:g} s on any of {self.pending} responses "
                        f"whose grades are waited for; the grading workers {self.pids} do not "
                        f"answer: see what they do (py-spy, /proc/PID/stack)"
                    )
                graded = self._stats.graded
            if self._error:
                raise self._error
            if self.pending:
                raise ValueError("the pool is closed")
            verdicts, self._verdicts = self._verdicts, {}
            self._submitted = set()
        return verdicts

    def ready(self) -> dict[Hashable, Verdict]:
        """Return the verdicts that are there already, by key; `results` will not give them again.

        Raises InputError if workers can be started no longer.
        """
        with self._changed:
            if self._error:
                raise self._error
            verdicts, self._verdicts = self._verdicts, {}
            self._submitted -= verdicts.keys()
        return verdicts

    @property
    def pending(self) -> int:
        """How many responses wait for their verdict."""
        return len(self._submitted) - len(self._verdicts)

    @property
    def stats(self) -> GradingStats:
        """What the pool has done so far."""
        return self._stats

    @property
    def pids(self) -> list[int]:
        """The workers' process ids, as they are now."""
        return [worker.pid for worker in self._workers if worker.pid is not None]

    def close(self) -> None:
        """Kill the workers; what is pending gets no verdict."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.close()
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(CLOSE_SECONDS)
        if any(thread.is_alive() for thread in self._threads):
            raise InputError(
                f"grading workers have not ended {CLOSE_SECONDS:g} s after they were killed: "
                f"{self.pids}; they wait for a disk or a device that does not answer: see to that"
            )
        for worker in self._workers:
            worker.release()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _supervise(self, worker: GradingWorker) -> None:
        try:
            # Waits for work, however long that takes: `close` ends it with None.
            while (job := self._jobs.get()) is not None and not self._closed:
                worker.wait_ready()
                began = time.monotonic()
                verdict = worker.grade(job.message)
                if verdict.failed and job.message["is_answer"]:
                    verdict = replace(verdict, extracted=job.message["response"])
                self._record(job.key, verdict, time.monotonic() - began)
        except Exception as error:  # noqa: BLE001 - whoever waits for the verdicts gets it
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _record(self, key: Hashable, verdict: Verdict, seconds: float) -> None:
        with self._changed:
            self._verdicts[key] = verdict
            self._stats = replace(
                self._stats,
                graded=self._stats.graded + 1,
                failed=self._stats.failed + verdict.failed,
                seconds=self._stats.seconds + seconds,
            )
            if not self.pending:
                self._changed.notify_all()
