"""What the checks of a part measured: printed as it comes, and kept in a JSON file."""

from __future__ import annotations

import gc
import json
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from megaprune.distributed import device
from smoke.lines import line


class Skipped(Exception):
    """A check that cannot be made on this machine; says why."""


class Report:
    """The checks of a part. One that fails prints its traceback, and the next one goes on.

    Args:
        part: its name.
        folder: where PART.json is kept; it is there after every check.
    """

    def __init__(self, part: str, folder: Path):
        self.part, self.path = part, folder / f"{part}.json"
        self.checks: list[dict[str, Any]] = []

    @contextmanager
    def check(self, name: str) -> Iterator[dict[str, Any]]:
        """Measure something: fill the dictionary with figures, raise if they are wrong."""
        values: dict[str, Any] = {}
        state, start = "ok", time.perf_counter()
        try:
            yield values
        except Skipped as reason:
            state, values["reason"] = "skipped", str(reason)
        except Exception as error:  # noqa: BLE001 (printed and kept; other checks are independent)
            state, values["error"] = "failed", f"{type(error).__name__}: {error}"[:500]
            traceback.print_exc()
        seconds = round(time.perf_counter() - start, 2)
        self.checks.append({"check": name, "state": state, "seconds": seconds, "values": values})
        self.path.write_text(json.dumps(self.checks, indent=1))
        print(line(self.part, self.checks[-1]), flush=True)
        gc.collect()
        device.release_cached()


def expect(holds: bool, text: str) -> None:
    """Raise an AssertionError that says what was expected and seen, unless it holds."""
    if not holds:
        raise AssertionError(text)


def seconds_of(work: Callable[[], object], runs: int = 5, warm: int = 1) -> float:
    """Median seconds of some work, the device's share included."""
    for _ in range(warm):
        work()
    seconds = []
    for _ in range(runs):
        device.synchronize()
        start = time.perf_counter()
        work()
        device.synchronize()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[runs // 2]
