"""Typed fields, declared once: type, default, bounds, unit, doc, and whether they may change.

    @section("optimizer")
    class OptimizerConfig:
        lr: float = field(default=1e-6, gt=0, doc="Learning rate, after the warm-up.")

A section is a frozen dataclass that takes its fields by name and refuses values that cannot be,
with an InputError that names the field as the command line does: `optimizer.lr=-1.0; expected
more than 0`. pydantic checks; the words are here. A field whose type has `from_spec`, `to_spec`,
`merge_specs` and `describe_fields` takes a spec as well: plain dictionaries, as YAML has them.
"""

from __future__ import annotations

import difflib
import functools
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import pydantic
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic.fields import FieldInfo
from typing_extensions import dataclass_transform

from megaprune.config.renamed import new_name
from megaprune.errors import InputError

T = TypeVar("T")


def field(
    *,
    default: Any = MISSING,
    doc: str,
    unit: str | None = None,
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
    choices: Sequence[str] | None = None,
    may_change: bool = False,
) -> Any:
    """A field of a section.

    Args:
        default: its value where none is given; without one it must be given. A list or a mapping
            is copied for each object.
        doc: what it means, in a sentence.
        unit: of a number, as in "tokens".
        gt, ge, lt, le: bounds, as pydantic has them; null is within all of them.
        choices: the only values of a text.
        may_change: whether a run that goes on may have another value: it changes how the run is
            carried out, and not what is learned.
    """
    given: dict[str, Any] = {} if default is MISSING else {"default": default}
    if isinstance(default, list | dict):
        given = {"default_factory": functools.partial(type(default), default)}
    extra: dict[str, Any] = {
        "unit": unit,
        "choices": choices and tuple(choices),
        "may_change": may_change,
    }
    return pydantic.Field(
        **given, description=doc, gt=gt, ge=ge, lt=lt, le=le, json_schema_extra=extra
    )


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def section(name: str = "", fixed: Sequence[str] = ()) -> Callable[[type[T]], type[T]]:
    """Make a class a section of a configuration, or with no name a whole one.

    Args:
        name: that its fields have before theirs, in messages.
        fixed: dotted names of fields, of those that it has from another class or in its sections,
            that may not change here although they are declared so.
    """

    def decorate(cls: type[T]) -> type[T]:
        settings = pydantic.ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
        section_class: Any = pydantic_dataclass(frozen=True, kw_only=True, config=settings)(cls)
        section_class.__section__ = name
        section_class.__fixed__ = tuple(fixed)
        checked: Callable[..., None] = section_class.__init__

        @functools.wraps(checked)
        def __init__(self: Any, *args: Any, **values: Any) -> None:
            if args:
                raise TypeError(f"{cls.__name__} takes its fields by name")
            try:
                checked(self, **_from_specs(section_class, values))
            except pydantic.ValidationError as error:
                raise _refusal(section_class, error) from None
            _check_choices(self)

        section_class.__init__ = __init__
        if unknown := set(fixed) - {doc.name for doc in describe(section_class)}:
            raise TypeError(f"{cls.__name__} has no field {', '.join(sorted(unknown))}")
        return section_class  # type: ignore[no-any-return]

    return decorate


@dataclass(frozen=True)
class FieldDoc:
    """What is said of a field.

    Args:
        name: with its section, as in rollout.n.
        type: in words.
        default: as it is written in YAML; None where it must be given.
        bounds: in words; empty if it has none.
        unit, doc, choices, may_change: as `field` takes them.
        python_type: without its null.
    """

    name: str
    type: str
    default: str | None
    bounds: str
    unit: str | None
    doc: str
    choices: tuple[str, ...] | None
    may_change: bool
    python_type: Any

    @property
    def is_list(self) -> bool:
        """Whether its value is a list."""
        return get_origin(self.python_type) is list

    @property
    def is_table(self) -> bool:
        """Whether it takes names of its own, as in grading.graders.aime24."""
        return get_origin(self.python_type) is dict

    @property
    def is_spec(self) -> bool:
        """Whether its value is an object that is made of a spec, as algorithm is."""
        return hasattr(self.python_type, "from_spec")


def describe(kind: type) -> Iterator[FieldDoc]:
    """All fields of a configuration, those of its sections with dotted names."""
    yield from _describe(kind, None, "", getattr(kind, "__fixed__", ()))


