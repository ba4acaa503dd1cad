"""Which process made a file or has a folder, and whether it has ended."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

_UNKNOWN = "unknown"
"""When a process started that the system says no more of than that it lives."""


@cache
def machine() -> str:
    """What tells this machine's process numbers from those of others, and of its own last boot."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))  # containers count their own processes
    return " ".join(parts)


def process_record(pid: int | None = None) -> dict[str, Any]:
    """Name this process, or another one of this machine, for `is_gone`."""
    pid = os.getpid() if pid is None else pid
    return {"machine": machine(), "pid": pid, "started": _start_of(pid)}


def is_gone(process: dict[str, Any]) -> bool:
    """Say whether a process of this machine has ended. False for one of another machine."""
    if process.get("machine") != machine():
        return False
    pid, started = process.get("pid"), process.get("started")
    now = _start_of(pid) if type(pid) is int else None
    return now is None or (now != started and _UNKNOWN not in (now, started))


def _start_of(pid: int) -> str | None:
    """When a process started, in the kernel's ticks; None if there is none, or it has ended."""
    try:
        # The name in parentheses may hold anything; 20 fields follow it up to the start.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]  # ended, and not waited for
    except (OSError, IndexError):
        return _UNKNOWN if _is_hidden(pid) else None


def _is_hidden(pid: int) -> bool:
    """Say whether there is a process that /proc does not show, or there is no /proc."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return not Path("/proc/self/stat").exists()
