"""The process that renders: `python -m megaprune.data.template_worker`, started for a data set.

A chat template comes with a model, and is a program: it can loop, and ask for any memory. Here it
can do that to a process of its own, which the kernel ends. Its standard input is a socket. The
first message has the template; then each message has conversations, and each of these is answered
by its text or an error.
"""

from __future__ import annotations

import datetime
import json
import os
import resource
import signal
import socket
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from megaprune.grading import wire

MEMORY_BYTES = 1 << 30
"""Of address space, Python's own (some 100 MB) included."""

CPU_SECONDS = 5.0
"""For a conversation. One of 30,000 characters takes a millisecond."""

WALL_SECONDS = 60.0
"""For the same, and for the next message to come."""

TEXT_CHARACTERS = 16 << 20
"""Of a prompt."""

_WORDS = 1000  # characters of an error


def main() -> None:
    """Render until the socket closes."""
    channel = socket.socket(fileno=os.dup(0))
    setup = wire.receive(channel, WALL_SECONDS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    template: jinja2.Template | None = None
    while True:
        try:
            conversations = wire.receive(channel, WALL_SECONDS)
        except (EOFError, OSError):
            return
        for messages in conversations:
            _arm(CPU_SECONDS)
            try:
                template = template or environment().from_string(setup["template"])
                answer = _rendered(template, messages, setup["variables"])
            # A template may raise anything; what a limit stops is an error of the template too.
            except Exception as error:  # noqa: BLE001
                answer = {"error": f"{type(error).__name__}: {str(error)[:_WORDS]}"}
            _arm(0)
            wire.send(channel, answer, WALL_SECONDS)


def _rendered(
    template: jinja2.Template, messages: list[dict[str, str]], variables: dict[str, Any]
) -> dict[str, str]:
    text = template.render(
        messages=messages, tools=None, documents=None, add_generation_prompt=True, **variables
    )
    if len(text) > TEXT_CHARACTERS:
        return {"error": f"a prompt of {len(text)} characters; at most {TEXT_CHARACTERS}"}
    return {"text": text}


def _arm(seconds: float) -> None:
    """Let the kernel end this process after so many seconds of CPU time; 0: do not."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)


class _Generation(jinja2.ext.Extension):
    """Takes `{% generation %}`, with which templates mark what a model has said, as nothing."""

    tags = {"generation"}

    def parse(self, parser: Any) -> Any:
        """Return a block that is what is inside of it."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        block = jinja2.nodes.CallBlock(self.call_method("_inside"), [], [], body)
        return block.set_lineno(line)

    def _inside(self, caller: Any) -> Any:
        return caller()


def environment() -> jinja2.Environment:
    """Return what transformers renders chat templates in."""
    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    sandbox.filters["tojson"] = _to_json
    sandbox.globals["raise_exception"] = _raise
    sandbox.globals["strftime_now"] = _now
    return sandbox


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


if __name__ == "__main__":
    main()