def _describe(kind: type, defaults: Any, prefix: str, fixed: Collection[str]) -> Iterator[FieldDoc]:
    """The fields of a section; `defaults` is an object of it, if they are others than its own."""
    for name, info in _infos(kind).items():
        default = getattr(defaults, name) if defaults is not None else _default(info)
        inner = _plain_type(info.annotation)
        if is_section(inner):
            others = None if default is MISSING else default
            yield from _describe(inner, others, f"{prefix}{name}.", fixed)
            continue
        extra: Any = info.json_schema_extra or {}
        yield FieldDoc(
            name=prefix + name,
            type=type_words(info.annotation),
            default=None if default is MISSING else shown(default),
            bounds=bounds_words(info),
            unit=extra.get("unit"),
            doc=info.description or "",
            choices=extra.get("choices"),
            may_change=extra.get("may_change", False) and prefix + name not in fixed,
            python_type=inner,
        )


def may_change(kind: type) -> frozenset[str]:
    """Names of the fields that may differ when a run of this configuration goes on."""
    return frozenset(doc.name for doc in describe(kind) if doc.may_change)


def sections(kind: type) -> dict[str, type]:
    """The sections of a configuration, by name."""
    inner = {name: _plain_type(info.annotation) for name, info in _infos(kind).items()}
    return {name: value for name, value in inner.items() if is_section(value)}


def is_section(kind: Any) -> bool:
    """Whether this is a class that `section` made."""
    return isinstance(kind, type) and hasattr(kind, "__section__")


def required(kind: type) -> list[str]:
    """Names of the fields that must be given, sorted."""
    return sorted(doc.name for doc in describe(kind) if doc.default is None)


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All fields of a configuration with their dotted names and values."""
    for each in fields(config):
        value = getattr(config, each.name)
        if hasattr(value, "to_spec"):
            yield from _leaves_of_spec(value.to_spec(), f"{prefix}{each.name}")
        elif is_dataclass(value):
            yield from leaves(value, f"{prefix}{each.name}.")
        else:
            yield prefix + each.name, value


def _leaves_of_spec(spec: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(spec, Mapping):
        for key, value in spec.items():
            yield from _leaves_of_spec(value, f"{name}.{key}")
    else:
        yield name, spec


def plain(config: Any) -> dict[str, Any]:
    """A configuration as nested dictionaries and lists."""
    content: dict[str, Any] = {}
    for each in fields(config):
        value = getattr(config, each.name)
        if hasattr(value, "to_spec"):
            value = value.to_spec()
        elif is_dataclass(value):
            value = plain(value)
        elif isinstance(value, list | dict):
            value = type(value)(value)
        content[each.name] = value
    return content


def nearest(word: str, known: Collection[str]) -> str:
    """Advice for a misspelt name."""
    likeness = {k: difflib.SequenceMatcher(None, k, word).ratio() for k in known}
    enough = max(0.5, max(likeness.values(), default=0.0) - 0.1)
    close = sorted((k for k in known if likeness[k] >= enough), key=lambda k: -likeness[k])
    last = word.rpartition(".")[2]
    close += [k for k in known if k.rpartition(".")[2] == last and k not in close]
    if close:
        return f"did you mean {' or '.join(close[:3])}?"
    return f"expected one of {', '.join(known)}"


class RenamedFieldError(InputError):
    """A field is given by a name that it had before."""


def unknown(key: str, known: Collection[str]) -> InputError:
    """The error for a name that is none of the known ones: with its new name, or the nearest."""
    if name := new_name(key, known):
        return RenamedFieldError(f"there is no field {key!r}; its name is {name}")
    advice = nearest(key, known)
    if advice.startswith("expected one of"):
        advice = "--help-fields lists all that there are"
    return InputError(f"there is no field {key!r}; {advice}")


def type_words(annotation: Any) -> str:
    """What values of a type are, as in "a whole number or null"."""
    inner = _plain_type(annotation)
    optional = "" if inner == annotation else " or null"
    if get_origin(inner) in (Union, types.UnionType):
        return f"{' or '.join(type_words(kind) for kind in get_args(inner))}{optional}"
    if get_origin(inner) in (list, tuple):
        return f"a list of {_PLURAL.get(get_args(inner)[0], 'values')}{optional}"
    if get_origin(inner) is Literal:
        values = ", ".join(map(str, get_args(inner)))
        return f"{'one of ' * (len(get_args(inner)) > 1)}{values}{optional}"
    if get_origin(inner) is dict:
        values = "text" if get_args(inner)[1] is str else "values"
        return f"a mapping of names to {values}{optional}"
    if inner in _SINGULAR:
        return f"{_SINGULAR[inner]}{optional}"
    return f"{getattr(inner, '__name__', str(inner))}(...){optional}"


def bounds_words(info: FieldInfo) -> str:
    """The bounds of a field in words, as in "0 or more and less than 1"; empty if it has none."""
    return " and ".join(_bounds(info).values())


def shown(value: Any) -> str:
    """A value as it is written in YAML and on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(shown, value))}]"
    return str(value)


