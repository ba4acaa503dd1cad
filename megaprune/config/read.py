"""Configurations from a recipe and key=value: typed, and unknown names refused with the nearest."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from megaprune.config.fields import (
    FieldDoc,
    describe,
    leaves,
    may_change,
    nearest,
    plain,
    required,
    sections,
    unknown,
)
from megaprune.config.given import (
    comments,
    digest,
    digests,
    hidden,
    interpolated,
    remember,
    substitutes,
    written,
)
from megaprune.config.renamed import new_name
from megaprune.errors import InputError
from megaprune.recipes import RECIPES, RENAMED
from megaprune.yaml_text import check_yaml

T = TypeVar("T")

_UNREADABLE = (
    InputError, OmegaConfBaseException, YAMLError,
    ValueError, TypeError, AttributeError, AssertionError, OverflowError, RecursionError,
)  # fmt: skip
"""What OmegaConf and YAML raise for texts that are no configuration."""


def read_fields(kind: type[T], arguments: Sequence[str]) -> T:
    """An object from `recipe=NAME` and any field as `key=value`; later ones win.

    A list is given as a,b,c or [a,b,c].

    Args:
        kind: a configuration's class (see `config.fields`).
        arguments: a recipe is a name, or a YAML file as `to_yaml` makes it. Of a named one the
            fields that `kind` does not have are left out: training takes a round of a pruning.

    Raises:
        InputError: no such recipe or field (says the nearest), a value that a field cannot have, or
            a field that needs a value and has none.
    """
    given = dict(_pair(argument) for argument in arguments)
    content = OmegaConf.create(_recipe(kind, given.pop("recipe", None)))
    docs = {doc.name: doc for doc in describe(kind)}
    changes = OmegaConf.create({})
    for key, text in given.items():
        _check_known(docs, key)
        try:
            value = _value(docs.get(key), text)
            if key in docs and docs[key].is_spec and isinstance(value, str):
                key, value = f"{key}.preset", value
            of_spec = any(doc.is_spec and _inside(key, doc.name) for doc in docs.values())
            OmegaConf.update(changes if of_spec else content, key, value)
        except _UNREADABLE as error:
            raise InputError(f"{key}={text} cannot be read: {_first_line(error)}") from error
    for name, change in _plain(changes).items():
        base = _plain(content).get(name)
        merge = docs[name].python_type.merge_specs
        content[name] = change if base is None else merge(base, change)
    return _object(kind, content)


def read_recipe(name: str) -> Any:
    """The configuration that a named recipe makes: of a run, a pruning or an evaluation.

    Raises:
        InputError: there is no such recipe; says the nearest, or the name that it has now.
    """
    if name in RENAMED:
        raise InputError(f"there is no recipe {name!r}; its name is {RENAMED[name]!r}")
    if name not in RECIPES:
        raise InputError(f"there is no recipe {name!r}; {nearest(name, list(RECIPES))}")
    module, _, function = RECIPES[name].partition(":")
    return getattr(importlib.import_module(module), function)()


def to_yaml(config: Any) -> str:
    """A configuration as a YAML file that `read_fields` takes for a recipe.

    What was given as an interpolation (`${oc.env:NAME}`) is written so, with a digest of its value.
    """
    content = plain(config)
    shown = written(content)
    lines = "".join(f"{line}\n" for line in comments(content, shown))
    return OmegaConf.to_yaml(OmegaConf.create(shown)) + lines


def as_written(config: Any) -> dict[str, Any]:
    """A configuration as nested dictionaries, as `to_yaml` writes it: for others' eyes."""
    return written(plain(config))


def from_yaml(kind: type[T], text: str) -> T:
    """A configuration from the text of a YAML file.

    Raises:
        InputError: it is no YAML, or not that of such a configuration.
    """
    return _object(kind, _content(kind, text))


def differences(config: Any, text: str) -> list[str]:
    """Fields that differ from those of a run's YAML and may not, since it would be another run.

    Args:
        config: what is asked for now.
        text: the YAML in the run's folder.

    Raises:
        InputError: it is no YAML, or not that of such a configuration.
    """
    free, stored = may_change(type(config)), digests(text)
    before = dict(leaves(from_yaml(type(config), text)))
    changed = []
    for name, value in leaves(config):
        if name in free or _digested(name, value, stored, digest) == _digested(
            name, before[name], stored, lambda inner, _: stored[inner]
        ):
            continue
        if any(_inside(inner, name) for inner in stored):
            changed.append(f"{name} has another value than the run's, which was given as ${{...}}")
        else:
            changed.append(hidden(f"{name}={value!r} (the run's: {before[name]!r})"))
    return changed


def dotted(content: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as dotted names and values; an empty mapping says nothing."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _digested(
    name: str, value: Any, stored: Mapping[str, str], digest_of: Callable[[str, Any], str]
) -> Any:
    """A value with digests in the place of those whose digests are stored."""
    if name in stored:
        return digest_of(name, value)
    if isinstance(value, Mapping):
        return {k: _digested(f"{name}.{k}", v, stored, digest_of) for k, v in value.items()}
    return value


def _pair(argument: str) -> tuple[str, str]:
    key, equals, value = argument.partition("=")
    if not equals or not key:
        raise InputError(f"{argument!r} is not of the form key=value, as in steps=2")
    return key, value


