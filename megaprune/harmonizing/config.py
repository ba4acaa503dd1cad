"""The configuration of a harmonizing: that of its training, and how its responses come about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from pydantic import InstanceOf

from megaprune.algorithms import registry
from megaprune.algorithms.algorithm import Algorithm
from megaprune.algorithms.sample_weights import SampleWeights
from megaprune.config.fields import field, section
from megaprune.config.read import read_fields
from megaprune.config.run import Config, OptimizerConfig
from megaprune.errors import InputError

METHODS = ("o1_pruner", "sft", "dpo", "simpo")
"""What can be learned from the responses. Each is also the name of the loss that it has."""


@section("presample")
class PresampleConfig:
    """The responses to the training problems that are weighed, drawn before training begins."""

    folder: str | None = field(
        default=None,
        doc="Folder of an evaluation of the same model on data.train, whose responses are taken "
        "(in the first round). Null: they are drawn.",
    )
    problems: int | None = field(
        default=None,
        gt=0,
        unit="problems",
        doc="How many problems of data.train to draw responses to and to learn from, the first "
        "ones. Null for all (published: 5000).",
    )
    n: int = field(
        default=16,
        gt=0,
        unit="responses",
        doc="Responses to each problem, K; published: 16 for Marco-o1, 12 for QwQ-32B-Preview.",
    )
    temperature: float = field(
        default=1.0,
        ge=0.01,
        le=2,
        doc="Temperature that they are drawn with (published: 0.5). With 1, and a top_p of 1, they "
        "are drawn from the distribution that the loss's ratio is of.",
    )
    top_p: float = field(
        default=1.0,
        gt=0,
        le=1,
        doc="Share of the distribution that is drawn from (published: 0.8).",
    )
    max_response_length: int = field(
        default=4000,
        gt=0,
        unit="tokens",
        doc="Length limit of a response. One that it ends counts as wrong.",
    )
    seed: int = field(
        default=0, ge=0, doc="Seed of the responses; each round after the first adds 1 to it."
    )


@section("test")
class HeldOutConfig:
    """How the model is measured before and after, on problems that training does not see."""

    data: list[str] = field(
        default=[],
        doc="Parquet files or folders with verl's columns; each data_source is a set. Empty: the "
        "model is not measured.",
    )
    before: str | None = field(
        default=None,
        doc="Folder of an evaluation of the start model with the same settings, which is taken. "
        "Null: the start model is measured.",
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
    temperature: float = field(
        default=0.6, ge=0, le=2, doc="With 0 the likeliest token is taken, as published."
    )
    top_p: float = field(
        default=0.95, gt=0, le=1, doc="Share of the distribution that is drawn from."
    )
    seed: int = field(default=0, ge=0, doc="Seed of the responses.")
    budgets: list[int] = field(
        default=[500, 1000, 2000, 4000, 8000, 16000],
        unit="tokens",
        may_change=True,
        doc="Accuracy is also given as if responses longer than each of these were wrong.",
    )


@section(fixed=["steps", "validation.every"])
class HarmonizeConfig(Config):
    """A harmonizing (O1-Pruner, 2501.12570): responses are drawn, weighed, and learned from.

    The other fields are those of each round's training. `rollout.n`,
    `rollout.max_response_length` and `rollout.temperature` follow from `presample`; the
    temperature of the trained log-probs is 1.
    """

    method: str = field(
        default="o1_pruner",
        choices=METHODS,
        doc="What is learned: o1_pruner, all chosen responses by their weights; sft, the shortest "
        "right ones; dpo and simpo, the shortest right one against the longest right one. The "
        "loss is the one of that name.",
    )
    epochs: float = field(
        default=1.0,
        gt=0,
        unit="epochs",
        doc="How often each chosen response is learned from in a round. What is left of the last "
        "batch is not.",
    )
    rounds: int = field(
        default=1,
        gt=0,
        unit="rounds",
        may_change=True,
        doc="Rounds, each with fresh responses of the model that the round before led to, which is "
        "also the reference (published: 1).",
    )
    choose: str = field(
        default="last",
        choices=("last", "best"),
        doc="The model of a round: that of its last step, as published, or the one that validation "
        "found best.",
    )
    warmup_ratio: float = field(
        default=0.1,
        ge=0,
        lt=1,
        doc="Share of a round's steps in which the learning rate rises, rounded up; takes the "
        "place of optimizer.warmup_steps.",
    )
    steps: int = field(
        default=100_000,
        gt=0,
        unit="steps",
        doc="Steps of a round, at most; epochs may need fewer.",
    )
    harmonize: InstanceOf[SampleWeights] = field(
        default=SampleWeights(),
        doc="How responses are weighed by their length and their correctness, and how many of a "
        "problem's are chosen: a preset, or fields.",
    )
    presample: PresampleConfig = PresampleConfig()
    test: HeldOutConfig = HeldOutConfig()
    algorithm: InstanceOf[Algorithm] = field(
        default=Algorithm.from_spec({"loss": {"name": METHODS[0]}}),
        doc="Its loss is that of the method, or one of your own; the responses' weights take the "
        "place of rewards, advantage and filter.",
    )
    optimizer: OptimizerConfig = OptimizerConfig(
        lr=2e-7, schedule="cosine", clip_grad=10.0, weight_decay=0.0
    )

    def __post_init__(self) -> None:
        """Let the fields of a run follow from those of the harmonizing."""
        drawn = self.presample
        rollout = replace(
            self.rollout,
            n=drawn.n,
            max_response_length=drawn.max_response_length,
            temperature=1.0,
        )
        object.__setattr__(self, "rollout", rollout)
        loss = self.algorithm.loss
        name = registry.name_of("loss", loss)
        if self.method in METHODS and name != self.method and not registry.is_own("loss", loss):
            spec = {
                "loss": {"name": self.method},
                "num_minibatches": self.algorithm.num_minibatches,
            }
            object.__setattr__(self, "algorithm", Algorithm.from_spec(spec))
        super().__post_init__()


_FOLLOWING = {
    "rollout.n": "presample.n",
    "rollout.max_response_length": "presample.max_response_length",
    "rollout.temperature": "presample.temperature",
    "optimizer.warmup_steps": "warmup_ratio",
}
"""Fields of a run that follow from others in a harmonizing, and those that are given for them."""


AnyHarmonizing = TypeVar("AnyHarmonizing", bound=HarmonizeConfig)


def read_harmonize_config(arguments: Sequence[str]) -> HarmonizeConfig:
    """Read a harmonizing's configuration, as `config.read.read_fields` does.

    Raises:
        InputError: as `read_harmonize_fields`.
    """
    return read_harmonize_fields(HarmonizeConfig, arguments)


def read_harmonize_fields(kind: type[AnyHarmonizing], arguments: Sequence[str]) -> AnyHarmonizing:
    """Read the fields of a harmonizing into an object of a class.

    Raises:
        InputError: as there, and for a field that follows from another one.
    """
    given = dict(argument.partition("=")[::2] for argument in arguments)
    for name, instead in _FOLLOWING.items():
        if name in given:
            raise InputError(f"{name} is not a harmonizing's to set; give {instead}")
    if not any(name.startswith("algorithm.loss.") for name in given):
        return read_fields(kind, arguments)
    # Fields of a loss are those of the method's, whatever loss a recipe has.
    others = [a for a in arguments if not a.startswith("algorithm.loss.")]
    of_method = registry.name_of("loss", read_fields(kind, others).algorithm.loss)
    loss = given.get("algorithm.loss.name", of_method)
    if loss != of_method and loss in registry.components("loss"):
        raise InputError(
            f"algorithm.loss.name={loss} with method={of_method}; the loss is that of the method"
        )
    return read_fields(kind, [f"algorithm.loss.name={loss}", *arguments])
