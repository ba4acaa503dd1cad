"""Settings of an analysis, and what a judge may take."""

from __future__ import annotations

import base64
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from megaprune.foreign_text import for_people


@dataclass(frozen=True)
class AnalysisSettings:
    """Settings of an analysis.

    Args:
        paths: the inputs, as `thoughts.read_inputs` takes them.
        out: the folder that is written.
        answers: how many problems of each input are analysed; None for all.
        seed: draws the problems.
        close: the tag that ends a thought.
        max_steps: the most steps of a thought that a judge is given.
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
        url: the address, as in http://localhost:8000/v1.
        model: the server's name for the judge.
        key: the key to authorize with; None to do without.
        key_variable: the environment variable that has the key, for messages.
        timeout: seconds to wait for a reply.
        retries: attempts after a failure that may pass.
        per_minute: the most requests in a minute; None for no limit.
    """

    url: str = field(repr=False)
    model: str
    key: str | None = field(default=None, repr=False)
    key_variable: str = "OPENAI_API_KEY"
    timeout: float = 300.0
    retries: int = 5
    per_minute: float | None = None

    @property
    def place(self) -> str:
        """The address as it is printed and kept: without user, password and query."""
        try:
            url = urlsplit(self.url)
        except ValueError:
            return "***"
        if "@" in url.path + url.query + url.fragment or (url.scheme and not url.netloc):
            return f"{url.scheme}://***" if url.netloc else "***"
        user, at, host = url.netloc.rpartition("@")
        begin = f"{url.scheme}://" if url.netloc else ""
        return f"{begin}{'***@' if user or at else ''}{host}{url.path}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What a server must not be let to repeat: key and password, and as they are sent."""
        secrets = {self.key or ""}
        try:
            url = urlsplit(self.url)
        except ValueError:
            return tuple(secrets)
        if url.username or url.password:
            user, password = unquote(url.username or ""), unquote(url.password or "")
            sent = base64.b64encode(f"{user}:{password}".encode()).decode()
            # Without a password, the name is the key.
            secrets |= {password or user, url.password or url.username or "", sent}
        return tuple(sorted(secrets, key=len, reverse=True))


@dataclass(frozen=True)
class JudgeLimits:
    """What asking a judge may take.

    Args:
        parallel: requests underway at once.
        reply_tokens: the most tokens of a reply; None for as many as the phases may need.
        price_in, price_out: the price of a million tokens of prompts, of replies.
        limit_cost: the most that all replies in the folder may cost; a reply that would likely pass
            it is not asked for.
    """

    parallel: int = 4
    reply_tokens: int | None = None
    price_in: float | None = None
    price_out: float | None = None
    limit_cost: float | None = None

    def cost(self, rows: Sequence[Mapping[str, Any]]) -> float | None:
        """The cost of replies; None without prices."""
        if self.price_in is None or self.price_out is None:
            return None
        prices = {"tokens_in": self.price_in, "tokens_out": self.price_out}
        return sum((row[key] or 0) * prices[key] / 1e6 for row in rows for key in prices)


def warn(words: str) -> None:
    """Write a warning on standard error."""
    print(f"megaprune: warning: {for_people(words)}", file=sys.stderr)
