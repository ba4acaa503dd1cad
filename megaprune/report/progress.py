"""The page of a run underway, written from time to time."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from megaprune.errors import InputError
from megaprune.foreign_text import for_people
from megaprune.report import write_report

_FIRST_GUESS = 1.0
"""Seconds that the first page is taken to need."""

_SHARE = 0.05
"""Pages take at most this share of a run's time."""


class ProgressPage:
    """Writes the page of a run while it is underway. It never ends the run: a failure is a warning.

    Args:
        folder: the folder of the run.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._seconds = _FIRST_GUESS
        self._written = time.monotonic()
        self._warned = False

    def update(self, *, always: bool = False) -> bool:
        """Write the page if enough time has passed since the last one.

        Args:
            always: write it now, as for a run that is about to stop.

        Returns:
            Whether it was written.
        """
        begin = time.monotonic()
        if not always and self._seconds > _SHARE * (begin - self._written):
            return False
        try:
            write_report(self._folder)
        except Exception as error:  # noqa: BLE001 - the run is worth more than its page
            self._warn(error)
            return False
        finally:
            self._written = time.monotonic()
            self._seconds = self._written - begin
        return True

    def _warn(self, error: Exception) -> None:
        if self._warned:
            return
        self._warned = True
        detail = str(error) if isinstance(error, (InputError, OSError)) else repr(error)
        print(
            f"megaprune: warning: the report of the run underway cannot be written "
            f"({for_people(detail)}); the run goes on",
            file=sys.stderr,
            flush=True,
        )
