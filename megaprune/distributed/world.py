"""The processes of a job: how they begin, what they are doing, and how all end when one fails."""

from __future__ import annotations

import atexit
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from rich.text import Text

from megaprune.distributed import start_times
from megaprune.distributed.device import backend, check_gpus, device
from megaprune.distributed.launchers import Launchers
from megaprune.distributed.objects import all_gather_object, make_host_group
from megaprune.distributed.process import be_alone, name_process, prepare_process
from megaprune.distributed.stores import job_store, keep_to_host
from megaprune.errors import InputError
from megaprune.files import is_gone, process_record
from megaprune.foreign_text import for_people, terminal
from megaprune.lease import release_all

_REQUIRED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_FIRST_RANK_SPEAKS_SECONDS = 10.0
ORPHAN_SECONDS = 600.0
"""How long a rank that has lost what launched it may take to end its step and save."""
_PEER_SECONDS = 10.0
"""How long such a rank goes on when another one of its host has ended."""
_LEAVE_SECONDS = 10
"""How long a rank that has decided to end may take to give back its folder and say its words."""
_LOOK_SECONDS = 1.0
"""Between two looks at whether what launched this rank still lives."""
_phases = ["starting"]
"""What this process does outside of any phase, then the phases it is in, the innermost last."""


def rank() -> int:
    """Return this process's number in the job."""
    return int(os.environ.get("RANK", "0"))


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Name what this process is doing: errors and signals then say it.

    After the outermost phase and before the next one they say "after" and its name.
    """
    global _failed
    _phases.append(name)
    try:
        yield
    except BaseException as error:
        # The innermost phase: an error passes through the others on its way out.
        if _failed is None or _failed[0] is not error:
            _failed = (error, name)
        raise
    finally:
        _phases.pop()
        if len(_phases) == 1:
            _phases[0] = f"after {name}"


_failed: tuple[BaseException, str] | None = None


class Stopped(Exception):
    """Raised by a job that ends before it is done, as it was told to; says what was kept."""


_command: str | None = None
_goes_on: Callable[[], str] | None = None


def say_when_interrupted(say: Callable[[], str] | None) -> None:
    """Have the first rank say something when the job ends before it is done; None for no more.

    Args:
        say: returns from where the same command goes on. Called from any thread.
    """
    global _goes_on
    _goes_on = say


def _advice() -> str:
    """Return what is said behind the news that the job has ended: from where what goes on."""
    if rank() != 0:
        return ""
    try:
        words = "the same command goes on" if _goes_on is None else _goes_on()
    except OSError as error:
        words = f"what is saved cannot be seen ({error}); the same command goes on"
    return for_people(f"; {words}" + (f": {_command}" if _command else ""))


_stop_requested: bool | None = None
"""Whether SIGUSR1 came; None while nobody would ask."""


def stop_requested() -> bool:
    """Say whether any rank got SIGUSR1, which batch systems send before time is up. Collective.

    Until this is called for the first time SIGUSR1 ends the process at once, as SIGTERM does.
    """
    global _stop_requested
    if _stop_requested is None:
        _stop_requested = False
    return any(all_gather_object(_stop_requested))


def say(text: str) -> None:
    """Print a line on the console, from rank 0."""
    if rank() == 0:
        terminal(highlight=False, soft_wrap=True).print(Text(text, "dim"))


@contextmanager
def raise_on_all_ranks() -> Iterator[None]:
    """Raise an InputError of any rank within on all of them. Collective."""
    error: InputError | None = None
    try:
        yield
    except InputError as raised:
        error = raised
    if texts := [text for text in all_gather_object(str(error) if error else "") if text]:
        raise InputError(texts[0]) from error


def ensure_process_group(timeout: timedelta = timedelta(minutes=30)) -> None:
    """Make the default process group if there is none: of torchrun's processes, or of this one.

    Args:
        timeout: of a collective operation.

    Raises:
        InputError: this process has no GPU of its own on a host with GPUs.
    """
    if dist.is_initialized():
        return
    prepare_process()
    if "RANK" not in os.environ:
        be_alone()
    _take_device()
    _make_process_group(timeout)
    atexit.register(_destroy_process_group)


def _make_process_group(timeout: timedelta) -> None:
    keep_to_host()
    store = job_store(timeout)
    if store is None:
        dist.init_process_group(backend(), timeout=timeout)
    else:
        own, count = rank(), int(os.environ["WORLD_SIZE"])
        dist.init_process_group(backend(), timeout=timeout, store=store, rank=own, world_size=count)
    make_host_group(timeout)


def _destroy_process_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def run(
    job: Callable[[], None],
    timeout: timedelta = timedelta(minutes=30),
    command: str | None = None,
) -> int:
    """Run a job on this process, with the default process group; returns its exit status.

    Start it with torchrun, on every process alike. An error on one rank ends all: it is named with
    its rank and phase, and torchrun ends the others. Errors in what the user gave are the same on
    all ranks and are printed once. A job that was stopped has the status 75 (EX_TEMPFAIL).

    Args:
        job: collective.
        timeout: of a collective operation.
        command: that goes on where the job was, for users.
    """
    global _command
    missing = [name for name in _REQUIRED if name not in os.environ]
    if missing:
        print(
            f"megaprune: error: {', '.join(missing)} not set; start with torchrun, on one GPU or "
            f"CPU: torchrun --standalone --nproc-per-node 1 ...",
            file=sys.stderr,
        )
        return 2
    _command = command
    name_process()
    watch = _Watch()
    status = 0
    try:
        start_times.lap("imports")
        _take_device()
        _make_process_group(timeout)
        watch.peers = all_gather_object(process_record())
        start_times.lap("distributed")
        try:
            job()
        except Stopped as stopped:
            say(f"stopped: {stopped}{_advice()}")
            status = os.EX_TEMPFAIL
        with phase("ending"):
            dist.barrier()
            dist.destroy_process_group()
        return status
    except InputError as error:
        _end_by_mistake(error)
    except Exception as error:  # noqa: BLE001 (named, printed whole, and the job ends)
        _end_by_failure(error)


def _end_by_mistake(error: InputError) -> NoReturn:
    if rank() != 0:
        # All ranks have the same error: the first tells it, and its end ends the others.
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(_FIRST_RANK_SPEAKS_SECONDS)
    # Before there is anything to go on with, the mistake is what is to be mended.
    text = for_people(str(error)) + (_advice() if _goes_on is not None else "")
    print(f"megaprune: error: {text}", file=sys.stderr, flush=True)
    # Not through the interpreter's end: engines would wait there for ranks that are gone.
    _leave(1)


def _end_by_failure(error: Exception) -> NoReturn:
    print(
        f"megaprune: rank {rank()} failed in phase {_phase_of(error)!r}:\n"
        f"{for_people(traceback.format_exc())}"
        f"megaprune: rank {rank()} has ended{_advice()}",
        file=sys.stderr,
        flush=True,
    )
    _leave(1)


def _phase_of(error: BaseException) -> str:
    """Return the phase in which an error was raised."""
    return _failed[1] if _failed and _failed[0] is error else _phases[-1]


def _take_device() -> None:
    check_gpus()
    if device().type != "cuda":
        return
    gpus, mine = torch.cuda.device_count(), int(os.environ["LOCAL_RANK"])
    if mine >= gpus or int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > gpus:
        raise InputError(
            f"{os.environ.get('LOCAL_WORLD_SIZE', mine + 1)} processes on a host with {gpus} GPUs; "
            f"start one for each: torchrun --nproc-per-node {gpus} ..."
        )
    torch.cuda.set_device(device())


def _leave(status: int) -> NoReturn:
    signal.alarm(_LEAVE_SECONDS)  # the kernel's, should the folder or a reader not answer
    release_all()
    with suppress(OSError):  # nobody reads it
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


class _Watch(threading.Thread):
    """Hears signals, and sees whether what launched this rank has ended.

    It is a thread, since the main one may be inside a collective, where Python handles no signals.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True, name="watch")
        self.peers: list[dict[str, Any]] = []
        """The ranks, as far as they are known."""
        self._launchers = Launchers(wake=signal.SIGUSR1)
        self._orphaned: float | None = None
        self._alone: float | None = None
        self._read, write = os.pipe()
        os.set_blocking(write, False)
        # No exception: Python drops one that is raised in a finalizer.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(write)
        self.start()

    def run(self) -> None:
        """See base class."""
        global _stop_requested
        while True:
            ready, _, _ = select.select([self._read], [], [], _LOOK_SECONDS)
            came = os.read(self._read, 1)[0] if ready else 0
            if came in (signal.SIGINT, signal.SIGTERM):
                self._end(came)
            elif (launcher := self._launchers.gone()) is not None:
                self._end_as_orphan(launcher)
            elif came == signal.SIGUSR1 and _stop_requested is not None:
                _stop_requested = True
            elif came == signal.SIGUSR1:
                self._end(came)

    def _end(self, number: int) -> NoReturn:
        alone = os.environ["WORLD_SIZE"] == "1"
        if number == signal.SIGINT and alone:
            _say_error(f"interrupted in phase {_phases[-1]!r}{_advice()}")
        else:
            name = signal.Signals(number).name
            _say_rank(f"was ended by {name} in phase {_phases[-1]!r}{_advice()}")
        _leave(128 + number)

    def _end_as_orphan(self, launcher: int) -> None:
        """Have the job stop after its step, as for SIGUSR1; or end this rank, if it cannot."""
        global _stop_requested
        now = time.monotonic()
        if self._orphaned is None:
            self._orphaned = now
            # The kernel's, for when Python does not get to run.
            signal.alarm(int(ORPHAN_SECONDS + 2 * _PEER_SECONDS))
            _forget_closed_streams()
            can = "ends" if _stop_requested is None else "saves after this step, and ends"
            _say_rank(
                f"has lost process {launcher}, which launched it, in phase {_phases[-1]!r}: "
                f"it {can}{_advice() if _stop_requested is None else ''}"
            )
        if _stop_requested is None:
            _leave(os.EX_TEMPFAIL)
        _stop_requested = True
        if self._alone is None and any(is_gone(peer) for peer in self.peers):
            self._alone = now
        if self._alone is not None and now > self._alone + _PEER_SECONDS:
            _say_rank(f"ends in phase {_phases[-1]!r}: another rank has ended{_advice()}")
            _leave(os.EX_TEMPFAIL)
        if now > self._orphaned + ORPHAN_SECONDS:
            _say_rank(
                f"ends in phase {_phases[-1]!r}: it could not save within ORPHAN_SECONDS="
                f"{ORPHAN_SECONDS:g}{_advice()}"
            )
            _leave(os.EX_TEMPFAIL)


def _say_rank(text: str) -> None:
    _say_error(f"rank {rank()} {text}")


def _say_error(text: str) -> None:
    with suppress(OSError):  # nobody reads it
        print(f"megaprune: {text}", file=sys.stderr, flush=True)


def _forget_closed_streams() -> None:
    """Write to nobody where whoever read is gone: an error there would end the step."""
    for stream in (1, 2):
        poll = select.poll()
        poll.register(stream, 0)
        if any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0)):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
