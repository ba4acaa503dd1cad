"""How long each part of a job's start takes, from the moment at which its command was typed.

A part ends where `lap` names it, and the next one begins there: the parts add up to the whole.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

_BEGAN = "MEGAPRUNE_BEGAN"
"""In the environment of processes: the time.time() at which the command began that starts them."""

_parts: dict[str, float] = {}
_last: float | None = None
"""When the last part ended; None while no start is measured."""


def begin() -> None:
    """Measure from the time at which the command began, or this process, if that was first."""
    global _last
    process = _process_began()
    command = float(os.environ.setdefault(_BEGAN, str(process)))
    _parts.clear()
    if process > command:
        _parts["launch"] = process - command
    _last = process


def lap(part: str) -> None:
    """End a part of the start; without a `begin`, time is counted from the first lap on."""
    global _last
    now = time.time()
    if _last is not None:
        _parts[part] = _parts.get(part, 0.0) + now - _last
    _last = now


def take() -> dict[str, float]:
    """Return the seconds of all parts, in their order, and end the measurement."""
    global _last
    parts = dict(_parts)
    _parts.clear()
    _last = None
    return parts


def _process_began() -> float:
    now = time.time()
    with suppress(OSError, IndexError, ValueError):  # not Linux
        # The name in parentheses may hold anything; 20 fields follow it up to the start.
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        since_boot = time.clock_gettime(time.CLOCK_BOOTTIME)
        return now - since_boot + ticks / os.sysconf("SC_CLK_TCK")
    return now
