"""An evaluation as typed fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from megaprune.config import Engine, Grading
from megaprune.errors import InputError
from megaprune.fields import (
    check_rules,
    more_than_zero,
    not_negative,
    one_at_most,
    one_of,
    read_fields,
)


@dataclass
class Evaluation:
    """A model, and the problems that it is measured on.

    The defaults are those of ThinkPrune (arXiv 2504.01296).

    Args:
        model: Hugging Face folder, or a Megatron checkpoint that keeps its files.
        out: folder of the evaluation. One that is there already goes on.
        data: parquet files or folders, in verl's columns; each data_source is a set.
        n: samples of each problem; null for the set's own number (`megaprune data --list`), or 16.
        limit: tokens of a response.
        temperature, top_p: of the distribution.
        seed: of the samples.
        max_prompt: tokens; longer prompts are left out, and counted.
        budgets: tokens; accuracy is also told as if responses longer than these were wrong.
        force: tokens; also exit thoughts early, that are not closed after so many.
        template: family, or file, whose end of a thought is used for that.
        baseline: folder of another evaluation, to compare with.
        write_seconds: between files of responses: what a kill costs of those that are finished.
        dtype: bfloat16 or float32.
        processes: to start on this host, where torchrun has not; null: one for each GPU, or on a
            CPU as few as an engine needs.
    """

    model: str = "???"
    out: str = "???"
    data: list[str] = field(default_factory=list)
    n: int | None = None
    limit: int = 32000
    temperature: float = 0.6
    top_p: float = 0.95
    seed: int = 0
    max_prompt: int = 768
    budgets: list[int] = field(default_factory=lambda: [500, 1000, 2000, 4000, 8000, 16000])
    force: list[int] = field(default_factory=list)
    template: str = "plain"
    baseline: str | None = None
    write_seconds: float = 20.0
    dtype: str = "bfloat16"
    processes: int | None = None
    rollout: Engine = field(default_factory=lambda: Engine(gpu_share=0.9))
    grading: Grading = field(default_factory=Grading)


MAY_CHANGE = (
    "out", "budgets", "force", "baseline", "write_seconds", "processes", "rollout.tp",
    "rollout.max_sequences", "rollout.kv_cache_bytes", "rollout.gpu_share", "rollout.eager",
    "grading.workers", "grading.seconds", "grading.memory_bytes",
)  # fmt: skip
"""What may differ when an evaluation goes on: how it is carried out, and what is told of it."""


def read_evaluation(arguments: Sequence[str]) -> Evaluation:
    """An evaluation's fields, as `fields.read_fields` reads them.

    Raises:
        InputError: as it does, and if a value or two together cannot be.
    """
    config = read_fields(Evaluation, arguments)
    if not config.data:
        raise InputError("data must be given, as data=FILE.parquet,...; make some: megaprune data")
    check_rules(
        config,
        [
            more_than_zero(
                "n", "limit", "top_p", "max_prompt", "processes", "rollout.tp",
                "rollout.max_sequences", "rollout.kv_cache_bytes", "rollout.gpu_share",
                "grading.workers", "grading.seconds", "grading.memory_bytes",
            ),
            not_negative("temperature", "seed", "write_seconds"),
            one_at_most("top_p", "rollout.gpu_share"),
            one_of("dtype", ("bfloat16", "float32")),
        ],
    )  # fmt: skip
    for name, budgets, most in (
        ("budgets", config.budgets, None),
        ("force", config.force, config.limit),
    ):
        for budget in budgets:
            if budget < 1 or (most and budget >= most):
                less = f" and less than limit={most}" if most else ""
                raise InputError(f"{name}={budgets}; expected numbers of tokens above 0{less}")
    return config
