"""Chat completions from an endpoint that speaks OpenAI's protocol, of whatever server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx

from megaprune.analyze.answer import LONGEST_PAUSE, Answer, Unreadable, read_answer
from megaprune.analyze.settings import Endpoint, warn
from megaprune.errors import InputError
from megaprune.foreign_text import masked

_LONGEST_OWN_PAUSE = 60.0  # seconds, between attempts, unless the server asks for more
_SAY_PAUSES_OF = 10.0

_FORM = "an address as http://HOST:PORT/v1"

_OPTIONS = ("response_format", "temperature")
"""What a judge can do without."""


class NoReply(Exception):
    """Raised when all attempts came to nothing; says what the last one did."""


class TooLong(Exception):
    """Raised when the server says that prompt and reply do not fit into the model's context."""


@dataclass(frozen=True)
class Completion:
    """A reply.

    Attributes:
        text: what the judge said; empty if it said nothing.
        finish: "stop", or "length" if the reply was cut off; or what else the server says.
        tokens_in, tokens_out: tokens of prompt and reply; None if the server does not tell.
        structured: whether the server was asked to hold the reply to the schema.
    """

    text: str
    finish: str
    tokens_in: int | None
    tokens_out: int | None
    structured: bool


@dataclass(frozen=True)
class _Failure:
    """What went wrong and may pass, and the seconds that the server asks to wait, if it does."""

    words: str
    retry_after: float | None


class Client:
    """Asks an endpoint, and asks again where that may help. Several requests may be underway.

    A server that refuses an option that not all know (structured output, temperature, the name of
    the limit on tokens) is asked without it from then on, and a warning says so.

    Args:
        endpoint: where the judge is.

    Raises:
        InputError: the address or the key cannot be one.
    """

    def __init__(self, endpoint: Endpoint):
        _check(endpoint)
        self._endpoint = endpoint
        self._stopped = asyncio.Event()
        self._without: set[str] = set()
        self._names: dict[str, str] = {}
        self._next = 0.0  # when the next request may be sent
        self._http = _connections(endpoint)
        # User and password are sent by `_connections`.
        url = httpx.URL(endpoint.url).copy_with(userinfo=b"", fragment=None)
        self._url = str(url).rstrip("/") + "/chat/completions"

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    def stop(self) -> None:
        """Ask nothing again; replies to requests underway are still waited for."""
        self._stopped.set()

    async def ask(
        self, messages: Sequence[Mapping[str, str]], tokens: int, schema: Mapping[str, Any]
    ) -> Completion:
        """Ask for a reply to a conversation.

        Args:
            messages: the conversation.
            tokens: the most tokens of the reply.
            schema: the JSON schema of the reply, for structured output.

        Raises:
            NoReply: there was none, whatever was tried.
            TooLong: the conversation does not fit into the judge's context.
            InputError: the server refuses, and asking again does not help.
        """
        json_schema = {"name": "reply", "strict": True, "schema": schema}
        body: dict[str, Any] = {
            "model": self._endpoint.model,
            "messages": messages,
            "max_tokens": tokens,
            "temperature": 0,
            "response_format": {"type": "json_schema", "json_schema": json_schema},
        }
        attempt = 0
        while isinstance(result := await self._attempt(body), _Failure):
            if attempt == self._endpoint.retries or self._stopped.is_set():
                raise NoReply(f"{self._endpoint.place}: {result.words}")
            if result.retry_after is not None and result.retry_after > LONGEST_PAUSE:
                raise NoReply(
                    f"{self._endpoint.place}: it asks for a pause of {result.retry_after:.0f} s, "
                    f"and {LONGEST_PAUSE:.0f} s are waited at most ({result.words})"
                )
            await self._pause(attempt, result)
            attempt += 1
        return result

    async def _attempt(self, asked: Mapping[str, Any]) -> Completion | _Failure:
        while (wait := self._next - time.monotonic()) > 0 and not self._stopped.is_set():
            await self._sleep(wait)
        if self._stopped.is_set():
            return _Failure("not asked any more", None)
        if self._endpoint.per_minute:
            self._next = time.monotonic() + 60 / self._endpoint.per_minute
        body = {self._names.get(key, key): value for key, value in asked.items()}
        body = {key: value for key, value in body.items() if key not in self._without}
        try:
            answer = await self._post(body)
        except (httpx.HTTPError, TimeoutError, Unreadable) as error:
            return _Failure(self._safe(_words(error, self._endpoint.timeout)), None)
        if answer.status == 200 and (reply := answer.reply()):
            text, finish, tokens_in, tokens_out = reply
            text = masked(text, self._endpoint.secrets)
            return Completion(text, finish, tokens_in, tokens_out, "response_format" in body)
        words = self._refused(answer, body)
        if words is None:
            return await self._attempt(asked)
        return _Failure(words, answer.retry_after)

    async def _post(self, body: Mapping[str, Any]) -> Answer:
        """Send a request and read what comes, all of it within the endpoint's timeout."""
        content = json.dumps(body).encode()  # ASCII, so halves of surrogate pairs pass too
        async with (
            asyncio.timeout(self._endpoint.timeout),
            self._http.stream("POST", self._url, content=content) as response,
        ):
            return await read_answer(response)

    async def _pause(self, attempt: int, failure: _Failure) -> None:
        if failure.retry_after is None:
            # Twice as long each time, and not all at the same moment.
            pause = min(2.0**attempt, _LONGEST_OWN_PAUSE) * random.uniform(0.75, 1.25)
            await self._sleep(pause)
            return
        # The server says it of its limits, and so to all requests.
        self._next = max(self._next, time.monotonic() + failure.retry_after)
        if failure.retry_after >= _SAY_PAUSES_OF:
            warn(
                f"{self._endpoint.place} asks for a pause of {failure.retry_after:.0f} s "
                f"({failure.words})"
            )

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)

    def _refused(self, answer: Answer, body: Mapping[str, Any]) -> str | None:
        """Say what went wrong that may pass; None if the request has been changed instead."""
        status, words, place = answer.status, self._safe(answer.message), self._endpoint.place
        said = f"status {status}, {words}" if words else f"status {status}"
        if status == 413 or (status == 400 and _is_too_long(answer.code, words)):
            raise TooLong(words)
        if status in (401, 403):
            variable = self._endpoint.key_variable
            does = "does not accept the key in" if self._endpoint.key else "wants a key: set"
            raise InputError(
                f"{place} {does} the environment variable {variable} ({said}); "
                f"--key-variable names another one"
            )
        if status == 404:
            raise InputError(
                f"{place} has no model {self._endpoint.model!r}, or is not where chat "
                f"completions are ({said}); expected {_FORM} and a model that its /models lists"
            )
        if 300 <= status < 400:
            raise InputError(
                f"{place} refuses the request (status {status}: what is asked for is elsewhere). "
                f"The key is sent nowhere else: give the right address to --endpoint"
            )
        if status == 400 and self._adapt(words, answer.param, body):
            return None
        may_pass = status in (200, 408, 409, 425, 429) or status >= 500
        if not may_pass or answer.code == "insufficient_quota":
            raise InputError(f"{place} refuses the request ({said})")
        return said

    def _adapt(self, words: str, param: str, body: Mapping[str, Any]) -> bool:
        """Leave out the option that a server refused; False if it can be none that we know."""
        if "max_tokens" in body and "max_completion_tokens" in words:
            self._names["max_tokens"] = "max_completion_tokens"
            return True
        # Some say in which field the fault is, others in words alone, and some not at all.
        options = [name for name in _OPTIONS if name in (param or words)]
        for refused in options if param else (*options, "response_format"):
            if refused in body:
                # Requests on their way may have it too: it is said once.
                if refused not in self._without:
                    warn(f"{self._endpoint.place} refuses {refused} ({words}); asked without it")
                self._without.add(refused)
                return True
        return False

    def _safe(self, words: str) -> str:
        """Make a line of a server's words; never with the key, which some servers repeat."""
        words = " ".join(masked(words, self._endpoint.secrets).split())
        return words if len(words) <= 300 else words[:300] + "..."


