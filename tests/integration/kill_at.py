"""A command that is killed at one of its calls that change files: `kill_at.py N COMMAND...`.

The N-th call that opens a file to write it, makes, renames, links or removes something, or makes
something durable, is not made: the process is gone by SIGKILL, as are its children. For N = 0 the
command runs to its end. Its figures are blank: to draw them would take half of its time.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, BinaryIO

EVENTS = {
    "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate",
    "os.utime", "shutil.rmtree",
}  # fmt: skip
"""All but the time of an open file: leases are renewed by it, now and then and in no fixed order."""

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
PATHS = (str, bytes, os.PathLike)


class Changes:
    """Counts the changes of files that this process makes from now on, in all of its threads.

    Args:
        before: called before each change with its number, from 1. No other change is made
            meanwhile; those that it makes itself are not counted.
    """

    def __init__(self, before: Callable[[int], None]):
        self._count, self._before = 0, before
        self._lock = threading.Lock()
        self._caller: int | None = None
        os.fsync = self._counted(os.fsync)
        sys.addaudithook(self._hook)

    def _add(self) -> None:
        thread = threading.get_ident()
        if self._caller == thread:
            return
        with self._lock:
            self._caller = thread
            self._count += 1
            self._before(self._count)
            self._caller = None

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in EVENTS and not (event == "os.utime" and isinstance(arguments[0], int)):
            self._add()
        elif event == "open" and isinstance(arguments[0], PATHS) and arguments[2] & WRITES:
            path = os.fsdecode(arguments[0])
            # What is made for this process alone is no file of anybody's.
            if not path.startswith(("/dev/", "/proc/", "/sys/")):
                self._add()

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self._add()
            return function(*arguments, **options)

        return call


def kill_at(number: int) -> None:
    """Kill this process at its N-th change from now on; never for 0."""

    def kill(count: int) -> None:
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    Changes(kill)


def run(command: list[str]) -> int:
    """Run a command of megaprune without drawing; its exit status."""
    from matplotlib.figure import Figure
    from PIL import Image

    from megaprune.cli.main import main

    def save_blank(figure: Figure, file: BinaryIO, **options: object) -> None:
        Image.new("1", (1, 1)).save(file, format="png")

    Figure.savefig = save_blank
    return main(command)


if __name__ == "__main__":
    kill_at(int(sys.argv[1]))
    sys.exit(run(sys.argv[2:]))
