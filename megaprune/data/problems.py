"""Problems as the model reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from megaprune.data.parquet import ProblemRow, read_parquet
from megaprune.data.rendering import render_all
from megaprune.data.tokenizer import check_template
from megaprune.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Problem:
    """A problem with its prompt in the words and tokens of one model.

    Args:
        name: unique in the data set, and the same whenever the data set is read.
        data_source: the collection that it is from.
        messages: the role and content of each.
        prompt: the messages in the model's chat template, up to where the model answers.
        tokens: the ids of the prompt.
        gold: the right answer.
    """

    name: str
    data_source: str
    messages: tuple[Mapping[str, str], ...]
    prompt: str
    tokens: tuple[int, ...]
    gold: str


@dataclass(frozen=True)
class Problems:
    """Problems in the order of their files, and how many were left out as too long."""

    problems: tuple[Problem, ...]
    too_long: int


def read_problems(
    path: Path, tokenizer: PreTrainedTokenizerBase, max_prompt_length: int
) -> Problems:
    """Read a data set (see `megaprune.data.parquet`) and put it into a model's chat template.

    A problem is named "<data_source>/<index>", by its row in the data set if it has no index, and
    with "#2" and so on behind it if an earlier one has that name.

    Args:
        path: a parquet file or a folder of them.
        tokenizer: with a chat template, which adds the special tokens that the model wants.
        max_prompt_length: tokens; longer prompts are left out, never cut.

    Raises:
        InputError: the files or the template cannot be used (file, row and column are named), or
            all prompts are too long.
    """
    if max_prompt_length < 1:
        raise InputError(f"max_prompt_length={max_prompt_length} tokens; expected 1 or more")
    check_template(tokenizer)
    places, rows = zip(*read_parquet(path), strict=True)
    prompts = render_all(tokenizer, [row.messages for row in rows], places)
    tokens: list[list[int]] = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    problems = tuple(
        Problem(name, row.data_source, tuple(row.messages), prompt, tuple(ids), row.gold)
        for name, row, prompt, ids in zip(_names(rows), rows, prompts, tokens, strict=True)
        if len(ids) <= max_prompt_length
    )
    if not problems:
        raise InputError(
            f"all {len(rows)} prompts of {path} are longer than "
            f"max_prompt_length={max_prompt_length} tokens; the "
            f"shortest has {min(map(len, tokens))}: raise max_prompt_length to that or more"
        )
    return Problems(problems, len(rows) - len(problems))


def _names(rows: Sequence[ProblemRow]) -> Iterator[str]:
    """Name each row, by itself and the rows before it alone."""
    taken: set[str] = set()
    for number, row in enumerate(rows):
        plain = f"{row.data_source}/{number if row.index is None else row.index}"
        copies = (f"{plain}#{n}" if n > 1 else plain for n in count(1))
        name = next(name for name in copies if name not in taken)
        taken.add(name)
        yield name
