"""Problems that are read once on each node, whatever number of processes it has.

The first process of a node reads; the others map its file (see `problem_table`). A check that was
made before in this process, or in the one that started it, has read the same problems: what it
made is found by the environment.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from megaprune.data.problem_table import ProblemTable, ProblemTableWriter
from megaprune.data.problems import (
    KEEP,
    ProblemFile,
    Problems,
    make_problem_file,
    problem_key,
    read_problems,
)
from megaprune.files import machine
from megaprune.foreign_text import for_people

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CHECKED = "MEGAPRUNE_PROBLEMS"
"""In the environment: the files of problems that a check has made, in JSON."""

_writers: list[ProblemTableWriter] = []
"""Keeps files of problems open that other processes are to find."""


def check_problems(
    path: Path,
    tokenizer: PreTrainedTokenizerBase,
    max_prompt_length: int,
    duplicates: str = KEEP,
    enable_thinking: bool | None = None,
) -> Problems:
    """Read problems as `read_problems` does, and leave them to the job that is checked.

    Args, raises: as there.
    """
    arguments = path, tokenizer, max_prompt_length, enable_thinking
    file = _checked(problem_key(*arguments))
    if file is None:
        writer, file = make_problem_file(*arguments)
        _writers.append(writer)
        entries = [*_entries(), {"machine": machine(), **vars(file)}]
        os.environ[_CHECKED] = json.dumps(entries)
    return file.open(duplicates)


def read_problems_on_node(
    path: Path,
    tokenizer: PreTrainedTokenizerBase,
    max_prompt_length: int,
    duplicates: str = KEEP,
    enable_thinking: bool | None = None,
) -> Problems:
    """Read problems as `read_problems` does, once on each node. Collective.

    Args, raises: as there; an error on one node is raised on all.
    """
    import torch.distributed as dist

    from megaprune.distributed import world
    from megaprune.distributed.objects import all_gather_object

    arguments = path, tokenizer, max_prompt_length, enable_thinking
    machines = all_gather_object(machine())
    first = machines.index(machine())
    writer: ProblemTableWriter | None = None
    mine: ProblemFile | None = None
    with world.raise_on_all_ranks():
        if dist.get_rank() == first:
            mine = _checked(problem_key(*arguments))
            if mine is None:
                writer, mine = make_problem_file(*arguments)
    file = all_gather_object(mine)[first]
    assert file is not None, "the first process of a machine has read"
    with world.raise_on_all_ranks():
        try:
            problems = file.open(duplicates)
        except (OSError, ValueError) as error:
            # Processes of a container of their own, say, which see no others.
            print(
                f"megaprune: warning: rank {dist.get_rank()} reads {path} by itself: it cannot map "
                f"what another process of this machine has read ({for_people(str(error))})",
                file=sys.stderr,
                flush=True,
            )
            problems = read_problems(
                path, tokenizer, max_prompt_length, duplicates, enable_thinking
            )
    # The file was there until all had mapped it.
    del writer
    return problems


def _entries() -> list[dict[str, str]]:
    entries: list[dict[str, str]] = json.loads(os.environ.get(_CHECKED, "[]"))
    return entries


def _checked(key: str) -> ProblemFile | None:
    """Return what a check has left of these problems; None if there is nothing, or no more."""
    for entry in _entries():
        if (entry["machine"], entry["key"]) == (machine(), key):
            try:
                ProblemTable(entry["path"], key)
            except (OSError, ValueError):
                continue  # the process that had it has ended
            return ProblemFile(entry["path"], key, int(entry["too_long"]))
    return None
