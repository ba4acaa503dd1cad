"""The trees of expressions."""

from __future__ import annotations

from typing import Any, NamedTuple


class Node(NamedTuple):
    """An operation and its operands: Nodes, and for numbers a Fraction, for names a text."""

    op: str
    args: tuple[Any, ...]


INFINITY = Node("inf", ())


def names(node: Node) -> frozenset[str]:
    """Return the names of a tree's variables."""
    if node.op == "sym":
        return frozenset(node.args)
    found: set[str] = set()
    for part in node.args:
        if isinstance(part, Node):
            found |= names(part)
    return frozenset(found - {node.args[0].args[0]} if node.op in ("sum", "prod") else found)


def operations(node: Node) -> frozenset[str]:
    """Return the kinds of a tree's nodes."""
    return frozenset({node.op}).union(
        *(operations(part) for part in node.args if isinstance(part, Node))
    )
