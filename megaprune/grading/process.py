"""A worker process, seen from the pool: start it, ask it, kill it."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from megaprune.errors import InputError
from megaprune.grading import wire
from megaprune.grading.verdict import Verdict

# A cluster's file system may take long to import from.
START_SECONDS = 120.0

# A worker may die at its start by chance, as when the machine is out of memory, but not each time.
START_TRIES = 3

# Too many processes or open files, or too little memory, may pass.
MAY_PASS = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
MAY_PASS_SECONDS = 30.0

# The kernel ends a killed process at once, unless it waits for a disk that is gone.
END_SECONDS = 60.0

# Between the end of a worker's socket and of the worker.
LAST_WORD_SECONDS = 0.5

# What Python and a compiled library need; no name of a key, a password or a service is among them.
ENVIRONMENT = {
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "TZ", "TMPDIR", "TEMP", "TMP",
    "LD_LIBRARY_PATH", "VIRTUAL_ENV", "CONDA_PREFIX",
    "LANG", "LANGUAGE", "LC_ALL", "LC_COLLATE", "LC_CTYPE", "LC_MESSAGES", "LC_MONETARY",
    "LC_NUMERIC", "LC_TIME",
    "PYTHONHOME", "PYTHONHASHSEED", "PYTHONUTF8", "PYTHONIOENCODING", "PYTHONUNBUFFERED",
    "PYTHONWARNINGS", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONNOUSERSITE",
    "PYTHONUSERBASE", "PYTHONFAULTHANDLER", "PYTHONMALLOC",
}  # fmt: skip

# A response may take this many times its limit of wall time, for the sake of a busy machine.
WALL_FACTOR = 4.0


@dataclass(frozen=True)
class GradingLimits:
    """What the grading of a response may cost."""

    seconds: float
    """Seconds of the worker's CPU time."""

    memory_bytes: int
    """Bytes of address space, the interpreter (about 60 MB) included."""

    @property
    def wall_seconds(self) -> float:
        """Seconds of wall time: more, since other processes want the machine too."""
        return self.seconds * WALL_FACTOR


class GradingWorker:
    """A process that grades one response at a time, started again whenever it dies.

    Args:
        graders: names of those that it may be asked for.
        limits: of each response.
        variables: names of environment variables that it gets beside `ENVIRONMENT`.
    """

    def __init__(
        self, graders: Sequence[str], limits: GradingLimits, variables: Sequence[str] = ()
    ):
        self._setup = {
            "prepare": {"graders": list(graders), "memory_bytes": limits.memory_bytes},
            "cpu_seconds": limits.seconds,
            "wall_seconds": limits.wall_seconds,
        }
        self._limits = limits
        self._environment = _environment(variables)
        self._lock = threading.Lock()  # close() is called by another thread than the rest
        self._closed = False
        self._ready = False
        self._process: _Process | None = None
        self._refused: OSError | None = None
        self._ended = ""
        self._start()

    def wait_ready(self) -> None:
        """Wait until it can grade; raises InputError if it cannot be brought to that."""
        if self._ready:
            return
        for attempt in range(START_TRIES):
            process = self._process or self._started()
            try:
                answer = wire.receive(process.channel, START_SECONDS)
            except (EOFError, OSError, ValueError, RecursionError):
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
        """Return the verdict on a response; a process that failed is replaced, if it can be."""
        assert self._process is not None  # it is ready
        channel, wall = self._process.channel, self._limits.wall_seconds
        try:
            wire.send(channel, job, wall)
            verdict = Verdict(**wire.receive(channel, wall))
        except TimeoutError:
            verdict = Verdict(False, None, "timeout", f"after {wall:g} s")
        except (EOFError, OSError):
            code = self._restart()
            if code == -signal.SIGPROF:
                return Verdict(
                    False, None, "timeout", f"after {self._limits.seconds:g} s of CPU time"
                )
            return Verdict(False, None, "crash", self._ended)
        except (ValueError, TypeError, RecursionError) as error:  # the grader wrote to its socket
            words = f"the worker's answer is no verdict ({type(error).__name__})"
            verdict = Verdict(False, None, "crash", words)
            self._kill()
            self._restart()
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
        if self._process is not None:
            self._process.channel.close()
            self._process.wait()

    @property
    def pid(self) -> int | None:
        """The id of the current process; None if there is none."""
        return None if self._process is None else int(self._process.popen.pid)

    def _start(self) -> None:
        """Start a process, or keep the system's reason why there is none."""
        with self._lock:
            if self._closed:
                return
            self._ready = False
            self._process = self._refused = None
            try:
                self._process = _Process(self._environment)
            except OSError as error:
                self._refused = error
                return
        # If it is dead already, wait_ready sees that.
        with contextlib.suppress(OSError):
            wire.send(self._process.channel, self._setup, START_SECONDS)

    def _started(self) -> _Process:
        """Start a process, waiting for it where the lack of something may pass."""
        end, pause = time.monotonic() + MAY_PASS_SECONDS, 0.1
        while self._process is None and not self._closed:
            error = self._refused
            may_pass = error is None or error.errno in MAY_PASS
            if error is not None and (not may_pass or time.monotonic() > end):
                waited = f" for {MAY_PASS_SECONDS:g} s" if may_pass else ""
                raise InputError(
                    f"a grading worker could not be started{waited}: {error.strerror or error} "
                    f"({sys.executable}); see to the limits of processes, open files and memory "
                    f"(ulimit -u -n -v), or ask for fewer grading.workers. The same command goes on"
                ) from error
            time.sleep(pause)
            pause = min(2 * pause, 1.0)
            self._start()
        if self._process is None:
            raise InputError("the grading workers were closed")
        return self._process

    def _restart(self) -> int:
        """Start another process in place of one that is dead or of no use; its exit status."""
        assert self._process is not None
        self._process.channel.close()
        code = self._process.end()
        self._ended = (
            f"the worker was killed by {signal.Signals(-code).name}"
            if code < 0
            else f"the worker ended with status {code}"
        )
        self._start()
        return code

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()


