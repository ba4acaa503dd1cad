"""YAML of anyone's making, read in bounded time and memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from megaprune.errors import InputError

if TYPE_CHECKING:
    import yaml

_MOST_CHARACTERS = 1 << 18
_MOST_VALUES = 100_000
_DEEPEST = 50


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
        _size(root, {}, 0)


def _size(node: yaml.Node, sizes: dict[int, int], depth: int) -> int:
    """How many values a node has in it, each as often as it is referred to."""
    if depth > _DEEPEST:
        raise InputError(f"values more than {_DEEPEST} deep in others, by references (&, *)")
    if id(node) not in sizes:
        inner = [] if node.id == "scalar" else node.value
        if node.id == "mapping":
            inner = [part for pair in inner for part in pair]
        sizes[id(node)] = 1 + sum(_size(part, sizes, depth + 1) for part in inner)
        if sizes[id(node)] > _MOST_VALUES:
            raise InputError(
                f"more than {_MOST_VALUES} values, with its references (&, *) followed"
            )
    return sizes[id(node)]


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
