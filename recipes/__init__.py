"""Recipes: known runs and models, ready to be changed.

Each name in `RECIPES` is a function of this module: `recipes.tiny_overthinker()` makes its fields.
"""

from importlib import import_module
from typing import Any

RECIPES = {
    "tiny_overthinker": "megaprune.recipes.tiny:config",
    "tiny_overthinker_rounds": "megaprune.recipes.tiny:rounds",
    "tiny_overthinker_test": "megaprune.recipes.tiny:test",
    "r1_distill_qwen_1_5b": "megaprune.recipes.thinkprune:r1_distill_qwen_1_5b",
    "r1_distill_qwen_1_5b_test": "megaprune.recipes.thinkprune:r1_distill_qwen_1_5b_test",
    "r1_distill_qwen_1_5b_recommended": (
        "megaprune.recipes.thinkprune:r1_distill_qwen_1_5b_recommended"
    ),
    "deepscaler_1_5b": "megaprune.recipes.thinkprune:deepscaler_1_5b",
    "deepscaler_1_5b_test": "megaprune.recipes.thinkprune:deepscaler_1_5b_test",
    "deepscaler_1_5b_recommended": "megaprune.recipes.thinkprune:deepscaler_1_5b_recommended",
    "qwq_32b": "megaprune.recipes.thinkprune:qwq_32b",
    "qwq_32b_test": "megaprune.recipes.thinkprune:qwq_32b_test",
    "qwq_32b_recommended": "megaprune.recipes.thinkprune:qwq_32b_recommended",
}
"""Functions that return the fields of a run, a pruning or an evaluation, by the name that `recipe=`
takes."""


def __getattr__(name: str) -> Any:
    if name not in RECIPES:
        raise AttributeError(f"there is no recipe {name!r}; expected one of {', '.join(RECIPES)}")
    module, _, function = RECIPES[name].partition(":")
    return getattr(import_module(module), function)


def __dir__() -> list[str]:
    return sorted(RECIPES)
