"""Equations and inequalities: the same if their differences of sides are in proportion."""

from __future__ import annotations

from collections.abc import Sequence

from megaprune.grading.expression import parse
from megaprune.grading.nodes import Node, names
from megaprune.grading.values import equal_nodes, is_imaginary, proportion

_TURNED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", "=": "=", r"\ne": r"\ne"}


def equal_relations(
    gold: Sequence[str], ours: Sequence[str], answer: Sequence[str], theirs: Sequence[str]
) -> bool:
    """Compare relations by their sides and signs; raises Unparsable.

    Chains, as a < b < c, are compared side by side, forwards and backwards.
    """
    if len(ours) != len(theirs):
        return False
    a, b = [parse(side) for side in gold], [parse(side) for side in answer]
    turned = [_TURNED[sign] for sign in reversed(theirs)]
    for sides, signs in ((b, list(theirs)), (b[::-1], turned)):
        if signs == list(ours) and all(equal_nodes(x, y) for x, y in zip(a, sides, strict=True)):
            return True
    if len(ours) != 1:
        return False
    if {name for node in a for name in names(node)} != {name for node in b for name in names(node)}:
        return False
    left, right = Node("sub", (a[0], a[1])), Node("sub", (b[0], b[1]))
    ratio = proportion(left, right, is_imaginary(left, right))
    if not ratio:
        return False
    if ours[0] in ("=", r"\ne"):
        return ours == theirs
    return theirs[0] == (ours[0] if ratio > 0 else _TURNED[ours[0]])