class _Process:
    """A process and the socket to it.

    Raises:
        OSError: the system has none to give.
    """

    def __init__(self, environment: Mapping[str, str]):
        # Once a process is reaped, its number may be another's: no thread sends it a signal then.
        self._reaping = threading.Lock()
        self.channel, theirs = socket.socketpair()
        with theirs:
            try:
                self.popen = subprocess.Popen(
                    [sys.executable, "-m", "megaprune.grading.worker"],
                    stdin=theirs.fileno(),
                    stdout=2,  # what a user's grader prints is no result
                    env=environment,
                    close_fds=True,
                    start_new_session=True,  # Ctrl-C in a terminal is for the trainer
                )
            except BaseException:
                self.channel.close()
                raise

    def end(self) -> int:
        """Let the process end by itself for a moment, then end it; its exit status."""
        self._ended_within(LAST_WORD_SECONDS)
        self.kill()
        return self.wait()

    def wait(self) -> int:
        """Wait until the killed process has ended; its exit status."""
        if self.popen.returncode is None and not self._ended_within(END_SECONDS):
            raise InputError(
                f"the grading worker {self.popen.pid} has not ended {END_SECONDS:g} s after it was "
                f"killed: it waits for a disk or a device that does not answer; see to that"
            )
        with self._reaping:
            return self.popen.wait()

    def kill(self) -> None:
        """Kill the process and those that a user's grader started; any thread may call it."""
        with self._reaping:
            if self.popen.returncode is None:
                os.killpg(self.popen.pid, signal.SIGKILL)

    def _ended_within(self, seconds: float) -> bool:
        """Tell whether the process ends within so many seconds. It is not reaped here."""
        end = time.monotonic() + seconds
        ended = os.WEXITED | os.WNOWAIT | os.WNOHANG
        try:
            while not os.waitid(os.P_PID, self.popen.pid, ended):
                if time.monotonic() > end:
                    return False
                time.sleep(0.01)
        except ChildProcessError:  # a user's library waits for all children
            return True
        return True


def _environment(variables: Sequence[str]) -> dict[str, str]:
    """Return variables by which the worker finds the same modules, and leaves cores to others.

    Keys and passwords of this process are not for graders: what they print, log or send would
    have them.
    """
    if missing := sorted(set(variables) - os.environ.keys()):
        raise InputError(
            f"grading.environment has {', '.join(missing)}, which the environment has not; set "
            f"what the grader needs, or leave it out"
        )
    wanted = ENVIRONMENT.union(variables)
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    kept = {name: value for name, value in os.environ.items() if name in wanted}
    return {**kept, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
