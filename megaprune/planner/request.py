"""What is planned: the fields of a run or of a pruning, and the model's shape."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import ClassVar, TypeAlias

from megaprune.config.fields import field, nearest, section
from megaprune.config.limits import needs_engine, training_limits
from megaprune.config.read import read_fields, read_recipe, yaml_mapping
from megaprune.config.run import Config, DataConfig, EngineConfig
from megaprune.errors import InputError
from megaprune.harmonizing.config import HarmonizeConfig, read_harmonize_fields
from megaprune.harmonizing.rounds import steps_of
from megaprune.pruning.config import PruneConfig
from megaprune.recipes import RECIPES
from megaprune.recipes.models import CONFIGS
from megaprune.rules import falling_problems, learning_problems, refuse, weighing_problems
from megaprune.weights.model import Model, read_config
from megaprune.weights.rope import check_supported, context_of


@section()
class PlanConfig(PruneConfig):
    """The fields of a pruning, or of a single run if `limits` is empty; a plan wants no files."""

    out: str = field(default="", may_change=True, doc="Not used: a plan writes nothing.")
    data: DataConfig = DataConfig(train="")

    @property
    def round_limits(self) -> list[int]:
        """The limit of each round."""
        return training_limits(self)

    @property
    def longest_trained(self) -> int:
        """Tokens of the longest sequence that is learned from, or of those that stay together."""
        return self.algorithm.unit * (self.data.max_prompt_length + max(self.round_limits))

    @property
    def prompts(self) -> int:
        """Prompts that the engines answer in a step; none if it learns from stored responses."""
        return 0 if self.data.rollouts is not None else self.data.train_batch_size

    @property
    def learned_samples(self) -> int:
        """Responses that are learned from in a step."""
        return self.data.train_batch_size * self.rollout.n

    @property
    def passes(self) -> frozenset[str]:
        """Log-probs that take a pass of the model in a step."""
        return self.algorithm.needs & {"reference", "old"}

    @property
    def engines(self) -> list[PlanConfig]:
        """The same plan for each kind of engine that the run starts, with that engine's fields."""
        return [self] if self.engine_beside else []

    @property
    def engine_beside(self) -> bool:
        """Whether engines share the GPUs with the model in training."""
        return needs_engine(self)

    @property
    def offload(self) -> str:
        """What leaves the GPU for the engines, if there are any."""
        return self.actor.offload if self.engine_beside else "none"


@section()
class HarmonizePlanConfig(HarmonizeConfig):
    """The fields of a harmonizing, as `PlanConfig` has those of a pruning."""

    limits: ClassVar[list[int]] = []

    out: str = field(default="", may_change=True, doc="Not used: a plan writes nothing.")
    data: DataConfig = DataConfig(train="")

    @property
    def round_limits(self) -> list[int]:
        """The limit of each round, which is the same for all."""
        return [self.presample.max_response_length] * self.rounds

    @property
    def longest_trained(self) -> int:
        """Tokens of the longest sequence that is learned from, or of those that stay together."""
        longest = self.data.max_prompt_length + max(self.round_limits)
        return self.algorithm.unit * min(longest, self.data.cutoff or longest)

    @property
    def prompts(self) -> int:
        """Prompts that the engines answer in a step: none, responses are drawn before."""
        return 0

    @property
    def learned_samples(self) -> int:
        """Responses that are learned from in a step."""
        return self.data.train_batch_size * self.algorithm.unit

    @property
    def passes(self) -> frozenset[str]:
        """Log-probs that take a pass in a step; the reference's are computed once, before."""
        return self.algorithm.needs & {"old"}

    @property
    def sampling(self) -> HarmonizePlanConfig:
        """The same plan, with the fields of the engines that draw the responses.

        The GPUs are theirs alone: the model is trained after they have ended.
        """
        share = EngineConfig().gpu_memory_utilization
        return replace(self, rollout=replace(self.rollout, gpu_memory_utilization=share))

    @property
    def engines(self) -> list[HarmonizePlanConfig]:
        """The same plan for each kind of engine that is started, with that engine's fields."""
        return [self.sampling, *([self] if self.engine_beside else [])]

    @property
    def engine_beside(self) -> bool:
        """Whether engines share the GPUs with the model in training; they only measure it."""
        return self.data.validation is not None

    @property
    def offload(self) -> str:
        """What leaves the GPU for the engines, if there are any."""
        return self.actor.offload if self.engine_beside else "none"

    def count_problems(self, assumed: int) -> int:
        """How many problems responses are drawn to, of so many in data.train."""
        return min(assumed, self.presample.problems or assumed)

    def groups(self, problems: int) -> int:
        """How many groups can be chosen from so many problems, if all have right responses."""
        wanted = self.harmonize.responses
        of_each = self.presample.n if wanted == "all" else wanted
        return problems * (1 if self.algorithm.unit > 1 else of_each)


