"""Messages in a model's chat template, rendered in a process that cannot do any harm."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from megaprune.data.template_worker import CPU_SECONDS, MEMORY_BYTES, WALL_SECONDS
from megaprune.errors import InputError
from megaprune.grading import wire

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ALL_CHARACTERS, _MEAN_CHARACTERS = 1 << 30, 1 << 13
"""Of all prompts of a data set together: so many, and so many more for each."""

_AT_ONCE = 64
"""Conversations to a message: waiting for each alone would take twice as long."""

_START_SECONDS = 120.0  # a cluster's file system may take long to import from

_KEPT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR")
"""The variables that the process gets: none of them is a secret."""

Messages = Sequence[Mapping[str, str]]


def render(tokenizer: PreTrainedTokenizerBase, messages: Messages, where: str) -> str:
    """Write one conversation as the text that the model answers to; see `ChatRenderer`."""
    with ChatRenderer(tokenizer, where) as renderer:
        return renderer.render([messages], [where])[0]


class ChatRenderer:
    """Writes conversations as the texts that the model answers to.

    The template runs in a process of its own, with limits to CPU time, memory and output. To be
    used as a context manager.

    Args:
        tokenizer: with the template.
        where: the words for where the conversations are from.
        enable_thinking: a variable of the template, as Qwen3's has it; None: it is not set.

    Raises:
        InputError: the tokenizer has several templates, and none that is meant here; or its
            template does not know the variable.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        where: str,
        enable_thinking: bool | None = None,
    ):
        self._name = tokenizer.name_or_path
        try:
            template = tokenizer.get_chat_template()
        except ValueError as error:
            raise InputError(f"{where}, column prompt: {error}") from error
        variables: dict[str, Any] = dict(tokenizer.special_tokens_map)
        if enable_thinking is not None:
            if "enable_thinking" not in template:
                raise InputError(
                    f"enable_thinking={str(enable_thinking).lower()}: the chat template of "
                    f"{self._name} has no such variable, and would make the same prompts with it; "
                    f"expected null"
                )
            variables["enable_thinking"] = enable_thinking
        setup = {"template": template, "variables": variables}
        self._opened = _worker(setup)
        self._prompts = self._characters = 0

    def __enter__(self) -> ChatRenderer:
        self._ask = self._opened.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._opened.__exit__(*error)

    def render(self, conversations: Sequence[Messages], places: Sequence[str]) -> list[str]:
        """Return the texts of some conversations.

        Args:
            places: the words for where each conversation is from.

        Raises:
            InputError: the template refuses a conversation, makes nothing of it, or reaches a
                limit.
        """
        texts: list[str] = []
        for first in range(0, len(conversations), _AT_ONCE):
            some = conversations[first : first + _AT_ONCE]
            answers = self._ask([[dict(message) for message in messages] for messages in some])
            for messages, place in zip(some, places[first : first + _AT_ONCE], strict=True):
                texts.append(self._checked(next(answers), messages, place))
        return texts

    def _checked(self, answer: Mapping[str, str], messages: Messages, place: str) -> str:
        roles = [message["role"] for message in messages]
        start = f"{place}, column prompt: the chat template of {self._name}"
        if "error" in answer:
            raise InputError(
                f"{start} refuses messages of roles {roles} ({answer['error']}); change "
                f"the roles to those that it expects, or fix chat_template.jinja"
            )
        if not answer["text"]:
            raise InputError(
                f"{start} makes no text of messages of roles {roles}; change the roles, "
                f"or fix chat_template.jinja"
            )
        self._prompts += 1
        self._characters += len(answer["text"])
        most = _ALL_CHARACTERS + _MEAN_CHARACTERS * self._prompts
        if self._characters > most:
            raise InputError(
                f"{start} makes more than {most} characters of the data set's "
                f"first {self._prompts} prompts; fix chat_template.jinja"
            )
        return answer["text"]


@contextmanager
def _worker(setup: dict[str, Any]) -> Iterator[Any]:
    """Start a process that renders; yields what takes conversations and yields its answers."""
    channel, theirs = socket.socketpair()
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    with channel:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "megaprune.data.template_worker"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={**{k: os.environ[k] for k in _KEPT if k in os.environ}, "PYTHONPATH": path},
                start_new_session=True,  # Ctrl-C in a terminal is for the trainer
            )

        def ask(conversations: list[Any]) -> Iterator[dict[str, str]]:
            wait = _START_SECONDS
            try:
                wire.send(channel, conversations, wait)
                for _ in conversations:
                    yield wire.receive(channel, wait)
                    wait = WALL_SECONDS
            except TimeoutError:
                yield {"error": f"it was not done after {wait:g} s"}
            except (EOFError, OSError):
                yield {"error": _ended(process)}

        try:
            # If it is dead already, who asks sees that.
            with suppress(OSError):
                wire.send(channel, setup, _START_SECONDS)
            yield ask
        finally:
            process.kill()
            process.wait()


def _ended(process: subprocess.Popen[bytes]) -> str:
    """Say what the process died of, which a template that reaches no limit cannot bring about."""
    code = process.wait(WALL_SECONDS)
    if code == -signal.SIGPROF:
        return f"it was not done after {CPU_SECONDS:g} s of CPU time"
    return (
        f"its process ended with status {code}; it may have {MEMORY_BYTES} bytes of memory. Its "
        f"standard error may tell why"
    )
