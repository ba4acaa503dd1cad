"""The configuration of a run, section by section."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydantic import InstanceOf

from megaprune.algorithms.algorithm import Algorithm
from megaprune.algorithms.presets import DEFAULT
from megaprune.config.fields import field, section
from megaprune.config.read import read_fields
from megaprune.grading.thought import THOUGHTS


@section("data")
class DataConfig:
    """The problems that are trained on and measured on."""

    train: str = field(
        doc="Parquet file or folder with verl's columns. {limit} in it stands for "
        "rollout.max_response_length."
    )
    validation: str | None = field(
        default=None, doc="The same, for the problems that validation measures on. Null for none."
    )
    train_batch_size: int = field(default=128, gt=0, unit="problems", doc="Problems of a step.")
    order: str = field(
        default="shuffled",
        doc="Order of the problems: shuffled (each once an epoch), or a class of your own, as "
        "module:Class or path/to/file.py:Class (see `data.order.ProblemOrder`).",
    )
    rollouts: str | None = field(
        default=None,
        doc="Folder of an evaluation or a run whose responses are learned from. Null: new ones are "
        "drawn.",
    )
    weights: str | None = field(
        default=None,
        doc="Folder of a harmonizing's round, whose chosen responses are learned from by their "
        "weights; data.rollouts has them. A batch is then of that many of them.",
    )
    cutoff: int | None = field(
        default=None,
        gt=1,
        unit="tokens",
        doc="How many a prompt and a response with a weight may have together; both are cut at "
        "their ends to fit, as O1-Pruner's code does (3072 for Marco-o1, 4096 for QwQ). A response "
        "that is cut has no end token, and the weight of all of it. Null: nothing is cut.",
    )
    references: str | None = field(
        default=None,
        doc="Folder of the reference model's evaluation on data.train, for rewards that compare "
        "with its responses (harmonize, profile).",
    )
    max_prompt_length: int = field(
        default=1024,
        gt=0,
        unit="tokens",
        doc="Problems with longer prompts are dropped, and counted.",
    )
    duplicates: str = field(
        default="keep",
        choices=("keep", "drop"),
        doc="What becomes of problems whose prompt an earlier one has; they are counted always.",
    )
    enable_thinking: bool | None = field(
        default=None,
        doc="The variable of this name of the chat template, as Qwen3's has it: false switches "
        "thoughts off (then grading.thought=none). Null: it is not set.",
    )


@section("rollout")
class EngineConfig:
    """The vLLM engines that generate responses; there are as many as the ranks allow."""

    tp: int = field(
        default=1, gt=0, unit="ranks", may_change=True, doc="Tensor parallel size of an engine."
    )
    max_num_seqs: int = field(
        default=256,
        gt=0,
        le=8192,
        unit="responses",
        may_change=True,
        doc="Responses that an engine works on at once.",
    )
    kv_cache_memory_bytes: int | None = field(
        default=None,
        gt=0,
        unit="bytes",
        may_change=True,
        doc="Size of a rank's key-value cache. Null for what gpu_memory_utilization leaves; on a "
        "CPU, for what max_num_seqs responses take, and 1 GiB at most.",
    )
    gpu_memory_utilization: float = field(
        default=0.9,
        gt=0,
        le=1,
        may_change=True,
        doc="Share of a GPU's memory that an engine may take; here it has the GPU to itself.",
    )
    enforce_eager: bool = field(
        default=False, may_change=True, doc="Whether vLLM does without CUDA graphs and compilation."
    )


@section("rollout")
class RolloutConfig(EngineConfig):
    """The responses that are learned from, and the vLLM engines that generate them."""

    n: int = field(default=16, gt=0, unit="responses", doc="Responses to each prompt: a group.")
    max_response_length: int = field(
        default=4000,
        gt=0,
        unit="tokens",
        doc="Length limit of a response. What is not finished by then earns nothing.",
    )
    temperature: float = field(
        default=1.0,
        ge=0.01,
        le=2,
        doc="Temperature that responses are drawn with; the bounds are vLLM's.",
    )
    carry_over: bool = field(
        default=False,
        doc="Whether groups that a step drew and did not need are the first of the next step, "
        "though older weights drew them. Else their problems are drawn anew.",
    )
    gpu_memory_utilization: float = field(
        default=0.6,
        gt=0,
        le=1,
        may_change=True,
        doc="Share of a GPU's memory that an engine may take beside the model in training.",
    )


@section("grading")
class GradingConfig:
    """Who says whether an answer is right."""

    default: str = field(
        default="strict",
        doc="Name of the grader: strict, last_box, lenient, olympiad, or a function of your own, "
        "as module:function or path/to/file.py:function.",
    )
    thought: str = field(
        default="think",
        choices=tuple(THOUGHTS),
        doc="How the family of the model marks a thought, behind which the graders strict and "
        "olympiad look: think (R1 and its distillations, QwQ), qwen3 (the same, or no thought), "
        "marco, s1, openthinker, or none.",
    )
    graders: dict[str, str] = field(
        default={},
        doc="Other graders by data_source. Known sets have theirs (`megaprune data --list`).",
    )
    boxes: str = field(
        default="all",
        choices=("all", "last"),
        doc="Boxes side by side at the end of an answer: all of them are one list, or the last one "
        "is the answer.",
    )
    workers: int = field(
        default=2, gt=0, unit="processes", may_change=True, doc="Grading processes of each engine."
    )
    seconds: float = field(
        default=5.0,
        gt=0,
        unit="seconds",
        may_change=True,
        doc="CPU time that grading an answer may take; of wall time, four times as much.",
    )
    memory_bytes: int = field(
        default=2 << 30,
        ge=128 << 20,  # Python and the graders take about 60 MB
        unit="bytes",
        may_change=True,
        doc="Memory limit of a grading process.",
    )
    environment: list[str] = field(
        default=[],
        may_change=True,
        doc="Names of environment variables that grading processes get, beside those that Python "
        "needs: a grader of your own may want a key. They get no others.",
    )


@section("optimizer")
class OptimizerConfig:
    """Adam and its learning rate."""

    lr: float = field(default=1e-6, gt=0, doc="Learning rate.")
    schedule: str = field(
        default="constant",
        choices=("constant", "cosine"),
        doc="The learning rate after the warm-up: lr, or half a cosine that falls from lr to 0 at "
        "the end of `steps`. As in transformers, a warm-up before a cosine begins at 0: the first "
        "step changes nothing. A run that goes on with other `steps` takes their cosine.",
    )
    warmup_steps: int = field(
        default=0,
        ge=0,
        unit="steps",
        doc="Length of the linear warm-up; with 0 the first step has all of lr.",
    )
    weight_decay: float = field(default=0.01, ge=0, doc="Decoupled weight decay.")
    weight_decay_on_vectors: bool = field(
        default=False,
        doc="Whether norms and biases decay too, as with torch's AdamW and not in Megatron-LM.",
    )
    beta1: float = field(default=0.9, ge=0, lt=1, doc="Adam's decay of the mean of gradients.")
    beta2: float = field(
        default=0.999, ge=0, lt=1, doc="Adam's decay of the mean of their squares."
    )
    clip_grad: float = field(
        default=1.0, ge=0, doc="Largest norm of the gradient; with 0 it is not clipped."
    )
    distributed: bool = field(
        default=True, doc="Whether data-parallel replicas divide the optimizer's state among them."
    )
    on_cpu: float = field(
        default=0.0,
        ge=0,
        le=1,
        may_change=True,
        doc="Share of the optimizer's state that stays in the host's memory, and is updated there "
        "by the CPU; needs optimizer.distributed=true and dtype=bfloat16.",
    )


OFFLOADS = ("none", "optimizer", "all")
"""Values of actor.offload, in the order of what leaves the GPU."""


@section("actor")
class ActorConfig:
    """The model in training, a Megatron model; replicas take the ranks that tp x pp leaves."""

    tp: int = field(default=1, gt=0, unit="ranks", may_change=True, doc="Tensor parallel size.")
    pp: int = field(default=1, gt=0, unit="stages", may_change=True, doc="Pipeline parallel size.")
    vpp: int = field(
        default=1,
        gt=0,
        unit="chunks",
        may_change=True,
        doc="Virtual stages of each pipeline stage.",
    )
    num_layers_in_first_pipeline_stage: int | None = field(
        default=None, gt=0, unit="layers", may_change=True, doc="Null for an even share."
    )
    num_layers_in_last_pipeline_stage: int | None = field(
        default=None, gt=0, unit="layers", may_change=True, doc="Null for an even share."
    )
    sequence_parallel: bool = field(
        default=False,
        may_change=True,
        doc="Whether activations between tensor-parallel layers are divided too; needs tp > 1.",
    )
    max_tokens: int = field(
        default=8192, gt=0, unit="tokens", may_change=True, doc="Size of a micro-batch, at most."
    )
    recompute: str = field(
        default="none",
        choices=("none", "core_attention", "full"),
        may_change=True,
        doc="Which activations are computed again in the backward pass.",
    )
    offload: str = field(
        default="none",
        choices=OFFLOADS,
        may_change=True,
        doc="What leaves the GPU while it is not needed: gradients and the optimizer's state, or "
        "also the weights, which the engine has while it generates. It costs memory of the host, "
        "and does nothing in a run without an engine.",
    )
    frozen_layers: int = field(
        default=0,
        ge=0,
        unit="layers",
        doc="The embedding and this many first layers are not trained; with 0 all is.",
    )
    trainable_layers: int | None = field(
        default=None,
        gt=0,
        unit="layers",
        doc="Only this many last layers are trained, and neither the embedding nor the final norm "
        "and the head. Null: what frozen_layers leaves is trained.",
    )


@section("validation")
class ValidationConfig:
    """How the model is measured on data.validation."""

    every: int = field(
        default=20,
        ge=0,
        unit="steps",
        may_change=True,
        doc="Steps between; also after the last. 0: never.",
    )
    first: bool = field(default=True, doc="Whether to measure before the first step too.")
    n: int = field(default=1, gt=0, unit="responses", doc="Responses to each problem.")
    temperature: float = field(default=0.6, ge=0, le=2, doc="With 0 the likeliest token is taken.")
    top_p: float = field(
        default=0.95, gt=0, le=1, doc="Share of the distribution that is drawn from."
    )
    max_response_length: int | None = field(
        default=None,
        gt=0,
        unit="tokens",
        doc="Length limit of a response. Null for 4 times that of training (of a pruning's first "
        "round), as far as the model's context goes.",
    )


@section("checkpoint")
class CheckpointConfig:
    """When checkpoints are written, and which are kept."""

    every: int = field(
        default=20, gt=0, unit="steps", may_change=True, doc="Steps between; also after the last."
    )
    keep_last: int = field(
        default=2, gt=0, unit="checkpoints", may_change=True, doc="How many of the newest are kept."
    )
    keep_best: bool = field(
        default=True, may_change=True, doc="Whether the one that validation found best is kept too."
    )
    tie: float = field(
        default=0.0,
        ge=0,
        unit="points of 100",
        doc="Accuracies that differ by this or less are equal: the shorter responses win.",
    )
    wait: bool = field(
        default=False, may_change=True, doc="Whether training waits until a checkpoint is on disk."
    )
    verify: str = field(
        default="full",
        choices=("full", "sample", "off"),
        may_change=True,
        doc="How much of a checkpoint is compared with its digests before it is used: all, about a "
        "sixteenth, or nothing.",
    )
    on_damage: str = field(
        default="previous",
        choices=("previous", "stop"),
        may_change=True,
        doc="Whether a run whose checkpoint is damaged goes on from the whole one before it, or "
        "stops.",
    )


@section("samples")
class SamplesConfig:
    """Which responses of training a run keeps. Those of validations and failed steps all stay."""

    keep_last: int | None = field(
        default=None,
        ge=0,
        unit="steps",
        may_change=True,
        doc="Those of this many last steps. Null for those of all steps, 0 for none.",
    )
    tokens: bool = field(
        default=True,
        may_change=True,
        doc="Whether tokens and log-probs are kept too, without which nothing can be learned from "
        "them later.",
    )


@section("wandb")
class WandbConfig:
    """Weights & Biases."""

    mode: str = field(
        default="disabled",
        choices=("disabled", "offline", "online"),
        may_change=True,
        doc="Whether metrics go there, or to files for later.",
    )
    project: str = field(default="megaprune", may_change=True, doc="Project there.")
    name: str | None = field(
        default=None, may_change=True, doc="Name of the run. Null for the name of its folder."
    )
    group: str | None = field(
        default=None,
        may_change=True,
        doc="Group of runs that it is in. Null for none; in a pruning, for the name of its folder.",
    )


TENSORBOARD = field(
    default=False,
    may_change=True,
    doc="Whether metrics go to files for TensorBoard too, in the folder's tensorboard/.",
)


@section()
class Config:
    """A training run."""

    model: str = field(
        doc="Hugging Face folder that the run begins with, or OWNER/NAME of a model on the hub."
    )
    out: str = field(may_change=True, doc="Folder of the run. A run that is there already goes on.")
    steps: int = field(default=200, gt=0, unit="steps", may_change=True, doc="Steps in all.")
    seed: int = field(
        default=0,
        ge=0,
        doc="Seed of the order of problems, of the responses, and of Python's, numpy's and torch's "
        "random numbers.",
    )
    dtype: str = field(
        default="bfloat16", choices=("bfloat16", "float32"), doc="Type of weights and activations."
    )
    processes: int | None = field(
        default=None,
        gt=0,
        unit="processes",
        may_change=True,
        doc="How many to start on this host, where torchrun has not. Null for one for each GPU, or "
        "on a CPU as few as the parallelism needs.",
    )
    deterministic: bool = field(
        default=False,
        may_change=True,
        doc="Whether the actor adds in a fixed order on a GPU, so that the same training gives the "
        "same bits. Its attention is slower then. On a CPU the order is fixed always.",
    )
    max_mismatch: float | None = field(
        default=0.5,
        gt=0,
        unit="nats",
        may_change=True,
        doc="The run stops when the log-probs of both engines differ by more, on average. Null: "
        "never.",
    )
    max_failed_steps: int | None = field(
        default=3,
        gt=0,
        unit="steps",
        may_change=True,
        doc="The run stops when so many steps in a row have responses that all fail for one "
        "reason, as cut off or no answer; wrong answers are none. Null: never.",
    )
    strict: bool = field(
        default=False,
        may_change=True,
        doc="Whether a run is refused, and not only warned of, that will likely lack memory or "
        "disk.",
    )
    data: DataConfig
    rollout: RolloutConfig = RolloutConfig()
    grading: GradingConfig = GradingConfig()
    algorithm: InstanceOf[Algorithm] = field(
        default=Algorithm.from_spec(DEFAULT),
        doc="What is learned from graded responses: a preset, or rewards, an advantage, a filter "
        "and a loss, each by its name and fields.",
    )
    optimizer: OptimizerConfig = OptimizerConfig()
    actor: ActorConfig = ActorConfig()
    validation: ValidationConfig = ValidationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    samples: SamplesConfig = SamplesConfig()
    wandb: WandbConfig = WandbConfig()
    tensorboard: bool = TENSORBOARD

    def __post_init__(self) -> None:
        """Put the length limit into the names of files that stand for it with {limit}."""
        limit = str(self.rollout.max_response_length)
        train, validation = self.data.train, self.data.validation
        data = replace(
            self.data,
            train=train.replace("{limit}", limit),
            validation=validation and validation.replace("{limit}", limit),
        )
        object.__setattr__(self, "data", data)


def read_config(arguments: Sequence[str]) -> Config:
    """Read a run's configuration from a recipe and key=value, as `config.read.read_fields` does.

    Raises:
        InputError: as there.
    """
    return read_fields(Config, arguments)
