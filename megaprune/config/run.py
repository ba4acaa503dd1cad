"""A whole run as typed fields, refused where it cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from megaprune.config.fields import (
    check_rules,
    less_than_one,
    more_than_zero,
    not_negative,
    one_at_most,
    one_of,
    read_fields,
)
from megaprune.errors import InputError


@dataclass
class DataConfig:
    """Problems.

    Args:
        train: parquet file or folder, in verl's columns; {limit} in it stands for the limit.
        validation: the same, to measure on; none if null.
        train_batch_size: prompts of a step.
        order: of the problems: shuffled (each once an epoch), or a class of your own, as
            module:Class or path/to/file.py:Class (see `data.order.ProblemOrder`).
        rollouts: folder of an evaluation or a run whose responses are learned from; null: new
            ones are drawn.
        max_prompt_length: tokens; longer prompts are dropped, and counted.
    """

    train: str = "???"
    validation: str | None = None
    train_batch_size: int = 128
    order: str = "shuffled"
    rollouts: str | None = None
    max_prompt_length: int = 1024


@dataclass
class EngineConfig:
    """Engines that draw responses; as many as the ranks allow.

    Args:
        tp: ranks of an engine.
        max_num_seqs: responses that an engine works on at once.
        kv_cache_memory_bytes: of a rank's key-value cache; null for what gpu_memory_utilization
            leaves (CPU: 1 GiB).
        gpu_memory_utilization: share of a GPU's memory, that an engine may take.
        enforce_eager: without CUDA graphs.
    """

    tp: int = 1
    max_num_seqs: int = 256
    kv_cache_memory_bytes: int | None = None
    gpu_memory_utilization: float = 0.6
    enforce_eager: bool = False


@dataclass
class RolloutConfig(EngineConfig):
    """Responses to train on, and the engines that draw them.

    Args:
        n: responses to each prompt.
        max_response_length: tokens of a response; what is not finished by then earns nothing.
        temperature: of the distribution.
        carry_over: groups that a step drew and did not need are the first of the next step, though
            older weights drew them; else their problems are drawn anew.
    """

    n: int = 16
    max_response_length: int = 4000
    temperature: float = 1.0
    carry_over: bool = False


@dataclass
class GradingConfig:
    """Who says whether an answer is right.

    Args:
        default: name of the grader: strict, lenient, olympiad, or a function of your own, as
            module:function or path/to/file.py:function.
        graders: others, by data_source; known sets have theirs (`megaprune data --list`).
        workers: processes of each engine.
        seconds: for an answer, at most.
        memory_bytes: of a worker.
    """

    default: str = "strict"
    graders: dict[str, str] = field(default_factory=dict)
    workers: int = 2
    seconds: float = 5.0
    memory_bytes: int = 2 << 30


@dataclass
class AlgorithmConfig:
    """What is learned from graded responses.

    Args:
        objective: what a response is worth.
        estimator: how much better than its group: group_std, group_mean or batch_std.
        refills: how often groups without signal are replaced by other problems, at most.
        updates: optimizer steps on the responses of a step.
        clip_low, clip_high: of the ratio to the policy that drew the tokens.
        kl: coefficient of the divergence from the model that the run began with.
        entropy: coefficient of the entropy bonus.
        importance_cap: weigh tokens by how likely the trained model and the engine find them, up to
            this; null: do not.
    """

    objective: str = "truncate"
    estimator: str = "group_std"
    refills: int = 0
    updates: int = 1
    clip_low: float = 0.2
    clip_high: float = 0.2
    kl: float = 0.0
    entropy: float = 0.0
    importance_cap: float | None = None


@dataclass
class OptimizerConfig:
    """Adam.

    Args:
        lr: constant, after a linear warm-up.
        warmup_steps: of the warm-up; 0 begins with lr.
        weight_decay, beta1, beta2: of Adam.
        clip_grad: largest norm of the gradient.
        distributed: replicas divide the optimizer's state among them.
    """

    lr: float = 1e-6
    warmup_steps: int = 0
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    clip_grad: float = 1.0
    distributed: bool = True


@dataclass
class ActorConfig:
    """The model in training, over the ranks that there are; replicas take what tp x pp leaves.

    Args:
        tp: tensor parallel.
        pp: pipeline stages.
        vpp: chunks of a stage.
        num_layers_in_first_pipeline_stage, num_layers_in_last_pipeline_stage: null for an even
            share.
        sequence_parallel: divide activations between tensor-parallel layers too.
        max_tokens: of a micro-batch.
        recompute: none, core_attention or full.
        frozen_layers: the embedding and so many first layers are not trained.
    """

    tp: int = 1
    pp: int = 1
    vpp: int = 1
    num_layers_in_first_pipeline_stage: int | None = None
    num_layers_in_last_pipeline_stage: int | None = None
    sequence_parallel: bool = False
    max_tokens: int = 8192
    recompute: str = "none"
    frozen_layers: int = 0


@dataclass
class ValidationConfig:
    """Measured on data.validation.

    Args:
        every: steps; also after the last. 0: never.
        first: before the first step too.
        n: samples of each problem.
        temperature, top_p, max_response_length: how they are drawn; null length: that of training.
    """

    every: int = 20
    first: bool = True
    n: int = 1
    temperature: float = 0.6
    top_p: float = 0.95
    max_response_length: int | None = None


@dataclass
class CheckpointConfig:
    """Checkpoints.

    Args:
        every: steps; also after the last.
        keep_last: how many.
        keep_best: keep the one that validation found best, too.
        tie: points (of 100) that accuracies may differ by and be equal: the shorter is better.
        wait: do not train on before they are on disk.
    """

    every: int = 20
    keep_last: int = 2
    keep_best: bool = True
    tie: float = 0.0
    wait: bool = False


@dataclass
class WandbConfig:
    """Weights & Biases.

    Args:
        mode: disabled, offline or online.
        project: there.
        name: of the run; null for the name of its folder.
    """

    mode: str = "disabled"
    project: str = "megaprune"
    name: str | None = None


@dataclass
class Config:
    """A run.

    Args:
        model: Hugging Face folder to begin with.
        out: folder of the run. A run that is there already goes on.
        steps: in all.
        seed: of data order and samples.
        dtype: bfloat16 or float32.
        processes: to start on this host, where torchrun has not; null: one for each GPU, or on a
            CPU as few as the division needs.
        max_mismatch: the run stops when the engines' log-probs are further apart, on average, in
            nats; null: never.
    """

    model: str = "???"
    out: str = "???"
    steps: int = 200
    seed: int = 0
    dtype: str = "bfloat16"
    processes: int | None = None
    max_mismatch: float | None = 0.5
    data: DataConfig = field(default_factory=DataConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    grading: GradingConfig = field(default_factory=GradingConfig)
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    actor: ActorConfig = field(default_factory=ActorConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)


MAY_CHANGE = (
    "out",
    "steps",
    "processes",
    "max_mismatch",
    "actor.tp",
    "actor.pp",
    "actor.vpp",
    "actor.num_layers_in_first_pipeline_stage",
    "actor.num_layers_in_last_pipeline_stage",
    "actor.sequence_parallel",
    "actor.max_tokens",
    "actor.recompute",
    "rollout.tp",
    "rollout.max_num_seqs",
    "rollout.kv_cache_memory_bytes",
    "rollout.gpu_memory_utilization",
    "rollout.enforce_eager",
    "grading.workers",
    "grading.seconds",
    "grading.memory_bytes",
    "checkpoint.every",
    "checkpoint.keep_last",
    "checkpoint.keep_best",
    "checkpoint.wait",
    "wandb.mode",
    "wandb.project",
    "wandb.name",
    "validation.every",
)
"""What may differ when a run goes on: how it is carried out, not what is learned."""


def read_config(arguments: Sequence[str]) -> Config:
    """A run's configuration, as `fields.read_fields` reads it.

    Raises:
        InputError: as it does, and if a value or two together cannot be.
    """
    config = read_fields(Config, arguments)
    check_config(config)
    return replace(config, data=at_limit(config.data, config.rollout.max_response_length))


def at_limit(data: DataConfig, limit: int) -> DataConfig:
    """The files whose prompts say this limit."""
    train, validation = (
        path and path.replace("{limit}", str(limit)) for path in (data.train, data.validation)
    )
    return replace(data, train=train or "", validation=validation)


def check_config(config: Config) -> None:
    """See what can be said of the fields alone.

    Raises:
        InputError: a value or two together cannot be.
    """
    from megaprune.algorithms.registry import components

    check_rules(
        config,
        (
            *_RULES,
            one_of("algorithm.objective", tuple(components("reward"))),
            one_of("algorithm.estimator", tuple(components("advantage"))),
        ),
    )
    if config.data.train_batch_size % config.algorithm.updates:
        raise InputError(
            f"algorithm.updates={config.algorithm.updates} does not divide "
            f"data.train_batch_size={config.data.train_batch_size}"
        )
    if config.rollout.n == 1 and config.algorithm.estimator.startswith("group_"):
        raise InputError(
            f"rollout.n=1 with algorithm.estimator={config.algorithm.estimator}; expected n=2 or "
            f"more: a response that is alone is no better than its group, and nothing is learned"
        )


_RULES = (
    more_than_zero(
        "steps",
        "data.train_batch_size",
        "data.max_prompt_length",
        "rollout.n",
        "rollout.max_response_length",
        "rollout.tp",
        "rollout.max_num_seqs",
        "grading.workers",
        "grading.seconds",
        "algorithm.updates",
        "actor.tp",
        "actor.pp",
        "actor.vpp",
        "actor.max_tokens",
        "validation.n",
        "checkpoint.every",
        "checkpoint.keep_last",
        "optimizer.lr",
        "rollout.temperature",
        "rollout.gpu_memory_utilization",
        "validation.top_p",
        "optimizer.clip_grad",
        "grading.memory_bytes",
        "processes",
        "rollout.kv_cache_memory_bytes",
        "validation.max_response_length",
        "algorithm.importance_cap",
        "max_mismatch",
    ),
    not_negative(
        "seed",
        "validation.every",
        "validation.temperature",
        "algorithm.clip_low",
        "algorithm.clip_high",
        "algorithm.kl",
        "optimizer.warmup_steps",
        "optimizer.weight_decay",
        "optimizer.beta1",
        "optimizer.beta2",
        "actor.frozen_layers",
        "checkpoint.tie",
        "algorithm.refills",
    ),
    one_at_most("rollout.gpu_memory_utilization", "validation.top_p"),
    less_than_one("optimizer.beta1", "optimizer.beta2"),
    one_of("dtype", ("bfloat16", "float32")),
    one_of("wandb.mode", ("disabled", "offline", "online")),
    one_of("actor.recompute", ("none", "core_attention", "full")),
)
