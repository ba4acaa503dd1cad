"""Values that a configuration was given as interpolations, and how they are written.

A recipe may say `data.train: ${oc.env:DATA}/train.parquet`. The program works with the value; what
it writes (config.yaml, pages, summaries, what a tracker gets) has the words that were given. A
digest beside them tells whether the value is still the same. It has 16 bits: enough to see a
change, too few to find the value by trying.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

_SHORTEST = 4
"""Shorter values are in every text: they are replaced as the whole value of their field alone."""

_given: dict[tuple[str, str], Any] = {}
"""What was given, by the name of the field and its value as JSON."""

_hidden: dict[str, str] = {}
"""What is written in the place of a text, wherever it stands."""

_COMMENT = "# {} is written as it was given; the digest of its value is {}"
_DIGEST = re.compile(f"^{_COMMENT.format('(.+)', '([0-9a-f]{4})')}$", re.MULTILINE)


def interpolated(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are given with an interpolation, if any of them asks a resolver.

    References to other fields alone are no reason: their values stand in the same file.

    Args:
        raw: by dotted name, not resolved.
    """
    interpolations = {name: value for name, value in raw.items() if "${" in _text(value)}
    return interpolations if any(":" in _text(value) for value in interpolations.values()) else {}


def remember(given: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Keep what was given for fields, to be written in the place of their values.

    Args:
        given: as `interpolated` returns it.
        values: of all fields, by dotted name, as `written` will see them.
    """
    for name, raw in given.items():
        if name in values:
            _given[name, _text(values[name])] = raw
    _hidden.update(substitutes(given, values))


def substitutes(given: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, str]:
    """Return texts that are not to be seen, and what is written in their place."""
    pairs = {
        value: raw
        for name, raw in given.items()
        if isinstance(raw, str) and isinstance(value := values.get(name), str)
    }
    # Whatever the words may ask the environment for: what is made of a value has it in it.
    for name in {word for raw in given.values() for word in re.findall(r"\w+", _text(raw))}:
        if name in os.environ:
            pairs[os.environ[name]] = f"${{oc.env:{name}}}"
    return {value: raw for value, raw in pairs.items() if len(value) >= _SHORTEST}


def hidden(text: str, pairs: Mapping[str, str] | None = None) -> str:
    """Put what was given in the place of its value.

    Args:
        pairs: of `substitutes`; None for all that are remembered.
    """
    pairs = _hidden if pairs is None else pairs
    shown = {value: raw for value, raw in pairs.items() if value in text}
    shown |= {repr(v)[1:-1]: raw for v, raw in pairs.items() if repr(v)[1:-1] in text}
    if not shown:
        return text
    longest_first = sorted(shown, key=len, reverse=True)
    pattern = "|".join(map(re.escape, longest_first))
    return re.sub(pattern, lambda match: shown[match[0]], text)


def written(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the content of a configuration as it is written: with what was given for values."""
    return {key: value_as_written(f"{prefix}{key}", value) for key, value in content.items()}


def value_as_written(name: str, value: Any) -> Any:
    """Return what is written of a field, by its dotted name."""
    if isinstance(value, Mapping):
        return written(value, f"{name}.")
    if (name, _text(value)) in _given:
        return _given[name, _text(value)]
    if isinstance(value, list):
        return [value_as_written("", item) for item in value]
    if not isinstance(value, str):
        return value
    # Resolvers are for what was given alone: other text is to be read as it is.
    escaped = re.sub(r"(\\*)\$\{", lambda match: 2 * match[1] + r"\${", value)
    return hidden(escaped)


def comments(
    content: Mapping[str, Any], shown: Mapping[str, Any], prefix: str = ""
) -> Iterator[str]:
    """Yield a line with the digest of each value that is written as it was given."""
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and isinstance(shown[key], Mapping):
            yield from comments(value, shown[key], f"{name}.")
        elif shown[key] != value:
            yield _COMMENT.format(name, digest(name, value))


def digests(text: str) -> dict[str, str]:
    """Read the digests that `comments` has written, by the names of fields."""
    return {match[1]: match[2] for match in _DIGEST.finditer(text)}


def digest(name: str, value: Any) -> str:
    """Return the digest of a field's value."""
    return hashlib.sha256(f"{name}\n{_text(value)}".encode()).hexdigest()[:4]


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
