"""The process that grades: `python -m megaprune.grading.worker`, started by the pool.

Its standard input is a socket. The first message names the graders and limits; it answers
"ready" or an error. Then each message is a response and each answer a verdict, until the socket
closes.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
from dataclasses import asdict

from megaprune.errors import InputError
from megaprune.grading import wire
from megaprune.grading.graders import AnswerGrader, Grader, resolve
from megaprune.grading.verdict import Verdict

# These are for the trainer; a worker ends when the trainer closes its socket.
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

# After the pool's own limit, for the case that the pool is no more.
GRACE_SECONDS = 2.0

PARENT_CHECK_SECONDS = 5.0

# A message that has begun is there, or taken, at once, unless its other end is gone or stopped.
MESSAGE_SECONDS = 120.0


def main() -> None:
    """Grade until the socket closes."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    parent = os.getppid()
    channel = _take_standard_input()
    try:
        if _wait(channel, parent):
            _serve(channel, parent)
    except (EOFError, OSError):
        return  # the trainer is gone, or has closed the pool


def _serve(channel: socket.socket, parent: int) -> None:
    """Load the graders, then grade; raises EOFError or OSError at the end of the socket."""
    setup = wire.receive(channel, MESSAGE_SECONDS)
    try:
        graders = _prepare(**setup["prepare"])
    except InputError as error:
        wire.send(channel, {"error": str(error)}, MESSAGE_SECONDS)
        return
    except MemoryError:
        limit = f"{setup['prepare']['memory_bytes']} bytes"
        words = f"the graders cannot be loaded within {limit}; raise grading.memory_bytes"
        wire.send(channel, {"error": words}, MESSAGE_SECONDS)
        return
    wire.send(channel, {"ready": True}, MESSAGE_SECONDS)
    while _wait(channel, parent):
        job = wire.receive(channel, MESSAGE_SECONDS)
        _arm(setup["cpu_seconds"], setup["wall_seconds"] + GRACE_SECONDS)
        verdict = _grade(graders, **job)
        _arm(0, 0)
        wire.send(channel, asdict(verdict), MESSAGE_SECONDS)


def _take_standard_input() -> socket.socket:
    """Return the socket, out of reach of users' code, which may read standard input."""
    channel = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return channel


def _prepare(graders: list[str], memory_bytes: int) -> dict[str, Grader]:
    """Load the graders; from here on memory is limited."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resolved = {name: resolve(name) for name in graders}
    if any(isinstance(grader, AnswerGrader) for grader in resolved.values()):
        from megaprune.grading import real_sets, relations, values  # noqa: F401 - before the first
    return resolved


def _wait(channel: socket.socket, parent: int) -> bool:
    """Wait for a message. False if the parent has died: its other children may hold the socket."""
    while not select.select([channel], [], [], PARENT_CHECK_SECONDS)[0]:
        if os.getppid() != parent:
            return False
    return True


def _arm(cpu_seconds: float, wall_seconds: float) -> None:
    """Let the kernel end this process in so many seconds, whatever Python does then; 0: do not.

    CPU time is what counts: a verdict must not depend on what else the machine does.
    """
    timers = (
        (signal.ITIMER_PROF, signal.SIGPROF, cpu_seconds),
        (signal.ITIMER_REAL, signal.SIGALRM, wall_seconds),
    )
    for timer, number, seconds in timers:
        signal.signal(number, signal.SIG_DFL)
        signal.setitimer(timer, seconds)


def _grade(
    graders: dict[str, Grader],
    grader: str,
    gold: str,
    response: str,
    finished: bool,
    is_answer: bool,
) -> Verdict:
    """Give the verdict; `is_answer`: the response is the answer alone, which the pool took out."""
    judge = graders[grader]
    try:
        if is_answer and isinstance(judge, AnswerGrader):
            return judge.judge(gold, response)
        return judge(gold, response, finished)
    except MemoryError:
        return Verdict(False, None, "memory", "MemoryError")
    except Exception as error:  # noqa: BLE001 - a user's grader may raise anything
        return Verdict(False, None, "crash", f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
