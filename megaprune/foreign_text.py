"""Words of others (servers, data, folders, users' addresses) on their way to a person or a file."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_SECRET = "***"
_RUN = 8
"""As many characters in a row of a secret are taken for a part of it."""

_SHORTEST = 4

_PASSWORD = re.compile(r"(?<=://)[^\s'\"<>]*@")

_UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode's categories of characters that move the cursor, hide or turn text, or are none."""

_HARMLESS = "\n\t\u200c\u200d"
"""The last two join letters in some scripts, and emoji."""


def printable(text: str) -> str:
    r"""Write control characters as \x1b is written, so that a terminal only shows them.

    Line breaks and tabs stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    if unicodedata.category(character) not in _UNSAFE or character in _HARMLESS:
        return character
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def without_passwords(text: str) -> str:
    """Put *** in the place of user and password in each address with a scheme."""
    return _PASSWORD.sub(f"{_SECRET}@", text) if "://" in text else text


def for_people(text: str) -> str:
    """Make words fit for a terminal: passwords are hidden, control characters are shown."""
    return printable(without_passwords(text))


def masked(text: str, secrets: Iterable[str]) -> str:
    """Put *** in the place of secrets, and of every part of one that has 8 characters or more.

    What has fewer than 4 characters is no secret: it is in every text.
    """
    for secret in secrets:
        text = _without(text, secret)
    return text


def _without(text: str, secret: str) -> str:
    size = min(_RUN, len(secret))
    if size < _SHORTEST:
        return text
    places: set[int] = set()
    for part in {secret[at : at + size] for at in range(len(secret) - size + 1)}:
        at = text.find(part)
        while at >= 0:
            places.add(at)
            at = text.find(part, at + 1)
    kept, end, cut = [], 0, -1  # what lies before `end` is written; a secret lies before `cut`
    for at in sorted(places):
        if at > cut:
            kept += [text[end:at], _SECRET]
        end = cut = at + size
    return "".join([*kept, text[end:]])


def terminal(**options: Any) -> Console:
    """Make a rich console that prints what it is given as `for_people` has it.

    Args:
        options: of rich's Console; without `markup` square brackets are what they are.
    """
    from rich.console import Console
    from rich.segment import Segment

    class PrintableConsole(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(printable(text), **options)  # so that its width is right

        def render(self, renderable: Any, options: Any = None) -> Iterator[Segment]:
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else printable(text), style, control)

    return PrintableConsole(**{"markup": False, **options})
