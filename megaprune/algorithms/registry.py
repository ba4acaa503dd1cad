"""Rewards, advantages, filters and losses by name, and the user's own by `file.py:Class`.

A component is a frozen dataclass with a `__call__`. Those that come with megaprune say their name
in a class variable `name`; a file in `rewards/` needs no other entry anywhere.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from types import ModuleType
from typing import Any

from megaprune import user_code
from megaprune.algorithms.component_fields import (
    FieldDescription,
    describe,
    field_types,
    read_values,
)
from megaprune.algorithms.presets import DEFAULT, PRESETS
from megaprune.config.fields import nearest
from megaprune.errors import InputError

_MODULES = {
    "reward": ("megaprune.algorithms.rewards",),
    "advantage": ("megaprune.algorithms.advantages",),
    "filter": ("megaprune.algorithms.filters",),
    "loss": ("megaprune.algorithms.losses", "megaprune.algorithms.pair_losses"),
}
"""Where the components of each kind are: in these modules, or in those of these packages."""

CALLS = {
    "reward": ("group",),
    "advantage": ("rewards",),
    "filter": ("group", "rewards"),
    "loss": ("batch",),
}
"""What a component of each kind is called with; `arguments_of` has the exceptions."""

ADVANTAGE_ARGUMENTS = ("rewards", "parts", "weights", "length")
"""What an advantage can ask for in its `arguments` (see `algorithms.advantages`)."""


DEFAULT_NAMES = {
    "reward": PRESETS[DEFAULT].spec["rewards"][0]["name"],
    **{kind: PRESETS[DEFAULT].spec[kind]["name"] for kind in ("advantage", "filter", "loss")},
}
"""The component of each kind where nothing is said."""


@cache
def components(kind: str) -> Mapping[str, type]:
    """The components of a kind that come with megaprune, by name."""
    return {
        cls.__dict__["name"]: cls
        for name in _MODULES[kind]
        for module in _modules(importlib.import_module(name))
        for cls in vars(module).values()
        if isinstance(cls, type) and cls.__module__ == module.__name__
        if is_dataclass(cls) and "name" in cls.__dict__
    }


def build(kind: str, spec: Mapping[str, Any], where: str) -> Any:
    """A component from its name and its fields.

    Args:
        kind: reward, advantage, filter or loss.
        spec: `name`, and values for fields as YAML has them.
        where: the dotted name of the spec, such as algorithm.reward, for messages.

    Raises:
        InputError: no such component or field, a value that does not fit, or a class that cannot
            be one of this kind.
    """
    given = dict(spec)
    name = given.pop("name", None)
    if not isinstance(name, str):
        raise InputError(f"{where}.name={name}; expected one of {', '.join(components(kind))}")
    cls = _class(kind, name, f"{where}.name")
    _explain_field_of_others(kind, cls, given, where)
    values = read_values(cls, given, where, name)
    try:
        return cls(**values)
    except InputError as error:
        raise InputError(f"{where}.{error}") from error
    except Exception as error:
        if name in components(kind):
            raise
        raise InputError(f"{where}: {name}: {describe_error(error)}") from error


def to_spec(kind: str, component: Any) -> dict[str, Any]:
    """The plain dictionary that `build` makes this component of."""
    values = {f.name: _plain(getattr(component, f.name)) for f in fields(component) if f.init}
    return {"name": name_of(kind, component), **values}


def name_of(kind: str, component: Any) -> str:
    """The name that a component is chosen by."""
    cls = type(component)
    name = class_label(cls)
    return name if components(kind).get(name) is cls else user_code.name_of(cls)


def is_own(kind: str, component: Any) -> bool:
    """Whether a component is the user's own."""
    return type(component) not in components(kind).values()


def arguments_of(kind: str, cls: type, name: str) -> tuple[str, ...]:
    """What a component's class is called with.

    Raises:
        InputError: its `arguments` name something that there is not.
    """
    if kind != "advantage" or not hasattr(cls, "arguments"):
        return CALLS[kind]
    arguments = tuple(cls.arguments)
    if unknown := set(arguments) - set(ADVANTAGE_ARGUMENTS):
        raise InputError(
            f"{name} has {min(unknown)!r} among its `arguments`; expected some of "
            f"{', '.join(ADVANTAGE_ARGUMENTS)}"
        )
    return arguments


