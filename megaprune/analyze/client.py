"""Chat completions from an endpoint that speaks OpenAI's protocol, of whatever server."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from megaprune.analyze.settings import Endpoint, warn
from megaprune.errors import InputError

_LONGEST_PAUSE = 60.0  # seconds, between attempts, unless the server asks for more
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
        headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
        self._http = httpx.AsyncClient(headers=headers, timeout=endpoint.timeout)

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
                raise NoReply(f"{self._endpoint.url}: {result.words}")
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
            response = await self._http.post(
                self._endpoint.url.rstrip("/") + "/chat/completions", json=body
            )
        except httpx.TransportError as error:
            return _Failure(_words(error, self._endpoint.timeout), None)
        if response.status_code == 200 and (reply := _completion(response, body)):
            return reply
        words = self._refused(response, body)
        if words is None:
            return await self._attempt(asked)
        return _Failure(words, _retry_after(response))

    async def _pause(self, attempt: int, failure: _Failure) -> None:
        if failure.retry_after is None:
            # Twice as long each time, and not all at the same moment.
            pause = min(2.0**attempt, _LONGEST_PAUSE) * random.uniform(0.75, 1.25)
            await self._sleep(pause)
            return
        # The server says it of its limits, and so to all requests.
        self._next = max(self._next, time.monotonic() + failure.retry_after)
        if failure.retry_after >= _SAY_PAUSES_OF:
            warn(
                f"{self._endpoint.url} asks for a pause of {failure.retry_after:.0f} s "
                f"({failure.words})"
            )

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)

    def _refused(self, response: httpx.Response, body: Mapping[str, Any]) -> str | None:
        """Say what went wrong that may pass; None if the request has been changed instead."""
        status, words, code = response.status_code, self._server_message(response), _code(response)
        answer = f"status {status}, {words}"
        if status == 413 or (status == 400 and _is_too_long(code, words)):
            raise TooLong(words)
        if status in (401, 403):
            variable = self._endpoint.key_variable
            does = "does not accept the key in" if self._endpoint.key else "wants a key: set"
            raise InputError(
                f"{self._endpoint.url} {does} the environment variable {variable} ({answer}); "
                f"--key-variable names another one"
            )
        if status == 404:
            raise InputError(
                f"{self._endpoint.url} has no model {self._endpoint.model!r}, or is not where chat "
                f"completions are ({answer}); expected {_FORM} and a model that its /models lists"
            )
        if status == 400 and self._adapt(words, _param(response), body):
            return None
        may_pass = status in (200, 408, 409, 425, 429) or status >= 500
        if not may_pass or code == "insufficient_quota":
            raise InputError(f"{self._endpoint.url} refuses the request ({answer})")
        return answer

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
                    warn(f"{self._endpoint.url} refuses {refused} ({words}); asked without it")
                self._without.add(refused)
                return True
        return False

    def _server_message(self, response: httpx.Response) -> str:
        """Read what the server said, in a line; never the key, which some servers repeat."""
        error = _error(response)
        words = error.get("message") or response.text or response.reason_phrase
        if self._endpoint.key:
            words = str(words).replace(self._endpoint.key, "***")
        words = " ".join(str(words).split())
        return words if len(words) <= 300 else words[:300] + "..."


def _check(endpoint: Endpoint) -> None:
    try:
        url = httpx.URL(endpoint.url)
    except httpx.InvalidURL as error:
        raise InputError(f"--endpoint {endpoint.url}: {error}; expected {_FORM}") from error
    if url.scheme not in ("http", "https") or not url.host or url.query:
        raise InputError(f"--endpoint {endpoint.url}; expected {_FORM}")
    if endpoint.key and not (endpoint.key.isascii() and endpoint.key.isprintable()):
        raise InputError(
            f"the environment variable {endpoint.key_variable} has more than a key in it, such as "
            f"a line break; set it to the key alone"
        )


def _completion(response: httpx.Response, body: Mapping[str, Any]) -> Completion | None:
    """Read a reply; None if the server answered something else."""
    try:
        content = response.json()
        choice, usage = content["choices"][0], content.get("usage") or {}
        text = choice["message"].get("content")
        return Completion(
            text=text if isinstance(text, str) else "",
            finish=str(choice.get("finish_reason")),
            tokens_in=usage.get("prompt_tokens"),
            tokens_out=usage.get("completion_tokens"),
            structured="response_format" in body,
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return None


def _error(response: httpx.Response) -> Mapping[str, Any]:
    try:
        content = response.json()
    except ValueError:
        return {}
    error = content.get("error", content) if isinstance(content, dict) else {}
    return error if isinstance(error, dict) else {"message": error}


def _code(response: httpx.Response) -> str:
    return str(_error(response).get("code", ""))


def _param(response: httpx.Response) -> str:
    return str(_error(response).get("param") or "")


def _is_too_long(code: str, words: str) -> bool:
    """Tell from OpenAI's words, and vLLM's, that prompt and reply do not fit."""
    phrases = ("context length", "max_model_len")
    return code == "context_length_exceeded" or any(phrase in words.lower() for phrase in phrases)


def _retry_after(response: httpx.Response) -> float | None:
    """Read how many seconds the server asks to wait, in either of HTTP's two forms."""
    header = response.headers.get("Retry-After", "")
    if header.strip().isdigit():
        return float(header)
    try:
        when = parsedate_to_datetime(header)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=timezone.utc)
    return max(0.0, (when - datetime.now(timezone.utc)).total_seconds())


def _words(error: httpx.TransportError, timeout: float) -> str:
    if isinstance(error, httpx.TimeoutException):
        return f"no reply in {timeout:g} s"
    return f"{type(error).__name__}: {error}"
