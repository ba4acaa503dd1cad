"""What a server answered: read within bounds, and never believed to be of the right form."""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any

import httpx

MOST_BYTES = 16 << 20
"""Of an answer, unpacked."""

LONGEST_PAUSE = 600.0
"""Seconds that a server may ask to wait; what asks for more has given no reply."""

_MOST_WORDS = 1 << 14
"""Characters of a server's message that are looked at."""

_MOST_TOKENS = 10**12
_PACKED = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""Names of packings, and zlib's `wbits` for each."""

_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?")
_REASON = re.compile(r"[A-Za-z_]{1,40}")


class Unreadable(Exception):
    """Raised for an answer that is too large, or is packed as nobody asked for."""


@dataclass(frozen=True)
class Answer:
    """An HTTP answer.

    Attributes:
        status: HTTP's number.
        retry_after: the seconds that it asks to wait, at least 0; None if it does not.
        content: the body.
    """

    status: int
    retry_after: float | None
    content: bytes

    @cached_property
    def data(self) -> Any:
        """The JSON of the body; None if it is none."""
        try:
            return json.loads(self.content)
        except (ValueError, RecursionError):
            return None

    @property
    def message(self) -> str:
        """What the server says went wrong."""
        words = self._error.get("message")
        return (words if isinstance(words, str) and words else self._text)[:_MOST_WORDS]

    @property
    def code(self) -> str:
        """The server's word for the kind of error; empty if it has none."""
        return self._word("code")

    @property
    def param(self) -> str:
        """The field of the request in which the error is; empty if the server does not say."""
        return self._word("param")

    def reply(self) -> tuple[str, str, int | None, int | None] | None:
        """Read a completion: text, reason of its end, tokens in and out; None if it is none."""
        choices = self.data.get("choices") if isinstance(self.data, dict) else None
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict) or not isinstance(message := choice.get("message"), dict):
            return None
        text, reason, usage = (
            message.get("content"),
            choice.get("finish_reason"),
            self.data.get("usage"),
        )
        usage = usage if isinstance(usage, dict) else {}
        return (
            text if isinstance(text, str) else "",
            reason if isinstance(reason, str) and _REASON.fullmatch(reason) else "unknown",
            token_count(usage.get("prompt_tokens")),
            token_count(usage.get("completion_tokens")),
        )

    @property
    def _text(self) -> str:
        return self.content[: 4 * _MOST_WORDS].decode("utf-8", "replace")

    @property
    def _error(self) -> Mapping[str, Any]:
        error = self.data.get("error", self.data) if isinstance(self.data, dict) else {}
        return error if isinstance(error, dict) else {"message": error}

    def _word(self, name: str) -> str:
        value = self._error.get(name)
        return str(value)[:100] if isinstance(value, str | int) else ""


async def read_answer(response: httpx.Response) -> Answer:
    """Read a response that is being streamed, and no more of it than `MOST_BYTES` unpacked.

    Raises:
        Unreadable: it is more, or packed in another way than gzip's.
        httpx.HTTPError: the connection failed.
    """
    packing = response.headers.get("Content-Encoding", "").strip().lower()
    if packing not in ("", "identity", *_PACKED):
        raise Unreadable(
            f"status {response.status_code}, packed as {packing[:40]!r}, not asked for"
        )
    unpacker = zlib.decompressobj(_PACKED[packing]) if packing in _PACKED else None
    content = bytearray()
    async for part in response.aiter_raw():
        room = MOST_BYTES + 1 - len(content)
        try:
            content += part[:room] if unpacker is None else unpacker.decompress(part, room)
        except zlib.error as error:
            raise Unreadable(f"status {response.status_code}, packed wrongly ({error})") from error
        if len(content) > MOST_BYTES:
            raise Unreadable(f"status {response.status_code}, more than {MOST_BYTES} bytes")
    after = retry_after(response.headers.get("Retry-After", ""))
    return Answer(response.status_code, after, bytes(content))


def retry_after(header: str) -> float | None:
    """Read how many seconds a server asks to wait, in either of HTTP's forms; None for others."""
    header = header.strip()
    if _SECONDS.fullmatch(header):
        return float(header)
    try:
        when = parsedate_to_datetime(header)
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        return max(0.0, (when - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def token_count(value: Any) -> int | None:
    """Read a number of tokens; None if it cannot be one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value) if 0 <= value <= _MOST_TOKENS and value == int(value) else None
