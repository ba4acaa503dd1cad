"""Dataclasses from a recipe and key=value: typed, and unknown names refused with the nearest."""

from __future__ import annotations

import difflib
import importlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from megaprune.errors import InputError
from megaprune.recipes import RECIPES

T = TypeVar("T")


def read_fields(kind: type[T], arguments: Sequence[str]) -> T:
    """An object from `recipe=NAME` and any field as `key=value`; later ones win.

    A list is given as a,b,c or [a,b,c].

    Args:
        kind: dataclass of dataclasses, whose fields all have defaults; "???" stands for none.
        arguments: a recipe is a name, or a YAML file as `to_yaml` makes it. Of a named one the
            fields that `kind` does not have are left out: training takes a round of a pruning.

    Raises:
        InputError: no such recipe or field (says the nearest), a value of another type, or a field
            that needs a value and has none.
    """
    given = dict(_pair(argument) for argument in arguments)
    made = OmegaConf.structured(kind)
    try:
        made.merge_with(_recipe(kind, given.pop("recipe", None)))
        known = _Known(kind)
        for key in given:
            known.check(key)
        made.merge_with_dotlist([f"{k}={known.as_yaml(k, v)}" for k, v in given.items()])
        missing = sorted(OmegaConf.missing_keys(made))
        if missing:
            raise InputError(
                f"{', '.join(missing)} must be given, as {missing[0]}=...; or begin with a recipe: "
                f"recipe={next(iter(RECIPES))}"
            )
        found: Any = OmegaConf.to_object(made)
    except OmegaConfBaseException as error:
        where = f"{error.full_key}: " if error.full_key else ""
        said = f"{where}{str(error).splitlines()[0]}{_expected(kind, error.full_key)}"
        raise InputError(said) from error
    assert isinstance(found, kind)
    return found


def read_recipe(name: str) -> Any:
    """The fields that a named recipe makes: of a run, a pruning or an evaluation.

    Raises:
        InputError: there is no such recipe; says the nearest.
    """
    if name not in RECIPES:
        raise InputError(f"there is no recipe {name!r}; {nearest(name, list(RECIPES))}")
    module, _, function = RECIPES[name].partition(":")
    return getattr(importlib.import_module(module), function)()


def to_yaml(made: Any) -> str:
    """As a YAML file that `read_fields` takes for a recipe."""
    return OmegaConf.to_yaml(OmegaConf.structured(made))


def differences(made: Any, written: str, may_change: Sequence[str]) -> list[str]:
    """Fields that differ from those of a folder and must not, since it would be another's.

    Args:
        made: what is asked for now.
        written: the YAML in the folder.
        may_change: fields that may differ.

    Raises:
        InputError, OmegaConfBaseException, YAMLError: the YAML is not that of such an object.
    """
    before = dict(leaves(OmegaConf.to_object(_typed(type(made), written))))
    return [
        f"{name}={now!r} (the run's: {before[name]!r})"
        for name, now in leaves(made)
        if name not in may_change and before[name] != now
    ]


def leaves(made: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All fields with their dotted names."""
    for one in fields(made):
        value = getattr(made, one.name)
        if is_dataclass(value):
            yield from leaves(value, f"{prefix}{one.name}.")
        else:
            yield prefix + one.name, value


def nearest(word: str, known: Sequence[str]) -> str:
    """Advice for a misspelt name."""
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    last = word.rpartition(".")[2]
    close += [k for k in known if k.rpartition(".")[2] == last and k not in close]
    if close:
        return f"did you mean {' or '.join(close[:3])}?"
    return f"expected one of {', '.join(known)}"


Rule = tuple[Sequence[str], Callable[[Any], bool], str]
"""Fields, what must hold of each that is not null, and the words for it."""


def more_than_zero(*names: str) -> Rule:
    """A rule."""
    return names, lambda value: value > 0, "more than 0"


def not_negative(*names: str) -> Rule:
    """A rule."""
    return names, lambda value: value >= 0, "0 or more"


def one_at_most(*names: str) -> Rule:
    """A rule."""
    return names, lambda value: value <= 1, "1 at most"


def less_than_one(*names: str) -> Rule:
    """A rule."""
    return names, lambda value: value < 1, "less than 1"


def one_of(name: str, some: Sequence[str]) -> Rule:
    """A rule."""
    return (name,), lambda value: value in some, f"one of {', '.join(some)}"


def check_rules(made: Any, rules: Sequence[Rule]) -> None:
    """See that numbers are finite and all rules hold.

    Raises:
        InputError: one does not; says the field, what it is and what was expected.
    """
    values = dict(leaves(made))
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{name}={value}; expected a finite number")
    for names, fits, words in rules:
        for name in names:
            value = values[name]
            if value is not None and not fits(value):
                shown = repr(value) if isinstance(value, str) else value
                raise InputError(f"{name}={shown}; expected {words}")


class _Known:
    """The fields of a dataclass, by dotted name."""

    def __init__(self, kind: type):
        self._blank = dict(leaves(kind()))

    def check(self, key: str) -> None:
        of_a_table = [n for n, v in self._blank.items() if isinstance(v, dict)]
        if key in self._blank or any(key.startswith(f"{name}.") for name in of_a_table):
            return
        raise InputError(f"there is no field {key!r}; {nearest(key, list(self._blank))}")

    def as_yaml(self, key: str, value: str) -> str:
        is_list = isinstance(self._blank.get(key), list)
        return f"[{value}]" if is_list and not value.startswith("[") else value


def _pair(argument: str) -> tuple[str, str]:
    key, equals, value = argument.partition("=")
    if not equals or not key:
        raise InputError(f"{argument!r} is not of the form key=value, as in steps=2")
    return key, value


_WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}


def _expected(kind: type, key: str | None) -> str:
    """What a field takes, for a message; nothing where that is not simple to say."""
    at: Any = kind()
    *path, last = (key or "").split(".")
    for name in path:
        at = getattr(at, name, None)
    kinds = {f.name: _name(f.type) for f in fields(at)} if is_dataclass(at) else {}
    word, optional, _ = kinds.get(last, "").partition(" | None")
    return f"; expected {_WORDS[word]}{' or null' if optional else ''}" if word in _WORDS else ""


def _name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _recipe(kind: type, name: str | None) -> Any:
    if name is None:
        return {}
    if name.endswith((".yaml", ".yml")):
        try:
            return _typed(kind, Path(name).read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"recipe {name} cannot be read: {error.strerror}") from error
        except (YAMLError, UnicodeDecodeError) as error:
            said = " ".join(str(error).split())
            raise InputError(
                f"recipe {name} is no YAML ({said}); expected what --print-config prints"
            ) from error
    made = read_recipe(name)
    content = OmegaConf.to_container(OmegaConf.structured(made))
    assert isinstance(content, dict)
    wanted = {one.name for one in fields(kind)}
    return {key: value for key, value in content.items() if key in wanted}


def _typed(kind: type, text: str) -> Any:
    content = OmegaConf.create(text)
    if not isinstance(content, Mapping):
        raise InputError("a recipe is a YAML mapping of fields to values")
    known = _Known(kind)
    for key in _dotted(OmegaConf.to_container(content)):
        known.check(key)
    return OmegaConf.merge(OmegaConf.structured(kind), content)


def _dotted(content: Any, prefix: str = "") -> Iterator[str]:
    for key, value in content.items():
        if isinstance(value, dict) and value:
            yield from _dotted(value, f"{prefix}{key}.")
        elif value != {}:
            yield f"{prefix}{key}"
