"""What is analysed, and what a judge may take."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Settings:
    """What is analysed.

    Args:
        paths: of inputs, as `thoughts.read_inputs` takes them.
        out: folder.
        answers: to so many problems of each input; None for all.
        seed: of which.
        close: the tag that ends a thought.
        max_steps: of a thought that a judge is given.
    """

    paths: Sequence[str]
    out: Path
    answers: int | None = None
    seed: int = 0
    close: str = "</think>"
    max_steps: int = 400


@dataclass(frozen=True)
class Endpoint:
    """Where a judge is, and how it is asked.

    Args:
        url: as in http://localhost:8000/v1.
        model: the judge, by the server's name for it.
        key: to authorize with; None to do without.
        key_variable: the environment variable that it is of, for messages.
        timeout: seconds for a reply.
        retries: after a failure that may pass.
        per_minute: requests; None for no limit.
    """

    url: str
    model: str
    key: str | None = None
    key_variable: str = "OPENAI_API_KEY"
    timeout: float = 300.0
    retries: int = 5
    per_minute: float | None = None


@dataclass(frozen=True)
class Means:
    """What asking may take.

    Args:
        parallel: requests on their way at once.
        reply_tokens: of a reply at most; None for as many as the phases of so many steps may need.
        price_in, price_out: of a million tokens.
        limit_cost: of all replies in the folder; none is asked for that would likely pass it.
    """

    parallel: int = 4
    reply_tokens: int | None = None
    price_in: float | None = None
    price_out: float | None = None
    limit_cost: float | None = None

    def cost(self, rows: Sequence[Mapping[str, Any]]) -> float | None:
        """Of replies; None without prices."""
        if self.price_in is None or self.price_out is None:
            return None
        prices = {"tokens_in": self.price_in, "tokens_out": self.price_out}
        return sum((row[key] or 0) * prices[key] / 1e6 for row in rows for key in prices)


def warn(words: str) -> None:
    """A line on standard error."""
    print(f"megaprune: warning: {words}", file=sys.stderr)
