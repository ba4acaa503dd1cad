"""Fields of rewards, advantages, filters and losses: read from a spec, checked, and described.

A component is a plain frozen dataclass. Its bounds and its docs stand at the field:

    cache: Annotated[int, Field(ge=1, description="tokens before the limit ...")] = 1000
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from functools import cache
from typing import Any, NamedTuple, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from megaprune.config.fields import bounds_words, nearest, type_words
from megaprune.errors import InputError


class FieldDescription(NamedTuple):
    """What a field takes.

    Args:
        name: dotted, as on the command line.
        type: in words.
        default: its value; None where it must be given.
        doc: what it is for.
        bounds: in words; empty where there are none.
        component: the one that has the field, by name; empty if all have it.
        required: whether it has no default.
    """

    name: str
    type: str
    default: Any
    doc: str
    bounds: str
    component: str = ""
    required: bool = False


def check_fields(component: Any) -> None:
    """See that a component's fields are of their types and within their bounds.

    For `__post_init__`, so that Python is told what the command line is told.

    Raises:
        InputError: one is not.
    """
    kind: type = type(component)
    for name, hint in field_types(kind).items():
        _checked(name, hint, getattr(component, name), from_text=False)


def read_values(kind: type, given: Mapping[str, Any], where: str, name: str) -> dict[str, Any]:
    """Values for the fields of a component, as its types want them.

    Args:
        kind: a dataclass.
        given: values as YAML has them, by field.
        where: the dotted name of what is read, for messages.
        name: of the component, for messages.

    Raises:
        InputError: an unknown field, one that is missing, or a value that does not fit.
    """
    known = field_types(kind)
    for key in given:
        if key not in known:
            advice = nearest(key, list(known)) if known else "it has none"
            raise InputError(f"{where}.{key}: {name} has no such field; {advice}")
    for field in _init_fields(kind):
        if field.name not in given and not _has_default(field):
            raise InputError(f"{where}.{field.name} must be given: {name} has no default of it")
    return {
        key: _checked(f"{where}.{key}", known[key], value, from_text=True)
        for key, value in given.items()
    }


@cache
def field_types(kind: type) -> dict[str, Any]:
    """Types of the fields that a dataclass is made of, with their `Annotated` metadata.

    Raises:
        InputError: the annotations cannot be understood.
    """
    try:
        hints = get_type_hints(kind, include_extras=True)
        types = {field.name: hints[field.name] for field in _init_fields(kind)}
        for hint in types.values():
            _adapter(hint)
    except Exception as error:  # noqa: BLE001 - a user's annotations may be anything
        raise InputError(
            f"{kind.__name__}: its fields' types cannot be understood: "
            f"{type(error).__name__}: {_first_line(error)}"
        ) from error
    return types


def describe(kind: type, where: str, component: str) -> list[FieldDescription]:
    """The fields of a component."""
    types = field_types(kind)
    infos = {name: FieldInfo.from_annotation(hint) for name, hint in types.items()}
    return [
        FieldDescription(
            f"{where}.{field.name}",
            type_words(infos[field.name].annotation),
            _default(field),
            infos[field.name].description or "",
            bounds_words(infos[field.name]),
            component,
            not _has_default(field),
        )
        for field in _init_fields(kind)
    ]


def _checked(name: str, hint: Any, value: Any, from_text: bool) -> Any:
    """The value as its type wants it."""
    adapter = _adapter(hint)
    try:
        if from_text:
            # As JSON, a list may be a tuple, and yet "1" and true are no numbers.
            result = adapter.validate_json(json.dumps(value), strict=True)
        else:
            result = adapter.validate_python(value, strict=True)
    except (TypeError, ValidationError) as error:
        raise InputError(f"{name}={_shown(value)}; expected {_expected(hint, error)}") from error
    if isinstance(result, float) and not math.isfinite(result):
        raise InputError(f"{name}={result}; expected a finite number")
    return result


def _expected(hint: Any, error: Exception) -> str:
    details = error.errors() if isinstance(error, ValidationError) else []
    out_of_bounds = {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}
    info = FieldInfo.from_annotation(hint)
    within_type = bool(details) and all(detail["type"] in out_of_bounds for detail in details)
    return (within_type and bounds_words(info)) or type_words(info.annotation)


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint)


def _init_fields(kind: type) -> list[Field[Any]]:
    return [field for field in fields(kind) if field.init]


def _has_default(field: Field[Any]) -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING


def _default(field: Field[Any]) -> Any:
    if field.default is not MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not MISSING else None


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str) else str(value)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