def _check_known(docs: Mapping[str, FieldDoc], key: str) -> None:
    open_ones = [name for name, doc in docs.items() if doc.is_table or doc.is_spec]
    is_known = key in docs or any(_inside(key, name) for name in open_ones)
    if not is_known or new_name(key, docs):
        raise unknown(key, list(docs))


def _inside(key: str, name: str) -> bool:
    """Whether a dotted name is that of a field, or of something in it."""
    return key == name or key.startswith(f"{name}.")


def _plain(content: Any) -> dict[str, Any]:
    """The plain dictionaries of a configuration that is being put together."""
    plain: Any = OmegaConf.to_container(content)
    return dict(plain)


def _value(doc: FieldDoc | None, text: str) -> Any:
    """What a text on the command line stands for: YAML, but text stays text."""
    if doc is not None and doc.is_list and not text.startswith("["):
        text = f"[{text}]"
    content: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))
    value = content["value"]
    if doc is not None and doc.python_type is str:
        return value if isinstance(value, str) or value is None else text
    if doc is not None and doc.python_type is float and isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)  # nan and inf, which YAML writes .nan and .inf
    return value


def _recipe(kind: type, name: str | None) -> dict[str, Any]:
    """The content of a recipe, by name or of a file."""
    if name is None:
        return {}
    if name.endswith((".yaml", ".yml")):
        try:
            return _content(kind, Path(name).read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"recipe {name} cannot be read: {error.strerror}") from error
        except _NotYaml as error:
            words = " is " if str(error).startswith("no YAML") else ": "
            raise InputError(
                f"recipe {name}{words}{error}; expected what --print-config prints"
            ) from error
        except UnicodeDecodeError as error:
            raise InputError(
                f"recipe {name} is no YAML ({error}); expected what --print-config prints"
            ) from error
    config = read_recipe(name)
    wanted = {each.name for each in fields(kind)}
    return {key: value for key, value in plain(config).items() if key in wanted}


def _content(kind: type, text: str) -> dict[str, Any]:
    """The mapping in a YAML text, whose keys are all fields."""
    content = yaml_mapping(text)
    docs = {doc.name: doc for doc in describe(kind)}
    for key, _ in dotted(content):
        _check_known(docs, key)
    return content


_LONGEST_REASON = 400


class _NotYaml(InputError):
    """A text is no YAML that a configuration can be."""


def yaml_mapping(text: str) -> dict[str, Any]:
    """The mapping of names to values in a YAML text; interpolations are left as they are.

    Raises:
        InputError: it is none.
    """
    try:
        check_yaml(text)
        content: Any = OmegaConf.to_container(OmegaConf.create(text))
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())[:_LONGEST_REASON]
        raise _NotYaml(
            reason if reason.startswith("no YAML") else f"no YAML mapping of fields ({reason})"
        ) from error
    if not isinstance(content, Mapping):
        raise _NotYaml("a recipe is a YAML mapping of fields to values")
    strange = [key for key in _keys(content) if not isinstance(key, str)]
    if strange := strange or [key for key in content if "." in key]:
        raise _NotYaml(f"{strange[0]!r} is no name of a field or a section")
    return dict(content)


def _keys(content: Mapping[Any, Any]) -> Iterator[Any]:
    for key, value in content.items():
        yield key
        if isinstance(value, Mapping):
            yield from _keys(value)


def _object(kind: type[T], content: Any) -> T:
    """The configuration that has this content, with defaults for the rest."""
    raw: dict[str, Any] = dict(dotted(_plain(OmegaConf.create(content))))
    asked = interpolated(raw)
    given: Any = {}
    try:
        given = OmegaConf.to_container(OmegaConf.create(content), resolve=True)
        config = _checked(kind, given)
    except OmegaConfBaseException as error:
        where = f"{error.full_key}: " if error.full_key else ""
        words = hidden(f"{where}{_first_line(error)}", substitutes(asked, {}))
        raise InputError(words) from (None if asked else error)
    except InputError as error:
        if not asked:
            raise
        words = hidden(str(error), substitutes(asked, dict(dotted(given))))
        raise type(error)(words) from None
    remember(asked, dict(dotted(plain(config))))
    return config


def _checked(kind: type[T], given: Any) -> T:
    there = {key for key, _ in dotted(given)}
    missing = [name for name in required(kind) if name not in there]
    # What is given is looked at first: text that is missing is left empty for that.
    for name in missing:
        _put(given, name, "")
    config = _build(kind, given, None)
    if missing:
        raise InputError(
            f"{', '.join(missing)} must be given, as {missing[0]}=...; or begin with a recipe: "
            f"recipe={next(iter(RECIPES))}"
        )
    return config


def _put(content: dict[str, Any], name: str, value: Any) -> None:
    *path, last = name.split(".")
    for section in path:
        content = content.setdefault(section, {})
    content[last] = value


def _build(kind: type[T], content: Mapping[str, Any], default: T | None) -> T:
    """An object of a section, from the inside out.

    Args:
        default: the object whose values the other fields have; None for the class's own.
    """
    inner = sections(kind)
    values = dict(content)
    for name, section in inner.items():
        if name in content:
            other = getattr(default, name) if default is not None else _default(kind, name)
            values[name] = _build(section, content[name], other)
    return kind(**values) if default is None else replace(default, **values)  # type: ignore[type-var]


def _default(kind: Any, name: str) -> Any:
    info = kind.__pydantic_fields__[name]
    return None if info.is_required() else info.get_default(call_default_factory=True)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
