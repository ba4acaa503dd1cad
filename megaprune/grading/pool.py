"""Grade many responses in guarded worker processes while the caller does something else."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from megaprune.errors import InputError
from megaprune.grading.graders import GRADERS
from megaprune.grading.process import GradingLimits, GradingWorker
from megaprune.grading.verdict import Verdict


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
    ):
        if workers < 1 or seconds <= 0:
            raise InputError(
                f"workers={workers}, seconds={seconds}: grading needs one worker at the least, "
                "and more than no time"
            )
        self._graders = dict(graders)
        self._default = default
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._submitted: set[Hashable] = set()
        self._verdicts: dict[Hashable, Verdict] = {}
        self._stats = GradingStats()
        self._error: InputError | None = None
        self._closed = False
        names = sorted({default, *self._graders.values()})
        limits = GradingLimits(seconds, memory_bytes)
        self._workers = [GradingWorker(names, limits) for _ in range(workers)]
        self._threads: list[threading.Thread] = []
        try:
            for worker in self._workers:
                worker.wait_ready()
        except BaseException:
            self.close()
            raise
        self._threads = [
            threading.Thread(target=self._supervise, args=(worker,), daemon=True, name="grading")
            for worker in self._workers
        ]
        for thread in self._threads:
            thread.start()

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
            answer = GRADERS[name].find(response, finished)
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

        Raises InputError if workers can be started no longer.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._error or self._closed or not self.pending)
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
        return [worker.pid for worker in self._workers]

    def close(self) -> None:
        """Kill the workers; what is pending gets no verdict."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.close()
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        for worker in self._workers:
            worker.release()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _supervise(self, worker: GradingWorker) -> None:
        while (job := self._jobs.get()) is not None and not self._closed:
            try:
                worker.wait_ready()
            except InputError as error:
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return
            began = time.monotonic()
            verdict = worker.grade(job.message)
            if verdict.failed and job.message["is_answer"]:
                verdict = replace(verdict, extracted=job.message["response"])
            self._record(job.key, verdict, time.monotonic() - began)

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
