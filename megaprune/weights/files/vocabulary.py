"""Which rows of a stored embedding are tokens, and which are padding.

Megatron-core pads the vocabulary to a multiple. How far it was padded, a checkpoint does not say:
rows beyond the vocab_size of a config.json may as well be tokens that training added. So it is
looked for in all that knows: the rows themselves, the training arguments and the tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from megaprune.weights.boxes import Box, Shape
from megaprune.weights.untrusted import is_whole, parse_json, read_bytes

_TOKENIZER_BYTES = 256 << 20
"""How long a tokenizer's file may be; those of the largest vocabularies have 35 MB."""

_EQUAL = 1e-5
"""Rows are equal if they differ by no more than this part of their largest element: padding that
began equal gets equal gradients, but for rounding."""

_BAND = 1 << 20
"""How many elements are compared at once."""

Read = Callable[[str, Box], torch.Tensor]
"""Reads a part of a parameter, as `Weights.read`."""


@dataclass(frozen=True)
class Vocabulary:
    """How many rows of the stored embedding and output layer are tokens.

    Args:
        said: vocab_size of config.json.
        stored: rows that are stored, padding included.
        tokens: rows up to the last one of which something says that it is a token.
        reasons: what says that `tokens` is more than `said`; none if nothing does.
        padding: what was seen of the rows from `tokens` on.
        agreeing: what else was looked at, and has no more tokens than `said`.
    """

    said: int
    stored: int
    tokens: int
    reasons: tuple[str, ...] = ()
    padding: str = ""
    agreeing: tuple[str, ...] = ()

    @property
    def problem(self) -> str:
        """Say what would be lost by cutting the rows beyond vocab_size; nothing if nothing."""
        if not self.reasons:
            return ""
        rows, are = _counted(self.tokens - self.said)
        return (
            f"config.json says vocab_size={self.said}, which would cut off {rows} that {are} no "
            f"padding: {'; '.join(self.reasons)}. Give the config.json and tokenizer of the model "
            f"that was trained, or --keep-vocabulary, which keeps what would be cut off and writes "
            f"vocab_size={self.tokens}"
        )

    @property
    def notes(self) -> list[str]:
        """Say which rows are tokens and which are padding, and by what that was decided."""
        notes = []
        if self.reasons:
            rows, are = _counted(self.tokens - self.said)
            seen = "; ".join([*self.reasons, *(f"but {words}" for words in self.agreeing)])
            notes.append(
                f"{rows} above config.json's vocab_size={self.said} {are} kept, as "
                f"vocab_size={self.tokens}: {seen}"
            )
        if self.stored > self.tokens:
            rows, are = _counted(self.stored - self.tokens)
            seen = "; ".join([self.padding, *(() if self.reasons else self.agreeing)])
            notes.append(
                f"{rows} above vocab_size={self.tokens} {are} padding, and not part of the model: "
                f"{seen}"
            )
        return notes


def _counted(rows: int) -> tuple[str, str]:
    return ("1 row", "is") if rows == 1 else (f"{rows} rows", "are")


def look_at(
    read: Read,
    shapes: Mapping[str, Shape],
    said: int,
    args: Mapping[str, Any],
    side: Mapping[str, Path],
) -> Vocabulary:
    """Find out which rows beyond a config.json's vocab_size are tokens.

    Args:
        read: reads rows of a parameter.
        shapes: of the embedding, and of the output layer where there is one, by name.
        said: vocab_size of config.json.
        args: the training arguments.
        side: files that go along with the weights, by name; the tokenizer's are looked at.

    Raises:
        InputError: a tokenizer's file cannot be read.
    """
    stored = next(iter(shapes.values()))[0]
    if stored <= said:
        return Vocabulary(said, stored, said)
    reasons, agreeing, paddings, tokens = [], [], {}, said
    for name, shape in shapes.items():
        end, paddings[name] = _rows(read, name, shape, said)
        if end > said:
            reasons.append(_own_values(name, said, end, stored))
            tokens = max(tokens, end)
    others = [token_count(side)]  # what else may know how many tokens there are
    if isinstance(size := args.get("vocab_size"), int):
        others.append((size, f"the training arguments say vocab_size={size}"))
    for count, words in others:
        if count > said:
            reasons.append(words)
            tokens = max(tokens, count)
        elif count:
            agreeing.append(words)
    tokens = min(tokens, stored)
    padding = " and ".join(dict.fromkeys(paddings.values()))
    if len({*paddings.values()}) > 1:
        padding = ", ".join(f"{name}: {words}" for name, words in paddings.items())
    return Vocabulary(said, stored, tokens, tuple(reasons), padding, tuple(agreeing))


