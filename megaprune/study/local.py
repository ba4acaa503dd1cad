"""Do the jobs of a study on this host, one after another or several at once.

Starting engines takes longer than a short run, so jobs follow each other in the same processes, as
far as they need the same. A job that fails ends its processes; those behind it get new ones. What
is done is seen from the jobs' folders alone, so that nothing is lost however this ends.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from megaprune import schema
from megaprune.config.run import Config
from megaprune.distributed.launchers import name_launcher
from megaprune.files import writing
from megaprune.harmonizing.config import HarmonizeConfig
from megaprune.report.run_records import read_run
from megaprune.study.jobs import Job

_LOOK_SECONDS = 0.5
_ERROR = "megaprune: error: "
_FAILED = " failed in phase "
_LONGEST_ERROR = 1000


def run_here(
    folder: Path,
    jobs: Mapping[int, Job],
    n_jobs: int,
    command: Callable[[Sequence[int]], list[str]],
) -> dict[int, str]:
    """Do all jobs that are not done; returns why jobs failed, by their numbers.

    Args:
        folder: of the study.
        jobs: by their numbers, in the order in which they are to be done.
        n_jobs: how many at once.
        command: returns the words of a command that does jobs with these numbers, in their order.
    """
    name_launcher()  # the processes end with this one, should it be killed
    failed: dict[int, str] = {}
    left = {number: job for number, job in jobs.items() if not job.done}
    # Runs may need what the evaluations before them make.
    first = {number: job for number, job in left.items() if job.variant is None}
    rest = {number: job for number, job in left.items() if job.variant is not None}
    for stage in (first, rest) if n_jobs > 1 else (left,):
        lines = [dict(list(stage.items())[i::n_jobs]) for i in range(n_jobs)]
        workers = [
            _Worker(folder / schema.LOGS_FOLDER / f"{place}.log", line, command, len(jobs))
            for place, line in enumerate(lines)
            if line
        ]
        try:
            while any([worker.goes_on() for worker in workers]):  # all of them are looked at
                time.sleep(_LOOK_SECONDS)
        except BaseException as error:
            number = signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM
            for worker in workers:
                worker.end(number)
            raise
        for worker in workers:
            failed |= worker.failed
    return failed


class _Worker:
    """Does jobs one after another, in processes that are made anew when one fails.

    Args:
        log: what the processes print goes to this file.
        jobs: by their numbers.
        command: see `run_here`.
        total: how many jobs the study has.
    """

    def __init__(
        self,
        log: Path,
        jobs: Mapping[int, Job],
        command: Callable[[Sequence[int]], list[str]],
        total: int,
    ):
        self.failed: dict[int, str] = {}
        self._log, self._jobs, self._command, self._total = log, dict(jobs), command, total
        self._process: subprocess.Popen[bytes] | None = None
        self._began, self._place = time.monotonic(), 0
        self._running: list[int] = []

    def goes_on(self) -> bool:
        """Look at what has happened since the last time; returns whether there is more to do."""
        ended = self._process is not None and self._process.poll() is not None
        while self._running and self._jobs[self._running[0]].done:
            self._say(self._running[0], _outcome(self._jobs[self._running[0]]))
            self._finish(self._running[0])
        if ended:
            assert self._process is not None
            if self._running:
                number = self._running[0]
                self.failed[number] = self._why(self._process.returncode)
                self._say(number, f"failed: {self.failed[number]}")
                self._finish(number)
            self._process, self._running = None, []
        if self._process is None and self._jobs:
            self._start()
        return self._process is not None

    def end(self, number: signal.Signals) -> None:
        """End the processes with a signal, and wait for them."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        os.killpg(process.pid, number)
        try:
            process.wait()
        except BaseException:  # told twice
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise

    def _start(self) -> None:
        """Start processes for the next jobs that need the same."""
        (first, job), *others = self._jobs.items()
        self._running = [first]
        for number, other in others:
            if not _fit(job, other):
                break
            self._running.append(number)
        words = [sys.executable, "-m", "megaprune.cli", *self._command(self._running)]
        with writing(self._log):
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("ab") as log:
                self._place = log.tell()
                # A group of their own: Ctrl-C in a terminal reaches this process alone.
                self._process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        self._began = time.monotonic()

    def _finish(self, number: int) -> None:
        self._began = time.monotonic()
        del self._jobs[number]
        self._running.remove(number)

    def _say(self, number: int, text: str) -> None:
        seconds = time.monotonic() - self._began
        print(
            f"{time.strftime('%H:%M:%S')}  {number + 1} of {self._total}  "
            f"{self._jobs[number].name}: {text} ({seconds:.0f} s)",
            flush=True,
        )

    def _why(self, status: int) -> str:
        """Say why the processes ended, by the errors that they printed last."""
        with self._log.open("rb") as log:
            log.seek(self._place)
            lines = log.read().decode(errors="replace").splitlines()
        lines = [line.strip() for line in lines if line.strip()] or ["it printed nothing"]
        errors = [line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)]
        if any(_FAILED in line for line in lines):  # its traceback comes before the last words
            errors = [line for line in lines if not line.startswith("megaprune: ")]
        last = (errors or lines)[-1][:_LONGEST_ERROR]
        return f"{last} [status {status}; {self._log}]"


def _fit(job: Job, other: Job) -> bool:
    """Whether two jobs can follow each other in the same processes."""
    ours, theirs = job.processes, other.processes
    return all(ours[name] == theirs[name] for name in ours.keys() & theirs.keys())


def _outcome(job: Job) -> str:
    """What a job came to, in a few words."""
    if isinstance(job.config, HarmonizeConfig):
        return "; ".join(_tested(job.config))
    if not isinstance(job.config, Config):
        return "done"
    metrics = read_run(Path(job.config.out)).metrics
    accuracy, length = (
        {step: row[name] for step, row in metrics.items() if name in row}
        for name in (
            schema.VALIDATION + schema.ACCURACY,
            schema.VALIDATION + schema.LENGTH_MEAN,
        )
    )
    if not accuracy:
        return "done, without a validation"
    return f"{accuracy[max(accuracy)]:.1%} right, {length[max(length)]:.1f} tokens"


def _tested(config: HarmonizeConfig) -> Iterator[str]:
    """What a harmonizing's test came to, set by set."""
    content = json.loads((Path(config.out) / schema.HARMONIZE_FILE).read_text(encoding="utf-8"))
    for name, numbers in content["test"].items():
        after = numbers["after"]
        yield f"{name}: {after['accuracy']:.1%} right, {after['length']:.1f} tokens"
