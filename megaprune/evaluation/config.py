"""The configuration of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from megaprune.config.fields import field, section
from megaprune.config.read import read_fields
from megaprune.config.run import TENSORBOARD, EngineConfig, GradingConfig, WandbConfig


@section()
class EvaluateConfig:
    """An evaluation of a model on sets of problems; the defaults are ThinkPrune's (2504.01296)."""

    model: str = field(
        doc="Hugging Face folder, or OWNER/NAME of a model on the hub, or a Megatron checkpoint "
        "that keeps its files."
    )
    out: str = field(
        may_change=True,
        doc="Folder of the evaluation. One that is there already goes on.",
    )
    data: list[str] = field(
        default=[], doc="Parquet files or folders with verl's columns; each data_source is a set."
    )
    problems: int | None = field(
        default=None,
        gt=0,
        unit="problems",
        doc="How many problems of each file to take, the first ones. Null for all.",
    )
    n: int | None = field(
        default=None,
        gt=0,
        unit="responses",
        doc="Responses to each problem. Null for the set's own number (`megaprune data --list`), "
        "or 16; with temperature 0 for one.",
    )
    max_response_length: int = field(
        default=32000, gt=0, unit="tokens", doc="Length limit of a response."
    )
    temperature: float = field(default=0.6, ge=0, le=2, doc="With 0 the likeliest token is taken.")
    top_p: float = field(
        default=0.95, gt=0, le=1, doc="Share of the distribution that is drawn from."
    )
    seed: int = field(default=0, ge=0, doc="Seed of the responses.")
    max_prompt_length: int = field(
        default=768,
        gt=0,
        unit="tokens",
        doc="Problems with longer prompts are left out, and counted.",
    )
    enable_thinking: bool | None = field(
        default=None,
        doc="The variable of this name of the chat template, as Qwen3's has it: false switches "
        "thoughts off (then grading.thought=none). Null: it is not set.",
    )
    budgets: list[int] = field(
        default=[500, 1000, 2000, 4000, 8000, 16000],
        unit="tokens",
        may_change=True,
        doc="Accuracy is also given as if responses longer than each of these were wrong.",
    )
    exit_at: list[int] = field(
        default=[],
        unit="tokens",
        may_change=True,
        doc="Early exits: a thought that is still open after so many tokens is also closed there, "
        "and the model answers.",
    )
    template: str = field(
        default="plain",
        doc="Family, or file, whose end of a thought `exit_at` uses.",
    )
    baseline: str | None = field(
        default=None, may_change=True, doc="Folder of another evaluation, to compare with."
    )
    frontier: str | None = field(
        default=None,
        may_change=True,
        doc="YAML file with the best accuracy that is known by the tokens of a response, for each "
        "set, as {aime24: {1000: 0.1, 2000: 0.25}}: the efficiency gap (REG) is measured from it.",
    )
    write_seconds: float = field(
        default=20.0,
        ge=0,
        unit="seconds",
        may_change=True,
        doc="Time between two files of responses: what a kill costs of those that are finished.",
    )
    dtype: str = field(
        default="bfloat16",
        choices=("bfloat16", "float32"),
        doc="Type of weights and activations.",
    )
    processes: int | None = field(
        default=None,
        gt=0,
        unit="processes",
        may_change=True,
        doc="How many to start on this host, where torchrun has not. Null for one for each GPU, or "
        "on a CPU as few as an engine needs.",
    )
    rollout: EngineConfig = EngineConfig()
    grading: GradingConfig = GradingConfig()
    wandb: WandbConfig = WandbConfig()
    tensorboard: bool = TENSORBOARD


def read_evaluate_config(arguments: Sequence[str]) -> EvaluateConfig:
    """Read an evaluation's configuration, as `config.read.read_fields` does.

    Raises:
        InputError: as there.
    """
    return read_fields(EvaluateConfig, arguments)
