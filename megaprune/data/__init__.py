"""Problems: sets made with a prompt, parquet in verl's columns, prompts as the model reads them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from megaprune.data.order import batch
    from megaprune.data.parquet import ProblemRow, read_parquet, write_parquet
    from megaprune.data.problem_table import Problem
    from megaprune.data.problems import Problems, read_problems
    from megaprune.data.tokenizer import load_tokenizer

__all__ = [
    "Problem",
    "Problems",
    "ProblemRow",
    "batch",
    "load_tokenizer",
    "read_parquet",
    "read_problems",
    "write_parquet",
]

_MODULES = {
    "Problem": "problem_table",
    "Problems": "problems",
    "ProblemRow": "parquet",
    "batch": "order",
    "load_tokenizer": "tokenizer",
    "read_parquet": "parquet",
    "read_problems": "problems",
    "write_parquet": "parquet",
}


def __getattr__(name: str) -> Any:
    # pyarrow and numpy only when they are used: the command line imports this for `--help`.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
