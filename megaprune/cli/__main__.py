"""The command as a process: `megaprune`, and `python -m megaprune.cli`, as torchrun starts it."""

from __future__ import annotations

import atexit
import os
import sys

from megaprune.cli.main import main

_status: int | None = None
"""Of a command that has come to its end."""


def run() -> int:
    """Run a command, and let its process end quickly; returns the exit status."""
    global _status
    atexit.register(_leave)  # the first that is registered is the last that is called
    _status = main()
    return _status


def _leave() -> None:
    # The interpreter would now look through all modules for cycles. With both engines that takes
    # two seconds, for memory that the system takes back at once.
    if _status is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_status)


if __name__ == "__main__":
    sys.exit(run())
