"""A command that is killed at one of its changes of files: `kill_at.py N FOLDER COMMAND...`.

The N-th call that opens a file in a folder to write it, makes, renames, links or removes something
there, or makes something durable, is not made: the process is gone by SIGKILL, as are its children.
For N = 0 the command runs to its end. Its figures are blank: to draw them would take half of its
time.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
EVENTS = {
    "open": (0, None), "os.rename": (1, 3), "os.link": (1, 3), "os.symlink": (1, 2),
    "os.remove": (0, 1), "os.rmdir": (0, 1), "os.mkdir": (0, 2), "os.utime": (0, 3),
    "os.truncate": (0, None), "shutil.rmtree": (0, None),
}  # fmt: skip
"""Audit events of changes: which argument is the path, and which the open folder it begins at."""


class Changes:
    """Counts the changes of files in a folder that this process makes, in all of its threads.

    Args:
        folder: changes elsewhere, such as those of other programs' caches, are not counted.
        before: called before each change with its number, from 1. No other change is made
            meanwhile; those that it makes itself are not counted.
    """

    def __init__(self, folder: Path, before: Callable[[int], None]):
        self._folder = folder.resolve()
        self._count, self._before = 0, before
        self._lock = threading.Lock()
        self._caller: int | None = None
        fsync = os.fsync

        def counted_fsync(file: Any) -> None:
            handle = file if isinstance(file, int) else file.fileno()
            self._add(Path(f"/proc/self/fd/{handle}").readlink())
            fsync(handle)

        os.fsync = counted_fsync
        sys.addaudithook(self._hook)

    def _add(self, path: Path) -> None:
        thread = threading.get_ident()
        if self._caller == thread or not (path.parent.resolve() / path.name).is_relative_to(
            self._folder
        ):
            return
        with self._lock:
            self._caller = thread
            self._count += 1
            self._before(self._count)
            self._caller = None

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in EVENTS or (event == "open" and not arguments[2] & WRITES):
            return
        at, folder_at = EVENTS[event]
        if isinstance(arguments[at], int):
            return  # of an open file: leases are renewed so, now and then and in no fixed order
        path = Path(os.fsdecode(arguments[at]))
        if folder_at is not None and arguments[folder_at] != -1:
            path = Path(f"/proc/self/fd/{arguments[folder_at]}").readlink() / path
        self._add(path)


def kill_at(number: int, folder: Path) -> None:
    """Kill this process at its N-th change in a folder from now on; never for 0."""

    def kill(count: int) -> None:
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    Changes(folder, kill)


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
    kill_at(int(sys.argv[1]), Path(sys.argv[2]))
    sys.exit(run(sys.argv[3:]))
