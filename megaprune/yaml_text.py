"""YAML of anyone's making, read in bounded time and memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from megaprune.errors import InputError

if TYPE_CHECKING:
    import yaml

_MOST_CHARACTERS = 1 << 18
_MOST_VALUES = 100_000
_DEEPEST = 50
_TOO_DEEP = f"values more than {_DEEPEST} deep in others, by references (&, *)"


def check_yaml(text: str) -> None:
    """Refuse a text that is no YAML, or is too large or too deep, with its references followed.

    Raises:
        InputError: says what it is; the caller says where.
    """
    import yaml

    if len(text) > _MOST_CHARACTERS:
        raise InputError(f"{len(text)} characters; expected {_MOST_CHARACTERS} at most")
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = 0
    try:
        for event in yaml.parse(text, Loader=loader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise InputError(f"values more than {_DEEPEST} deep in others")
        root = yaml.compose(text, Loader=loader)
    except InputError:
        raise
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"no YAML ({reason})") from error
    if root is not None:
        _measure(root, {}, 0)


def _measure(node: yaml.Node, measures: dict[int, tuple[int, int]], depth: int) -> tuple[int, int]:
    """Return how many values a node has in it, each as often as it is referred to, and how deep."""
    if depth > _DEEPEST:  # also if it refers to itself
        raise InputError(_TOO_DEEP)
    if id(node) not in measures:
        inner = [] if node.id == "scalar" else node.value
        if node.id == "mapping":
            inner = [part for pair in inner for part in pair]
        parts = [_measure(part, measures, depth + 1) for part in inner]
        size = 1 + sum(size for size, _ in parts)
        height = (node.id != "scalar") + max((height for _, height in parts), default=0)
        if height > _DEEPEST:
            raise InputError(_TOO_DEEP)
        if size > _MOST_VALUES:
            raise InputError(
                f"more than {_MOST_VALUES} values, with its references (&, *) followed"
            )
        measures[id(node)] = size, height
    return measures[id(node)]


def load_yaml(text: str) -> Any:
    """Read a YAML text's content.

    Raises:
        InputError: as `check_yaml` does, or it has a value that cannot be.
    """
    import yaml

    check_yaml(text)
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        raise InputError(f"no YAML ({' '.join(str(error).split())})") from error
