"""A worker process, seen from the pool: start it, ask it, kill it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from megaprune.errors import InputError
from megaprune.grading import wire
from megaprune.grading.verdict import Verdict

# A cluster's file system may take long to import from.
START_SECONDS = 120.0

# A worker may die at its start by chance, as when the machine is out of memory, but not each time.
START_TRIES = 3

# Between the end of a worker's socket and of the worker.
LAST_WORD_SECONDS = 0.5

# A response may take this many times its limit of wall time, for the sake of a busy machine.
WALL_FACTOR = 4.0


@dataclass(frozen=True)
class GradingLimits:
    """What the grading of a response may cost."""

    seconds: float
    """Seconds of the worker's CPU time."""

    memory_bytes: int
    """Bytes of address space, the interpreter and sympy (about 70 MB) included."""

    @property
    def wall_seconds(self) -> float:
        """Seconds of wall time: more, since other processes want the machine too."""
        return self.seconds * WALL_FACTOR


class GradingWorker:
    """A process that grades one response at a time, started again whenever it dies."""

    def __init__(self, graders: Sequence[str], limits: GradingLimits):
        self._setup = {
            "prepare": {"graders": list(graders), "memory_bytes": limits.memory_bytes},
            "cpu_seconds": limits.seconds,
            "wall_seconds": limits.wall_seconds,
        }
        self._limits = limits
        self._lock = threading.Lock()  # close() is called by another thread than the rest
        self._closed = False
        self._ready = False
        self._start()

    def wait_ready(self) -> None:
        """Wait until it can grade; raises InputError if it cannot be brought to that."""
        if self._ready:
            return
        for attempt in range(START_TRIES):
            try:
                answer = wire.receive(self._channel, START_SECONDS)
            except (EOFError, OSError):
                time.sleep(attempt)
                self._restart()
                continue
            if "error" in answer:
                raise InputError(answer["error"])
            self._ready = True
            return
        raise InputError(
            f"a grading worker did not start, {START_TRIES} times: {self._ended}. "
            "Its standard error may tell why, or its memory limit is too small: "
            f"{self._limits.memory_bytes} bytes"
        )

    def grade(self, job: dict[str, Any]) -> Verdict:
        """Return the verdict on a response; a process that failed is replaced."""
        wall = self._limits.wall_seconds
        try:
            wire.send(self._channel, job, wall)
            verdict = Verdict(**wire.receive(self._channel, wall))
        except TimeoutError:
            verdict = Verdict(False, None, "timeout", f"after {wall:g} s")
        except (EOFError, OSError):
            code = self._restart()
            if code == -signal.SIGPROF:
                return Verdict(
                    False, None, "timeout", f"after {self._limits.seconds:g} s of CPU time"
                )
            return Verdict(False, None, "crash", self._ended)
        # After "memory" as well: what is left of it may be too little for the next.
        if verdict.why in ("timeout", "memory"):
            self._kill()
            self._restart()
        return verdict

    def close(self) -> None:
        """Kill the process, also in the midst of a response; it is not started again."""
        with self._lock:
            self._closed = True
            self._kill()

    def release(self) -> None:
        """Free what the closed process held; by the thread that used it."""
        self._channel.close()
        self._process.wait()

    @property
    def pid(self) -> int:
        """The id of the current process."""
        return int(self._process.pid)

    def _start(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._ready = False
            self._channel, theirs = socket.socketpair()
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "megaprune.grading.worker"],
                    stdin=theirs.fileno(),
                    stdout=2,  # what a user's grader prints is no result
                    env=_environment(),
                    start_new_session=True,  # Ctrl-C in a terminal is for the trainer
                )
        # If it is dead already, wait_ready sees that.
        with contextlib.suppress(OSError):
            wire.send(self._channel, self._setup, START_SECONDS)

    def _restart(self) -> int:
        """Start another process in place of one that is dead or of no use; its exit status."""
        self._channel.close()
        code = self._end()
        self._ended = (
            f"the worker was killed by {signal.Signals(-code).name}"
            if code < 0
            else f"the worker ended with status {code}"
        )
        self._start()
        return code

    def _end(self) -> int:
        """Let the process end by itself for a moment, then end it; its exit status."""
        end = time.monotonic() + LAST_WORD_SECONDS
        # It is not reaped yet: until then nobody else can have its number.
        ended = os.WEXITED | os.WNOWAIT | os.WNOHANG
        while not os.waitid(os.P_PID, self._process.pid, ended) and time.monotonic() < end:
            time.sleep(0.01)
        self._kill()
        return self._process.wait()

    def _kill(self) -> None:
        """Kill the process and those that a user's grader started."""
        if self._process.returncode is None:
            os.killpg(self._process.pid, signal.SIGKILL)


def _environment() -> dict[str, str]:
    """Return variables by which the worker finds the same modules, and leaves cores to others."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
