"""The processes that launched this one: when one of them has ended, this one is to end too.

A launcher names itself in the environment of what it starts (`name_launcher`, or
slurm/megaprune-node); torchrun is the parent of its processes. A process that a user started by
hand has no launchers, and outlives its shell.
"""

from __future__ import annotations

import ctypes
import os
import signal

from megaprune.files import is_gone, process_record

LAUNCHERS = "MEGAPRUNE_LAUNCHERS"
"""In the environment of processes: the ids of those that launched them, the outermost first."""

_OF_TORCHRUN = "TORCHELASTIC_RUN_ID"
_PR_SET_PDEATHSIG = 1


def name_launcher() -> None:
    """Say to the processes that this one will start that they are to end with it."""
    os.environ[LAUNCHERS] = f"{os.environ.get(LAUNCHERS, '')} {os.getpid()}".strip()


class Launchers:
    """Those that this process is to end with, as they are now.

    Args:
        wake: a signal that the kernel is to send, on Linux, when the parent ends.
    """

    def __init__(self, wake: signal.Signals):
        self._parent = os.getppid()
        named = [int(word) for word in os.environ.get(LAUNCHERS, "").split() if word.isdecimal()]
        self._records = [process_record(pid) for pid in named]
        self._watches_parent = self._parent in named or _OF_TORCHRUN in os.environ
        if self._watches_parent and hasattr(os, "pidfd_open"):  # Linux
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(wake), 0, 0, 0)

    def gone(self) -> int | None:
        """Return the id of one that has ended; None if all live, or there are none."""
        if self._watches_parent and os.getppid() != self._parent:
            return self._parent
        return next((int(r["pid"]) for r in self._records if is_gone(r)), None)
