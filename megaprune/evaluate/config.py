"""An evaluation as typed fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from megaprune.config.fields import (
    check_rules,
    more_than_zero,
    not_negative,
    one_at_most,
    one_of,
    read_fields,
)
from megaprune.config.run import EngineConfig, GradingConfig
from megaprune.errors import InputError


@dataclass
class EvaluateConfig:
    """A model, and the problems that it is measured on.

    The defaults are those of ThinkPrune (arXiv 2504.01296).

    Args:
        model: Hugging Face folder, or a Megatron checkpoint that keeps its files.
        out: folder of the evaluation. One that is there already goes on.
        data: parquet files or folders, in verl's columns; each data_source is a set.
        n: samples of each problem; null for the set's own number (`megaprune data --list`), or 16.
        max_response_length: tokens of a response.
        temperature, top_p: of the distribution.
        seed: of the samples.
        max_prompt_length: tokens; longer prompts are left out, and counted.
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
    max_response_length: int = 32000
    temperature: float = 0.6
    top_p: float = 0.95
    seed: int = 0
    max_prompt_length: int = 768
    budgets: list[int] = field(default_factory=lambda: [500, 1000, 2000, 4000, 8000, 16000])
    force: list[int] = field(default_factory=list)
    template: str = "plain"
    baseline: str | None = None
    write_seconds: float = 20.0
    dtype: str = "bfloat16"
    processes: int | None = None
    rollout: EngineConfig = field(default_factory=lambda: EngineConfig(gpu_memory_utilization=0.9))
    grading: GradingConfig = field(default_factory=GradingConfig)


MAY_CHANGE = (
    "out",
    "budgets",
    "force",
    "baseline",
    "write_seconds",
    "processes",
    "rollout.tp",
    "rollout.max_num_seqs",
    "rollout.kv_cache_memory_bytes",
    "rollout.gpu_memory_utilization",
    "rollout.enforce_eager",
    "grading.workers",
    "grading.seconds",
    "grading.memory_bytes",
)
"""What may differ when an evaluation goes on: how it is carried out, and what is told of it."""


def read_evaluate_config(arguments: Sequence[str]) -> EvaluateConfig:
    """An evaluation's fields, as `fields.read_fields` reads them.

    Raises:
        InputError: as it does, and if a value or two together cannot be.
    """
    config = read_fields(EvaluateConfig, arguments)
    if not config.data:
        raise InputError("data must be given, as data=FILE.parquet,...; make some: megaprune data")
    check_rules(
        config,
        [
            more_than_zero(
                "n",
                "max_response_length",
                "top_p",
                "max_prompt_length",
                "processes",
                "rollout.tp",
                "rollout.max_num_seqs",
                "rollout.kv_cache_memory_bytes",
                "rollout.gpu_memory_utilization",
                "grading.workers",
                "grading.seconds",
                "grading.memory_bytes",
            ),
            not_negative("temperature", "seed", "write_seconds"),
            one_at_most("top_p", "rollout.gpu_memory_utilization"),
            one_of("dtype", ("bfloat16", "float32")),
        ],
    )
    for name, budgets, most in (
        ("budgets", config.budgets, None),
        ("force", config.force, config.max_response_length),
    ):
        for budget in budgets:
            if budget < 1 or (most and budget >= most):
                less = f" and less than max_response_length={most}" if most else ""
                raise InputError(f"{name}={budgets}; expected numbers of tokens above 0{less}")
    return config
