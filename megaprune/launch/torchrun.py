"""Start a job: on the processes that torchrun made, or on new ones of this host."""

from __future__ import annotations

import logging
import os
import secrets
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from math import lcm

from megaprune.distributed import start_times
from megaprune.distributed.launchers import name_launcher
from megaprune.distributed.process import be_alone, prepare_process
from megaprune.distributed.settings import set_up_determinism
from megaprune.errors import counted
from megaprune.foreign_text import for_people

# torch takes seconds to import, and reads OMP_NUM_THREADS as it is: imported when a job starts.

_CHECKED = "MEGAPRUNE_CHECKED"
"""In the environment of processes whose job was checked before they were started."""


def start(
    command: Sequence[str],
    processes: Callable[[], int],
    check: Callable[[int], None],
    job: Callable[[], None],
    only_check: int | None = None,
    deterministic: bool = False,
) -> int:
    """Check everything that can be checked, then do a job; returns the exit status.

    Args:
        command: the arguments of megaprune that other processes are started with.
        processes: returns how many processes the job wants, where torchrun has not said it.
        check: raises an InputError if the job cannot run on so many processes. Writes nothing.
            Called once: before processes are started, or by the first of those that are there.
        job: collective.
        only_check: whether so many processes can do it, and end.
        deterministic: whether sums are to be added in a fixed order on GPUs.
    """
    start_times.begin()
    if deterministic:
        set_up_determinism()
    prepare_process()
    if only_check is not None:
        check(only_check)
        print(f"megaprune {command[0]}: {counted(only_check, 'process', 'processes')} can do this")
        return 0
    if "RANK" not in os.environ:
        count = processes()
        check(count)
        os.environ[_CHECKED] = "1"
        if count > 1:
            return _torchrun(count, command)
        be_alone()
    from megaprune.distributed import world

    def checked() -> None:
        if _CHECKED not in os.environ:
            with world.phase("check"), world.raise_on_all_ranks():
                if os.environ["RANK"] == "0":
                    check(int(os.environ["WORLD_SIZE"]))
        start_times.lap("check")
        job()

    return world.run(checked, command=_typed(command))


def smallest_world(*sizes: int) -> int:
    """Return one process for each GPU; on a CPU, as few as these sizes of parallelism need."""
    import torch

    return torch.cuda.device_count() or lcm(*sizes)


def _typed(command: Sequence[str]) -> str:
    return for_people(shlex.join(["megaprune", *command]))


def _torchrun(processes: int, command: Sequence[str]) -> int:
    """Run a command in several processes; returns the exit status. Each reports its own errors."""
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    from megaprune.distributed.stores import LOOPBACK
    from megaprune.launch import rendezvous
    from megaprune.launch.forks import fork_processes

    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # the processes have a use for it
    rendezvous.register()
    name_launcher()
    fork_processes()
    options = ["--nnodes", "1", "--nproc-per-node", str(processes)]
    options += ["--rdzv-backend", rendezvous.NAME, "--rdzv-id", secrets.token_hex(16)]
    options += ["--rdzv-endpoint", f"{LOOPBACK}:0", "--rdzv-conf", f"listen={LOOPBACK}"]
    try:
        torchrun.run(torchrun.parse_args([*options, "-m", "megaprune.cli", *command]))
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from error
        return 128 + int(error.sigval)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:  # it had no time to say anything
            print(
                f"megaprune: rank {rank} was killed by {failure.signal_name()}, and the others "
                f"were ended; the same command goes on from the last checkpoint: {_typed(command)}",
                file=sys.stderr,
            )
        return os.EX_TEMPFAIL if failure.exitcode == os.EX_TEMPFAIL else 1
    return 0