_SINGULAR: dict[Any, str] = {
    int: "a whole number", float: "a number", bool: "true or false", str: "text",
}  # fmt: skip
_PLURAL: dict[Any, str] = {int: "whole numbers", float: "numbers", str: "texts"}

_BOUNDS: dict[str, tuple[str, str]] = {
    "gt": ("greater_than", "more than {:.15g}"),
    "ge": ("greater_than_equal", "{:.15g} or more"),
    "lt": ("less_than", "less than {:.15g}"),
    "le": ("less_than_equal", "{:.15g} at most"),
}
"""Of each bound: pydantic's name for its error, and the words for it."""


def _infos(kind: Any) -> Mapping[str, FieldInfo]:
    infos: Mapping[str, FieldInfo] = kind.__pydantic_fields__
    return infos


def _default(info: FieldInfo) -> Any:
    return MISSING if info.is_required() else info.get_default(call_default_factory=True)


def _plain_type(annotation: Any) -> Any:
    """A type without its null."""
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        return Union[tuple(kinds)]  # noqa: UP007 - of one type it is that type
    return annotation


def _bounds(info: FieldInfo) -> dict[str, str]:
    """Words for the bounds of a field, by pydantic's names for their errors."""
    return {
        error: words.format(getattr(bound, name))
        for bound in info.metadata
        for name, (error, words) in _BOUNDS.items()
        if getattr(bound, name, None) is not None
    }


def _from_specs(kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of fields, with objects in the place of the specs that make them."""
    objects = dict(values)
    for name, info in _infos(kind).items():
        inner = _plain_type(info.annotation)
        if name in objects and hasattr(inner, "from_spec") and not isinstance(objects[name], inner):
            objects[name] = inner.from_spec(objects[name])
    return objects


def _check_choices(config: Any) -> None:
    for name, info in _infos(type(config)).items():
        extra: Any = info.json_schema_extra or {}
        choices, value = extra.get("choices"), getattr(config, name)
        if choices and value is not None and value not in choices:
            raise InputError(
                f"{_dotted(type(config), name)}={value!r}; expected one of {', '.join(choices)}"
            )


def _dotted(kind: Any, name: str) -> str:
    return f"{kind.__section__}.{name}" if kind.__section__ else name


def _refusal(kind: Any, error: pydantic.ValidationError) -> InputError:
    """One error in our words, of all that pydantic says of an object of this class."""
    errors = error.errors(include_url=False)
    infos = _infos(kind)
    if strange := [name for e in errors if (name := str(e["loc"][0])) not in infos]:
        return unknown(_dotted(kind, strange[0]), [_dotted(kind, known) for known in infos])
    if lacking := [_dotted(kind, str(e["loc"][0])) for e in errors if e["type"] == "missing"]:
        return InputError(f"{', '.join(sorted(lacking))} must be given, as {min(lacking)}=...")
    first = errors[0]
    own = first.get("ctx", {}).get("error")
    if isinstance(own, InputError):
        return own
    name = str(first["loc"][0])
    key, info = _dotted(kind, name), infos[name]
    words = "a finite number" if first["type"] == "finite_number" else type_words(info.annotation)
    words = _bounds(info).get(first["type"], words)
    # Of a list, all of it is shown: the place of a wrong one alone says little.
    value = first["input"] if len(first["loc"]) == 1 else None
    if value is None and len(first["loc"]) > 1:
        return InputError(f"{key}: {first['input']!r} is in it; expected {words}")
    if _plain_type(info.annotation) is float and type(value) is int:
        value = float(value)
    seen = repr(value) if isinstance(value, str) else shown(value)
    return InputError(f"{key}={seen}; expected {words}")