def _check(endpoint: Endpoint) -> None:
    try:
        url = httpx.URL(endpoint.url)
        given = urlsplit(endpoint.url)
    except (httpx.InvalidURL, ValueError) as error:
        # Where there is a password, the reason may have a part of it.
        reason = "" if "@" in endpoint.url else f": {error}"
        raise InputError(f"--endpoint {endpoint.place}{reason}; expected {_FORM}") from None
    if url.scheme not in ("http", "https") or not url.host or url.query:
        raise InputError(f"--endpoint {endpoint.place}; expected {_FORM}")
    if "@" in given.path + given.fragment:
        raise InputError(
            f"--endpoint {endpoint.place}: an @ behind the host; expected {_FORM}. In a password, "
            f"write / as %2F, ? as %3F, # as %23 and @ as %40"
        )
    if endpoint.key and not (endpoint.key.isascii() and endpoint.key.isprintable()):
        raise InputError(
            f"the environment variable {endpoint.key_variable} has more than a key in it, such as "
            f"a line break; set it to the key alone"
        )


def _connections(endpoint: Endpoint) -> httpx.AsyncClient:
    """Connections that carry the key to this address alone."""
    # Packed answers are not asked for: how much they unpack to cannot be known.
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    given, auth = urlsplit(endpoint.url), None
    if given.username or given.password:
        auth = httpx.BasicAuth(unquote(given.username or ""), unquote(given.password or ""))
    elif endpoint.key:
        headers["Authorization"] = f"Bearer {endpoint.key}"
    try:
        return httpx.AsyncClient(
            headers=headers, auth=auth, timeout=endpoint.timeout, follow_redirects=False
        )
    except (ValueError, ImportError, httpx.InvalidURL) as error:
        # Of HTTPS_PROXY and the like, whose address may have a password.
        raise InputError(
            f"the proxy in the environment cannot be used ({type(error).__name__}); see to "
            f"HTTP_PROXY, HTTPS_PROXY and ALL_PROXY, or name the host in NO_PROXY"
        ) from None


def _is_too_long(code: str, words: str) -> bool:
    """Tell from OpenAI's words, and vLLM's, that prompt and reply do not fit."""
    phrases = ("context length", "max_model_len")
    return code == "context_length_exceeded" or any(phrase in words.lower() for phrase in phrases)


def _words(error: Exception, timeout: float) -> str:
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        return f"no reply in {timeout:g} s"
    return str(error) if isinstance(error, Unreadable) else f"{type(error).__name__}: {error}"
