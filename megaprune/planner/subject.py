"""What is planned: the fields of a run or of a pruning, and the model's shape."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from megaprune.config.fields import check_rules, nearest, not_negative, read_fields
from megaprune.config.run import DataConfig, check_config
from megaprune.errors import InputError
from megaprune.prune.config import PruneConfig
from megaprune.recipes import RECIPES
from megaprune.recipes.models import CONFIGS
from megaprune.weights.model import Model, read_config


@dataclass
class PlanConfig(PruneConfig):
    """The fields of a pruning, or of a single run if `limits` is empty; a plan wants no files."""

    out: str = ""
    data: DataConfig = field(default_factory=lambda: DataConfig(train=""))

    @property
    def rounds(self) -> list[int]:
        """The limit of each round."""
        return self.limits or [self.rollout.max_response_length]

    @property
    def longest_trained(self) -> int:
        """Tokens of the longest sequence that is learned from."""
        return self.data.max_prompt_length + max(self.rounds)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that an engine may have to hold."""
        return self.data.max_prompt_length + max(
            *self.rounds, self.validation.max_response_length or 0
        )


def read_plan_config(arguments: Sequence[str]) -> PlanConfig:
    """What is to be planned, as `fields.read_fields` reads it.

    Raises:
        InputError: as it does; a value or two together cannot be; limits do not fall.
    """
    config = read_fields(PlanConfig, arguments)
    check_config(config)
    check_rules(config, [not_negative("max_drop")])
    limits = config.limits
    if limits and any(
        argument.startswith("rollout.max_response_length=") for argument in arguments
    ):
        raise InputError(
            "rollout.max_response_length is each round's own; give limits=4000,3000,2000"
        )
    if any(a <= b for a, b in zip(limits, [*limits, 0][1:], strict=True)):
        raise InputError(
            f"limits={limits}; expected numbers of tokens that fall, as in limits=4000,3000,2000"
        )
    return config


def gpus_of_recipe(arguments: Sequence[str]) -> int | None:
    """The number of GPUs that the recipe among the arguments is for; None if it does not say."""
    names = [a.partition("=")[2] for a in arguments if a.startswith("recipe=")]
    if not names or names[-1] not in RECIPES:
        return None
    module = importlib.import_module(RECIPES[names[-1]].partition(":")[0])
    found = getattr(module, "GPUS", {}).get(names[-1])
    return None if found is None else int(found)


@dataclass(frozen=True)
class Shape:
    """A model's shape and context.

    Args:
        name: as it is known, or its folder.
        context: tokens that it can take; 0 if not known.
    """

    name: str
    model: Model
    context: int = 0

    @property
    def parameters(self) -> int:
        """How many, all tensors together."""
        return sum(map(prod, self.model.tensors().values()))


def find_shape(model: str) -> Shape:
    """The shape of a model: of a folder with config.json, else of a released one by its name.

    Args:
        model: the field; of a path that is not there yet, the last part is the name.

    Raises:
        InputError: there is no such folder and no released model of that name is known.
    """
    path = Path(model)
    if (path / "config.json").is_file():
        config = read_config(path)
        context = config.get("max_position_embeddings")
        found = Model.from_config(config, str(path / "config.json"))
        return Shape(model, found, context if isinstance(context, int) else 0)
    if path.name in CONFIGS:
        return Shape(path.name, Model.from_config(CONFIGS[path.name], path.name))
    raise InputError(
        f"model={model} has no config.json, and {path.name!r} is not the name of a released model "
        f"that is known here; {nearest(path.name, list(CONFIGS))}"
    )
