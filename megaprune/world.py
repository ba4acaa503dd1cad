"""The processes of a job: how they begin, what they are doing, and how all end when one fails."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NoReturn

import torch
import torch.distributed as dist

from megaprune.device import backend, device
from megaprune.errors import InputError

_REQUIRED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_FIRST_RANK_SPEAKS_SECONDS = 10.0
_phase = "starting"


def rank() -> int:
    """This process's number in the job."""
    return int(os.environ.get("RANK", "0"))


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Say what this process is doing: errors and signals then name it."""
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


def run(job: Callable[[], None], timeout: timedelta = timedelta(minutes=30)) -> int:
    """Run a job on this process, with the default process group; returns its exit status.

    Start it with torchrun, on every process alike. An error on one rank ends all: it is named with
    its rank and phase, and torchrun ends the others. Errors in what the user gave are the same on
    all ranks and are printed once.

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
    _watch_for_sigterm()
    try:
        _take_device()
        dist.init_process_group(backend(), timeout=timeout)
        job()
        with phase("ending"):
            dist.barrier()
            dist.destroy_process_group()
        return 0
    except InputError as error:
        if rank() != 0:
            # All ranks found the same: the first says so, and its end ends the others.
            time.sleep(_FIRST_RANK_SPEAKS_SECONDS)
        print(f"megaprune: error: {error}", file=sys.stderr, flush=True)
        # Not through the interpreter's end: engines would wait there for ranks that are gone.
        _leave(1)
    except KeyboardInterrupt:
        _leave(128 + signal.SIGINT)
    except Exception as error:  # noqa: BLE001 (named, printed whole, and the job ends)
        where = _failed[1] if _failed and _failed[0] is error else _phase
        print(
            f"megaprune: rank {rank()} failed in phase {where!r}:\n{traceback.format_exc()}",
            file=sys.stderr,
            flush=True,
        )
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
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _watch_for_sigterm() -> None:
    # From a thread: the main one may be inside a collective, where Python handles no signals.
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.set_wakeup_fd(write)

    def watch() -> None:
        while os.read(read, 1) != bytes([signal.SIGTERM]):
            pass
        print(
            f"megaprune: rank {rank()} was ended by SIGTERM in phase {_phase!r}",
            file=sys.stderr,
            flush=True,
        )
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