def check_component(kind: str, cls: type, name: str) -> None:
    """See that a class can be a component: a dataclass that is called with the right arguments.

    Raises:
        InputError: it cannot be.
    """
    arguments = arguments_of(kind, cls, name)
    wanted = f"a frozen dataclass with __call__(self, {', '.join(arguments)})"
    if not isinstance(cls, type):
        raise InputError(f"{name} is {_what(cls)}; expected the class of {_a(kind)}: {wanted}")
    if not is_dataclass(cls):
        raise InputError(f"{name} is not a dataclass; expected {wanted}")
    reserved = {"name"} | ({"weight"} if kind == "reward" else set())
    if taken := reserved & {field.name for field in fields(cls)}:
        raise InputError(
            f"{name} has a field {min(taken)!r}, which every {kind}'s entry has already"
        )
    call = next((vars(c)["__call__"] for c in cls.__mro__ if "__call__" in vars(c)), None)
    if call is None:
        raise InputError(f"{name} has no __call__; expected {wanted}")
    try:
        inspect.signature(call).bind(None, *arguments)
    except TypeError as error:
        raise InputError(
            f"{name}.__call__{inspect.signature(call)} cannot be called with "
            f"({', '.join(arguments)}): {error}; expected {wanted}"
        ) from error
    field_types(cls)


def describe_components() -> Iterator[FieldDescription]:
    """The fields of every component that comes with megaprune."""
    for kind in _MODULES:
        names = ", ".join(components(kind))
        yield FieldDescription(
            f"algorithm.{kind}.name",
            "text",
            DEFAULT_NAMES[kind],
            f"the {kind}: {names}; or your own, as path/to/file.py:Class or module:Class",
            "",
        )
        for name, cls in components(kind).items():
            yield from describe(cls, f"algorithm.{kind}", name)


def describe_error(error: BaseException) -> str:
    """An error of a user's code in one line, with the place where it was raised."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "site-packages" not in frame.filename
    ]
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}{place}"


def _modules(module: ModuleType) -> Iterator[ModuleType]:
    yield module
    for found in pkgutil.iter_modules(getattr(module, "__path__", ())):
        yield importlib.import_module(f"{module.__name__}.{found.name}")


def _class(kind: str, name: str, where: str) -> type:
    known = components(kind)
    if name in known:
        return known[name]
    if not user_code.is_own(name):
        raise InputError(
            f"{where}={name!r}; {nearest(name, list(known))} (your own: path/to/file.py:Class or "
            f"module:Class)"
        )
    try:
        cls: Any = user_code.load(name, _a(kind))
        check_component(kind, cls, name)
    except InputError as error:
        raise InputError(f"{where}={name!r}: {error}") from error
    assert isinstance(cls, type)
    return cls


def _explain_field_of_others(kind: str, cls: type, given: Mapping[str, Any], where: str) -> None:
    """Say which component has a field that this one has not."""
    own = {field.name for field in fields(cls)}
    for key in given:
        others = [
            name
            for name, other in components(kind).items()
            if key in {field.name for field in fields(other)}
        ]
        if key not in own and others:
            advice = " or ".join(f"{where}.name={name}" for name in others)
            raise InputError(
                f"{where}.{key}: {class_label(cls)} has no such field; choose what has it with "
                f"{advice}"
            )


def class_label(cls: type) -> str:
    """The name of a component's class, for messages."""
    return str(cls.__dict__.get("name", cls.__name__))


def _plain(value: Any) -> Any:
    """As YAML can hold it."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


def _a(kind: str) -> str:
    return f"an {kind}" if kind == "advantage" else f"a {kind}"


def _what(value: object) -> str:
    return "a function" if inspect.isroutine(value) else f"a {type(value).__name__}"
