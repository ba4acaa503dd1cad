"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "missing", "wrong"]

STATES: tuple[State, ...] = ("ok", "missing", "wrong")


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Args:
        name: of what was looked at.
        state: missing is not there, wrong is there and of no use as it is.
        found: what was seen.
        mend: the command that mends it, or what to do.
        required: no job can be without it.
    """

    name: str
    state: State
    found: str
    mend: str | None = None
    required: bool = False

    @property
    def stops(self) -> bool:
        """Whether it must be mended first: what is optional may be missing, not broken."""
        return self.state == "wrong" or (self.required and self.state == "missing")


def short(text: str, most: int = 200) -> str:
    """The first line that says something, of so many characters at most."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= most else line[: most - 3] + "..."


def size(count: float) -> str:
    """Bytes, readable: 7.9 GiB."""
    units = ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while count >= 1024 and len(units) > 1:
        count /= 1024
        units.pop(0)
    return f"{count:.0f} {units[0]}" if count >= 100 else f"{count:.1f} {units[0]}"