def _rows(read: Read, name: str, shape: Shape, said: int) -> tuple[int, str]:
    """Return from which row on a parameter's rows are all zero or all equal, and which of both."""
    stored, width = shape
    before = last_token = read(name, Box((said - 1, 0), (said, width))).double()
    first, step = said, max(1, _BAND // width)
    for start in range(said, stored, step):
        band = read(name, Box((start, 0), (min(start + step, stored), width))).double()
        differ = ~_equal(band, torch.cat([before, band[:-1]]))
        differ[0] &= start > said  # the row before the first is a token
        if differ.any():
            first = start + int(differ.nonzero()[-1])
        before = band[-1:]
    if not before.any():
        return first, "all are zero"
    if stored - first > 1:
        return first, "all are equal"
    if stored - said == 1 and bool(_equal(before, last_token)):
        return said, "it equals the last token's"
    return stored, ""


def _equal(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Compare two matrices row by row."""
    largest = torch.maximum(one.abs(), other.abs()).amax(1)
    return ((one - other).abs().amax(1) <= _EQUAL * largest) & largest.isfinite()


def _own_values(name: str, said: int, end: int, stored: int) -> str:
    if end - said > 1:
        return f"rows {said} to {end - 1} of {name} are neither all zero nor all equal"
    if end < stored:
        return f"row {said} of {name} is not as those after it"
    return f"row {said} of {name} is neither zero nor equal to the last token's"


def token_count(side: Mapping[str, Path]) -> tuple[int, str]:
    """Return how many tokens the files of a tokenizer number, and words that say so.

    Zero if there are none of the files that it is known how to read (a SentencePiece model alone).

    Raises:
        InputError: one of them is not JSON.
    """
    largest, words = 0, ""
    for name, numbers in _NUMBERED.items():
        if name in side:
            content = parse_json(
                read_bytes(side[name], _TOKENIZER_BYTES), str(side[name]), _TOKENIZER_BYTES
            )
            count = 1 + max((n for n in numbers(content) if is_whole(n, 0, _MOST)), default=-1)
            if count > largest:
                largest, words = count, f"{name} numbers its tokens up to {count - 1}"
    return largest, words


_MOST, _DIGITS = 1 << 40, 13
"""Larger numbers are not a token's."""


def _in_tokenizer(content: Any) -> Iterator[Any]:
    model = _dictionary(content).get("model")
    vocabulary = _dictionary(model).get("vocab")
    if isinstance(vocabulary, list):  # of pairs, numbered by their places
        yield len(vocabulary) - 1
    else:
        yield from _dictionary(vocabulary).values()
    added = _dictionary(content).get("added_tokens")
    yield from (
        _dictionary(token).get("id") for token in (added if isinstance(added, list) else ())
    )


def _in_configuration(content: Any) -> Iterator[Any]:
    added = _dictionary(_dictionary(content).get("added_tokens_decoder"))
    yield from (int(n) for n in added if n.isascii() and n.isdigit() and len(n) < _DIGITS)


def _dictionary(content: Any) -> dict[str, Any]:
    return content if isinstance(content, dict) else {}


_NUMBERED: Mapping[str, Callable[[Any], Iterable[Any]]] = {
    "tokenizer.json": _in_tokenizer,
    "vocab.json": lambda content: _dictionary(content).values(),
    "added_tokens.json": lambda content: _dictionary(content).values(),
    "tokenizer_config.json": _in_configuration,
}
"""A tokenizer's files that number tokens, and where in them the numbers are."""
