"""Start a job: on the processes that torchrun made, or on new ones of this host."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Sequence
from math import lcm

# torch takes seconds to import, and reads OMP_NUM_THREADS as it is: imported when a job starts.

_CHECKED = "MEGAPRUNE_CHECKED"
"""In the environment of processes whose job was checked before they were started."""


def start(
    command: Sequence[str],
    processes: Callable[[], int],
    check: Callable[[int], None],
    job: Callable[[], None],
    only_check: int | None = None,
) -> int:
    """Check everything that can be checked, then do a job; the exit status.

    Args:
        command: of megaprune, that other processes are started with.
        processes: how many it wants, where torchrun has not said it.
        check: given their number, raises an InputError if the job cannot be. Writes nothing. Called
            once: before processes are started, or by the first of those that are there.
        job: collective.
        only_check: whether so many processes can do it, and end.
    """
    # Imports, and vLLM as it answers, make objects by the million that stay for a while.
    gc.set_threshold(100_000)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun does: more processes use more cores
    _quiet()
    if only_check is not None:
        check(only_check)
        print(f"megaprune {command[0]}: {only_check} processes can do this")
        return 0
    if "RANK" not in os.environ:
        count = processes()
        check(count)
        os.environ[_CHECKED] = "1"
        if count > 1:
            return _torchrun(count, "-m", "megaprune.cli", *command)
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    from megaprune.distributed import world

    def checked() -> None:
        if _CHECKED not in os.environ:
            with world.phase("check"), world.raise_on_all_ranks():
                if os.environ["RANK"] == "0":
                    check(int(os.environ["WORLD_SIZE"]))
        job()

    return world.run(checked)


def smallest_world(*sizes: int) -> int:
    """One process for each GPU; on a CPU as few as these divisions need."""
    import torch

    return torch.cuda.device_count() or lcm(*sizes)


def _quiet() -> None:
    """Keep what is always so on a CPU off the console."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    import torch

    if not torch.cuda.is_available():
        # Megatron-core says at each import that there is no apex: no GPU, no apex.
        warnings.filterwarnings("ignore", category=UserWarning, module=r"megatron\.core")
        # vLLM looks for its version under the name of its CUDA build, and takes Triton for broken.
        logging.getLogger("vllm.triton_utils.importing").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="vllm")


def _torchrun(processes: int, *command: str) -> int:
    """A command in several processes; the exit status. Each says itself what ails it."""
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # the processes have a use for it
    options = ["--standalone", "--nproc-per-node", str(processes), *command]
    try:
        torchrun.run(torchrun.parse_args(options))
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from error
        return 128 + int(error.sigval)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:  # it had no time to say anything
            print(
                f"megaprune: rank {rank} was killed by {failure.signal_name()}, and the others "
                f"were ended; the same command goes on from the last checkpoint",
                file=sys.stderr,
            )
        return os.EX_TEMPFAIL if failure.exitcode == os.EX_TEMPFAIL else 1
    return 0


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
