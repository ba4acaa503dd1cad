"""The processes of a job: how they begin, what they are doing, and how all end when one fails."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from rich.text import Text

from megaprune.distributed.device import backend, device
from megaprune.distributed.process import be_alone, prepare_process
from megaprune.errors import InputError
from megaprune.foreign_text import for_people, terminal
from megaprune.lease import release_all

_REQUIRED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_FIRST_RANK_SPEAKS_SECONDS = 10.0
_phase = "starting"


def rank() -> int:
    """Return this process's number in the job."""
    return int(os.environ.get("RANK", "0"))


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Name what this process is doing: errors and signals then say it."""
    global _phase, _failed
    before, _phase = _phase, name
    try:
        yield
    except BaseException as error:
        # The innermost phase: an error passes through the others on its way out.
        if _failed is None or _failed[0] is not error:
            _failed = (error, name)
        raise
    finally:
        _phase = before


_failed: tuple[BaseException, str] | None = None


class Stopped(Exception):
    """Raised by a job that ends before it is done, as it was told to; says what was kept."""


_goes_on: Callable[[], str] | None = None


def say_when_interrupted(say: Callable[[], str] | None) -> None:
    """Have the first rank say something when the job ends before it is done; None for no more.

    Args:
        say: returns from where the same command goes on. Called from any thread.
    """
    global _goes_on
    _goes_on = say


def _say_what_goes_on() -> None:
    if _goes_on is not None and rank() == 0:
        print(f"megaprune: {_goes_on()}", file=sys.stderr, flush=True)


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


T = TypeVar("T")


def all_gather_object(mine: T) -> list[T]:
    """Gather the object of each rank on all ranks. Collective."""
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return everyone


def broadcast_from_rank0(mine: T) -> T:
    """Give the object of rank 0 to all ranks. Collective."""
    box = [mine]
    dist.broadcast_object_list(box)
    return box[0]


def say(text: str) -> None:
    """Print a line on the console, from rank 0."""
    if dist.get_rank() == 0:
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
    dist.init_process_group(backend(), timeout=timeout)
    atexit.register(_destroy_process_group)


def _destroy_process_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def run(job: Callable[[], None], timeout: timedelta = timedelta(minutes=30)) -> int:
    """Run a job on this process, with the default process group; returns its exit status.

    Start it with torchrun, on every process alike. An error on one rank ends all: it is named with
    its rank and phase, and torchrun ends the others. Errors in what the user gave are the same on
    all ranks and are printed once. A job that was stopped has the status 75 (EX_TEMPFAIL).

    Args:
        job: collective.
        timeout: of a collective operation.
    """
    missing = [name for name in _REQUIRED if name not in os.environ]
    if missing:
        print(
            f"megaprune: error: {', '.join(missing)} not set; start with torchrun, on one GPU or "
            f"CPU: torchrun --standalone --nproc-per-node 1 ...",
            file=sys.stderr,
        )
        return 2
    _watch_for_signals()
    status = 0
    try:
        _take_device()
        dist.init_process_group(backend(), timeout=timeout)
        try:
            job()
        except Stopped as stopped:
            say(f"stopped: {stopped}; the same command goes on")
            status = os.EX_TEMPFAIL
        with phase("ending"):
            dist.barrier()
            dist.destroy_process_group()
        return status
    except InputError as error:
        if rank() != 0:
            # All ranks have the same error: the first tells it, and its end ends the others.
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(_FIRST_RANK_SPEAKS_SECONDS)
        print(f"megaprune: error: {for_people(str(error))}", file=sys.stderr, flush=True)
        _say_what_goes_on()
        # Not through the interpreter's end: engines would wait there for ranks that are gone.
        _leave(1)
    except KeyboardInterrupt as error:
        if os.environ["WORLD_SIZE"] == "1":  # among several, torchrun's parent says so
            where = _failed[1] if _failed and _failed[0] is error else _phase
            print(f"megaprune: interrupted in phase {where!r}", file=sys.stderr, flush=True)
        _say_what_goes_on()
        _leave(128 + signal.SIGINT)
    except Exception as error:  # noqa: BLE001 (named, printed whole, and the job ends)
        where = _failed[1] if _failed and _failed[0] is error else _phase
        print(
            f"megaprune: rank {rank()} failed in phase {where!r}:\n{traceback.format_exc()}",
            file=sys.stderr,
            flush=True,
        )
        _say_what_goes_on()
        _leave(1)


def _take_device() -> None:
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
    release_all()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _watch_for_signals() -> None:
    # From a thread: the main one may be inside a collective, where Python handles no signals.
    read, write = os.pipe()
    os.set_blocking(write, False)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(write)

    def watch() -> None:
        global _stop_requested
        while True:
            came = os.read(read, 1)[0]
            if came == signal.SIGUSR1 and _stop_requested is not None:
                _stop_requested = True
            elif came in (signal.SIGTERM, signal.SIGUSR1):
                print(
                    f"megaprune: rank {rank()} was ended by {signal.Signals(came).name} in phase "
                    f"{_phase!r}",
                    file=sys.stderr,
                    flush=True,
                )
                _say_what_goes_on()
                _leave(128 + came)

    threading.Thread(target=watch, daemon=True).start()
