"""The variants of a study: their names, their fields, and which command each is of."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from dataclasses import fields as fields_of
from typing import Any

from omegaconf import OmegaConf

from megaprune.config.fields import shown
from megaprune.config.read import dotted, read_recipe
from megaprune.config.run import Config
from megaprune.errors import InputError
from megaprune.evaluation.config import EvaluateConfig
from megaprune.harmonizing.config import HarmonizeConfig
from megaprune.recipes import RECIPES
from megaprune.study.config import StudyConfig

Fields = Mapping[str, Any]
"""Values of fields by their dotted names."""


@dataclass(frozen=True)
class Variant:
    """One way to train: its name, and the fields that it has beside those of all runs."""

    name: str
    fields: Fields


def study_problems(config: StudyConfig) -> Iterator[str]:
    """Yield what is wrong with the fields of a study by themselves."""
    if not config.seeds or len({*config.seeds}) < len(config.seeds):
        yield f"seeds={config.seeds}; expected one or more, each once"
    for name, fields in config.variants.items():
        if fields is not None and not isinstance(fields, Mapping):
            yield (
                f"variants.{name}={fields!r}; expected a mapping of fields to values, as in "
                f"variants.{name}.algorithm.reward.name=relative"
            )


def variants_of(config: StudyConfig) -> list[Variant]:
    """Return all variants, each with every combination of the grid.

    Raises:
        InputError: two have the same name, or a name cannot be that of a folder.
    """
    named = {name: dict(dotted(fields or {})) for name, fields in config.variants.items()}
    grid = {name: _values(name, value) for name, value in dotted(config.grid)}
    variants = []
    for (name, fields), values in itertools.product(
        (named or {"": {}}).items(), itertools.product(*grid.values())
    ):
        chosen = dict(zip(grid, values, strict=True))
        parts = [name] * bool(name) + [_label(field, chosen[field]) for field in chosen]
        variants.append(Variant("_".join(parts) or "run", {**fields, **chosen}))
    names = [variant.name for variant in variants]
    for name in names:
        if not re.fullmatch(r"[\w+=-][\w.+=-]*", name):
            raise InputError(
                f"variant {name!r} cannot be the name of a folder; expected letters, digits and "
                f"any of . _ + = -"
            )
        if names.count(name) > 1:
            raise InputError(f"two variants have the name {name!r}; give each a name of its own")
    return variants


def command_of(shared: Fields, variant: Variant) -> str:
    """Say which command trains a variant, or measures it: train, harmonize or evaluate.

    It is that of its recipe, or else the one that has all of its fields.

    Args:
        shared: fields of all runs.
    """
    if variant.fields.keys() & _ONLY_OF_EVALUATIONS:
        return "evaluate"
    given = {**shared, **variant.fields}
    if (recipe := given.get("recipe")) in RECIPES:
        kind = type(read_recipe(str(recipe)))
        return {EvaluateConfig: "evaluate", HarmonizeConfig: "harmonize"}.get(kind, "train")
    first = {name.partition(".")[0] for name in given}
    return "harmonize" if first & _ONLY_OF_HARMONIZINGS else "train"


def _names(kind: type) -> set[str]:
    return {each.name for each in fields_of(kind)}


_ONLY_OF_HARMONIZINGS = _names(HarmonizeConfig) - _names(Config)
_ONLY_OF_EVALUATIONS = {"data", *(_names(EvaluateConfig) - _names(HarmonizeConfig))}
"""A run has sections with these names, or nothing."""


def _values(name: str, value: Any) -> list[Any]:
    """The values of a field of the grid; text is a list as on the command line: a,b,c."""
    if isinstance(value, str):
        content: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value=[{value}]"]))
        value = content["value"]
    if not isinstance(value, list):
        value = [value]
    if not value:
        raise InputError(f"grid.{name}=[]; expected one value or more")
    return list(value)


def _label(name: str, value: Any) -> str:
    """How a variant is named for a value of the grid: text by itself, else lr=0.001."""
    text = re.sub(r"[^\w.+-]+", "-", shown(value)).strip("-")
    return text if isinstance(value, str) else f"{name.rpartition('.')[2]}={text}"
