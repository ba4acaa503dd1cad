"""Classes and functions of the user's own, by `path/to/file.py:Name` or `module:Name`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from megaprune.errors import InputError

_PREFIX = "megaprune_user_code"

_names: dict[str, str] = {}
"""Paths as they were given, by the name of the module that was made of the file."""


def is_own(name: str) -> bool:
    """Say whether a name is of this form."""
    module, colon, attribute = name.rpartition(":")
    return bool(module and colon and attribute)


def load(name: str, what: str) -> object:
    """What a name stands for. Runs the user's module, once for the same file content.

    Args:
        name: `path/to/file.py:Name` or `module:Name`.
        what: that it is to be, such as "a reward", for messages.

    Raises:
        InputError: there is no such file or name in it, or it cannot be imported.
    """
    module_name, _, attribute = name.rpartition(":")
    module = _module(module_name, what)
    if not hasattr(module, attribute):
        from megaprune.config.fields import nearest  # a grader's process starts without it

        names = [
            key
            for key, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", None) == module.__name__
        ]
        advice = f"; {nearest(attribute, names)}" if names else ""
        raise InputError(f"{module_name} has no {attribute!r}, which is to be {what}{advice}")
    return getattr(module, attribute)


def name_of(own: type) -> str:
    """Return the name that `load` finds a class by."""
    return f"{_names.get(own.__module__, own.__module__)}:{own.__qualname__}"


def _module(name: str, what: str) -> ModuleType:
    try:
        if not name.endswith(".py"):
            return importlib.import_module(name)
        path = Path(name).absolute()
        if not path.is_file():
            raise InputError(f"{path}: there is no such file, which is to hold {what}")
        return _from_file(name, path)
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - a user's module may raise anything
        raise InputError(
            f"cannot import {name}, which is to hold {what}: {type(error).__name__}: {error}"
        ) from error


def _from_file(name: str, path: Path) -> ModuleType:
    """The module of a file. Another content is another module: a notebook may have edited it."""
    digest = hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:16]
    key = f"{_PREFIX}_{path.stem}_{digest}"
    if key in sys.modules:
        return sys.modules[key]
    spec = importlib.util.spec_from_file_location(key, path)
    assert spec is not None
    assert spec.loader is not None  # the name ends in .py
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their annotations up there, and pickles their classes.
    sys.modules[key] = module
    _names[key] = name
    try:
        # Not by the loader: it would take bytecode of an older text of the same size and second.
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)  # noqa: S102
    except BaseException:
        del sys.modules[key], _names[key]
        raise
    return module