AnyPlan: TypeAlias = PlanConfig | HarmonizePlanConfig
"""What can be planned."""


def plan_of(config: Config) -> AnyPlan:
    """Return what is to be planned of a run, a pruning or a harmonizing."""
    kind = HarmonizePlanConfig if isinstance(config, HarmonizeConfig) else PlanConfig
    return kind(**{each.name: getattr(config, each.name) for each in fields(config)})


def with_steps(config: AnyPlan, problems: int) -> AnyPlan:
    """Return the same with the steps of a round; those of a harmonizing follow from its problems.

    Args:
        problems: of data.train.

    Raises:
        InputError: they are not enough for a step.
    """
    if isinstance(config, PlanConfig):
        return config
    return replace(config, steps=steps_of(config, config.groups(config.count_problems(problems))))


def plan_kind(arguments: Sequence[str]) -> type[PlanConfig] | type[HarmonizePlanConfig]:
    """Say what is planned: a harmonizing if the recipe is one, or a field that only it has."""
    given = dict(argument.partition("=")[::2] for argument in arguments)
    recipe = given.get("recipe", "")
    if recipe in RECIPES and isinstance(read_recipe(recipe), HarmonizeConfig):
        return HarmonizePlanConfig
    names = [*given, *(_top_names(Path(recipe)) if recipe.endswith((".yaml", ".yml")) else ())]
    own = {each.name for each in fields(HarmonizePlanConfig)}
    own -= {each.name for each in fields(PlanConfig)}
    return HarmonizePlanConfig if any(n.partition(".")[0] in own for n in names) else PlanConfig


def _top_names(path: Path) -> list[str]:
    """The fields and sections in a recipe's file; none if it cannot be read."""
    try:
        return [*yaml_mapping(path.read_text(encoding="utf-8"))]
    except (OSError, UnicodeDecodeError, InputError):
        return []


def read_plan_config(arguments: Sequence[str]) -> AnyPlan:
    """Read what is to be planned, as `config.read.read_fields` does.

    Raises:
        InputError: as there; what is learned cannot be so, or limits do not fall.
    """
    if plan_kind(arguments) is HarmonizePlanConfig:
        harmonizing = read_harmonize_fields(HarmonizePlanConfig, arguments)
        refuse(weighing_problems(harmonizing))
        return harmonizing
    config = read_fields(PlanConfig, arguments)
    if config.limits and any(a.startswith("rollout.max_response_length=") for a in arguments):
        raise InputError(
            "rollout.max_response_length is each round's own; give limits=4000,3000,2000"
        )
    refuse([*falling_problems(config.limits), *learning_problems(config)])
    return config


def gpus_of_recipe(arguments: Sequence[str]) -> int | None:
    """Return the number of GPUs that the recipe among the arguments is for; None if unknown."""
    names = [a.partition("=")[2] for a in arguments if a.startswith("recipe=")]
    if not names or names[-1] not in RECIPES:
        return None
    module = importlib.import_module(RECIPES[names[-1]].partition(":")[0])
    gpus = getattr(module, "GPUS", {}).get(names[-1])
    return None if gpus is None else int(gpus)


@dataclass(frozen=True)
class ModelShape:
    """A model's shape and context.

    Args:
        name: as it is known, or its folder.
        context: tokens that it can take; 0 if not known.
    """

    name: str
    model: Model
    context: int = 0

    @cached_property
    def parameters(self) -> int:
        """How many, all tensors together."""
        return sum(map(prod, self.model.tensors().values()))


def find_shape(model: str) -> ModelShape:
    """Return the shape of a folder with config.json, else of a released model by its name.

    Args:
        model: the field; of a path that is not there yet, the last part is the name.

    Raises:
        InputError: there is no such folder and no released model of that name is known.
    """
    path = Path(model)
    if (path / "config.json").is_file():
        config = read_config(path)
        known = Model.from_config(config, str(path / "config.json"))
        check_supported(config)
        return ModelShape(model, known, context_of(config))
    if path.name in CONFIGS:
        return ModelShape(path.name, Model.from_config(CONFIGS[path.name], path.name))
    raise InputError(
        f"model={model} has no config.json, and {path.name!r} is not the name of a released model "
        f"that is known here; {nearest(path.name, list(CONFIGS))}"
    )
