"""The cuts of tensor parallelism that Megatron-core and vLLM share: all but how q, k and v join.

Each function returns the `Parameter` of one tensor-parallel rank.
"""

from __future__ import annotations

from collections.abc import Callable

from megaprune.weights.boxes import Box, Shape
from megaprune.weights.families import Split, TableRow
from megaprune.weights.layouts.base import Parameter, Piece, divisible, one_of
from megaprune.weights.model import Model

Part = tuple[str, Shape]
"""A logical tensor: its name and shape."""


Qkv = Callable[[Model, str, list[Part], int, int], Parameter]
"""How an engine joins q, k and v: (model, name, their parts, tp, rank) to this rank's parameter."""


def parameter(
    model: Model,
    name: str,
    row: TableRow,
    layer: int | None,
    tp: int,
    rank: int,
    padded_vocab: int,
    qkv: Qkv,
) -> Parameter:
    """Return a rank's parameter of a row of a family's table."""
    parts = model.parts(row, layer)
    match row.split:
        case Split.REPLICATED:
            return replicated(name, parts[0])
        case Split.ROW:
            return row_parallel(name, parts[0], tp, rank)
        case Split.GATED:
            return gated(name, parts, tp, rank)
        case Split.VOCAB:
            return vocab_parallel(name, parts[0], padded_vocab, tp, rank)
        case Split.QKV:
            return qkv(model, name, parts, tp, rank)


def check_heads(model: Model, what: str, tp: int) -> None:
    """Raise a ValueError unless attention heads can be divided among `tp` ranks.

    Key and value heads are divided, or shared where tp is a multiple of their number.
    """
    valid = [
        n
        for n in range(1, model.heads + 1)
        if model.heads % n == 0 and (model.kv_heads % n == 0 or n % model.kv_heads == 0)
    ]
    if tp not in valid:
        raise ValueError(
            f"{what}={tp} does not divide num_attention_heads={model.heads} and "
            f"num_key_value_heads={model.kv_heads}; choose {one_of(valid)}"
        )


def replicated(name: str, part: Part) -> Parameter:
    """Put the whole tensor on every rank."""
    tensor, shape = part
    return Parameter(name, shape, (Piece(tensor, Box.whole(shape), Box.whole(shape)),))


def row_parallel(name: str, part: Part, tp: int, rank: int) -> Parameter:
    """Take a share of the input features (dimension 1)."""
    tensor, (outputs, inputs) = part
    share = divisible(f"input features of {tensor}", inputs, "tp", tp)
    box = Box((0, rank * share), (outputs, (rank + 1) * share))
    return Parameter(name, (outputs, share), (Piece(tensor, box, Box.whole((outputs, share))),))


def stacked_rows(
    name: str, bands: list[tuple[str, Shape, int, int]], parts: int = 1, part: int = 0
) -> Parameter:
    """Stack bands of rows: (tensor, its shape, first row, number of rows) each.

    Args:
        parts, part: of how many equal shares of all rows the parameter is which.
    """
    total = sum(rows for *_, rows in bands)
    share = divisible(f"rows of {name}", total, "tp", parts)
    window = Box((part * share,), ((part + 1) * share,))
    pieces, offset = [], 0
    for tensor, shape, first, rows in bands:
        held = Box((offset,), (offset + rows,)).intersect(window)
        offset += rows
        if held is None:
            continue
        zeros, tail = tuple(0 for _ in shape[1:]), shape[1:]
        at = held.within(window)
        start = first + held.start[0] - (offset - rows)
        pieces.append(
            Piece(
                tensor,
                Box((start, *zeros), (start + held.size, *tail)),
                Box((*at.start, *zeros), (*at.stop, *tail)),
            )
        )
    return Parameter(name, (share, *bands[0][1][1:]), tuple(pieces))


def gated(name: str, parts: list[Part], tp: int, rank: int) -> Parameter:
    """Join [gate; up], this rank's share of each."""
    bands = []
    for tensor, shape in parts:
        share = divisible(f"output features of {tensor}", shape[0], "tp", tp)
        bands.append((tensor, shape, rank * share, share))
    return stacked_rows(name, bands)


def vocab_parallel(name: str, part: Part, padded: int, tp: int, rank: int) -> Parameter:
    """Take a share of the padded vocabulary; rows beyond the vocabulary hold zeros."""
    tensor, (vocab, hidden) = part
    share = divisible("padded vocabulary", padded, "tp", tp)
    first, last = rank * share, (rank + 1) * share
    held = max(0, min(last, vocab) - first)
    box = Box((first, 0), (first + held, hidden))
    return Parameter(
        name,
        (share, hidden),
        pieces=(Piece(tensor, box, Box((0, 0), (held, hidden))),) if held else (),
        padding=(Box((held, 0), (share, hidden)),) if held < share else (),
    )


def round_up(amount: int, multiple: int) -> int:
    """Return the smallest multiple that is not less than `amount`."""
    return -(-amount // multiple) * multiple
