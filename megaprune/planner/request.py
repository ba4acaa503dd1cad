"""What is planned: the fields of a run or of a pruning, and the model's shape."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

from megaprune.config.fields import field, nearest, section
from megaprune.config.limits import training_limits
from megaprune.config.read import read_fields
from megaprune.config.run import DataConfig
from megaprune.errors import InputError
from megaprune.pruning.config import PruneConfig
from megaprune.recipes import RECIPES
from megaprune.recipes.models import CONFIGS
from megaprune.rules import falling_problems, learning_problems, refuse
from megaprune.weights.model import Model, read_config
from megaprune.weights.rope import check_supported, context_of


@section()
class PlanConfig(PruneConfig):
    """The fields of a pruning, or of a single run if `limits` is empty; a plan wants no files."""

    out: str = field(default="", may_change=True, doc="Not used: a plan writes nothing.")
    data: DataConfig = DataConfig(train="")

    @property
    def rounds(self) -> list[int]:
        """The limit of each round."""
        return training_limits(self)

    @property
    def longest_trained(self) -> int:
        """Tokens of the longest sequence that is learned from, or of those that stay together."""
        return self.algorithm.unit * (self.data.max_prompt_length + max(self.rounds))


def read_plan_config(arguments: Sequence[str]) -> PlanConfig:
    """Read what is to be planned, as `config.read.read_fields` does.

    Raises:
        InputError: as there; what is learned cannot be so, or limits do not fall.
    """
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
