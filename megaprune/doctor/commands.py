"""Commands run side by side, each within its time and none outliving this process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass

from megaprune.doctor.finding import short


@dataclass(frozen=True)
class Command:
    """What to run.

    Args:
        words: of it.
        seconds: it may take, from its start.
        heavy: it keeps a core busy, so that only as many as there are cores run at a time.
    """

    words: tuple[str, ...]
    seconds: float
    heavy: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a command; its status is None if its time was up."""

    status: int | None
    out: str
    err: str
    seconds: float

    @property
    def failure(self) -> str:
        """Why it failed, in a short line."""
        if self.status is None:
            return f"did not end within {self.seconds:g} s"
        if self.status < 0:
            return f"was killed by {signal.Signals(-self.status).name}"
        return short(self.err) or short(self.out) or f"ended with status {self.status}"


def cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_all(commands: Mapping[str, Command]) -> dict[str, Outcome]:
    """Run them all; what becomes of each, by name."""
    return asyncio.run(_run_all(commands))


async def _run_all(commands: Mapping[str, Command]) -> dict[str, Outcome]:
    turns = asyncio.Semaphore(max(2, cores()))
    outcomes = await asyncio.gather(*(_run(each, turns) for each in commands.values()))
    return dict(zip(commands, outcomes, strict=True))


async def _run(command: Command, turns: asyncio.Semaphore) -> Outcome:
    async with turns if command.heavy else contextlib.nullcontext():
        began = time.monotonic()
        try:
            process = await asyncio.create_subprocess_exec(
                *command.words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,  # so that it is killed with all that it started
            )
        except OSError as error:
            return Outcome(126, "", f"cannot be started: {error.strerror}", 0)
        try:
            out, err = await asyncio.wait_for(process.communicate(), command.seconds)
        except asyncio.TimeoutError:
            return Outcome(None, "", "", command.seconds)
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        seconds = time.monotonic() - began
        return Outcome(process.returncode, _text(out), _text(err), seconds)


def _text(content: bytes) -> str:
    return content.decode(errors="replace")
