"""A command that is killed at one of its calls that change files: `kill_at.py N COMMAND...`.

The N-th call that opens a file to write it, makes, renames, links or removes something, or makes
something durable, is not made: the process is gone by SIGKILL, as are its children. For N = 0 the
command runs to its end, and the number of such calls is the last line that it prints.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

EVENTS = {
    "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate",
    "os.utime", "shutil.rmtree",
}  # fmt: skip
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

_lock = threading.Lock()
_count, _last = 0, int(sys.argv[1])


def count() -> None:
    global _count
    with _lock:
        _count += 1
        if _count == _last:
            os.kill(os.getpid(), signal.SIGKILL)


def hook(event: str, arguments: tuple) -> None:
    if event in EVENTS:
        count()
    elif event == "open" and isinstance(arguments[0], (str, bytes)) and arguments[2] & WRITES:
        path = os.fsdecode(arguments[0])
        # What is made for this process alone is no file of anybody's.
        if not path.startswith(("/dev/", "/proc/", "/sys/")):
            count()


def counted(function):
    def call(*arguments, **options):
        count()
        return function(*arguments, **options)

    return call


if __name__ == "__main__":
    os.fsync = counted(os.fsync)
    sys.addaudithook(hook)
    from megaprune.cli.main import main

    status = main(sys.argv[2:])
    print(_count, flush=True)
    sys.exit(status)
