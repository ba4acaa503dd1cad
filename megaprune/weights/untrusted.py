"""What every reader of a model's folder asks of it: strict JSON, bounded numbers, plain names.

A folder may be anybody's. Whatever of it cannot be meant is refused by name, before memory is
taken or a file is opened for it.
"""

from __future__ import annotations

import json
import os
import reprlib
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from megaprune.errors import InputError

_DEEPEST = 50
"""How deeply lists and objects of JSON may be nested; config.json has three or four levels."""

JSON_BYTES = 16 << 20
"""How long a JSON file or header may be. Those of the largest models have less than 1 MiB."""

_LONGEST_SHOWN = 200  # characters

_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2
_SHORT.maxdict = _SHORT.maxlist = 10
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


def shown(value: Any) -> str:
    """Return a stranger's value for an error: short, in one line, without control characters."""
    if isinstance(value, str):
        text = repr(value[: _LONGEST_SHOWN + 1])
    else:
        try:
            text = _SHORT.repr(value)  # looks two levels into lists, which may be shared a lot
        except ValueError:  # numbers of very many digits
            text = f"a {type(value).__name__} of too many digits"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def named(name: str) -> str:
    """Return a stranger's name for an error: as it is where it is short and printable."""
    return name if len(name) <= 200 and name.isprintable() else shown(name)


def parse_json(text: bytes, where: str, limit: int = JSON_BYTES) -> Any:
    """Parse JSON in which no name is given twice and no number is infinite.

    Args:
        text: of at most `limit` bytes.
        where: names it in errors.

    Raises:
        InputError: it is longer, not JSON, nested too deeply, or ambiguous.
    """
    if len(text) > limit:
        raise InputError(f"{where} has {len(text)} bytes; expected at most {limit}")
    try:
        content = json.loads(
            text.decode("utf-8"), object_pairs_hook=_once, parse_constant=_refuse_constant
        )
        _check_depth(content)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    except RecursionError:
        raise InputError(f"{where}: it is nested too deeply to be meant") from None
    except ValueError as error:
        raise InputError(f"{where} is not valid JSON: {error}") from error
    return content


def _check_depth(content: Any) -> None:
    level = [content] if isinstance(content, dict | list) else []
    for _ in range(_DEEPEST):
        inner = (v.values() if isinstance(v, dict) else v for v in level)
        level = [v for values in inner for v in values if isinstance(v, dict | list)]
        if not level:
            return
    raise InputError("it is nested too deeply to be meant")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise InputError(f"{named(twice)} is given twice; readers differ in which they take")
    return result


def _refuse_constant(name: str) -> None:
    raise InputError(f"{name} is not a number that JSON has")


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a file that holds a JSON object.

    Raises:
        InputError: it is not a regular file, too long, or not a JSON object (`parse_json`).
    """
    content = parse_json(read_bytes(path, JSON_BYTES), str(path))
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}; expected a JSON object")
    return content


def read_bytes(path: Path, limit: int) -> bytes:
    """Read a regular file of at most `limit` bytes.

    Raises:
        InputError: it is not that; what would have to be waited for is not opened.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path} is not a regular file")
        if status.st_size > limit:
            raise InputError(f"{path} has {status.st_size} bytes; expected at most {limit}")
        with path.open("rb") as file:
            return file.read(limit)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def plain_name(name: Any, where: str) -> str:
    """Return the name of a file beside another, if it can lead nowhere else.

    Raises:
        InputError: it is not the plain name of a file.
    """
    if (
        not isinstance(name, str)
        or not name.isprintable()
        or not 0 < len(name.encode()) < 256
        or name in (".", "..")
        or "/" in name
        or "\\" in name
    ):
        raise InputError(
            f"{where} names the file {shown(name)}; expected the plain name of a file beside it"
        )
    return name


def leads_out(path: Path, folder: Path) -> bool:
    """Say whether a path of a model's folder lies outside of it, once its links are followed.

    The cache of Hugging Face's hub keeps a model as `snapshots/REVISION`, whose files are links
    into `blobs` beside `snapshots`: that is not outside.
    """
    inside = folder.resolve()
    places = [inside]
    blobs = inside.parent.parent / "blobs"
    if inside.parent.name == "snapshots" and blobs.is_dir() and not blobs.is_symlink():
        places.append(blobs)
    real = Path(os.path.realpath(path))
    return not any(real.is_relative_to(place) for place in places)


def check_stays_in(path: Path, folder: Path) -> None:
    """Raise an InputError if a file of a model's folder is a link that leads out of it."""
    if leads_out(path, folder):
        raise InputError(
            f"{path} is a link that leads out of {folder}, to {os.path.realpath(path)}; if that is "
            f"meant, put the file itself there (cp --dereference)"
        )


def is_whole(value: Any, low: int, high: int) -> TypeGuard[int]:
    """Say whether a value is an integer, and not a truth value, from `low` to `high`."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def are_whole(
    values: Any, low: int, high: int, count: int | None = None
) -> TypeGuard[Sequence[int]]:
    """Say whether a value is a list or tuple of such integers, `count` of them if that is given."""
    return (
        isinstance(values, list | tuple)
        and (count is None or len(values) == count)
        and all(is_whole(value, low, high) for value in values)
    )


def check_disjoint(places: Iterable[tuple[int, int, str]], where: str) -> None:
    """Raise an InputError if two byte ranges of a file overlap.

    Args:
        places: first byte, byte behind the last, and what lies there.
        where: names the file.
    """
    end, before = 0, ""
    for start, stop, name in sorted(places):
        if start < end:
            raise InputError(f"{where}: {named(name)} and {named(before)} overlap")
        end, before = stop, name
