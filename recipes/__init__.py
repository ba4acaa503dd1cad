"""Recipes: known runs and models, ready to be changed.

Each name in `RECIPES` is a function of this module: `recipes.tiny_overthinker()` makes its fields.
"""

from importlib import import_module
from typing import Any

_OF_RELEASED_MODELS = (
    "r1_distill_qwen_1_5b",
    "r1_distill_qwen_1_5b_paper",
    "r1_distill_qwen_1_5b_test",
    "r1_distill_qwen_7b",
    "r1_distill_qwen_7b_test",
    "r1_distill_qwen_32b",
    "r1_distill_qwen_32b_test",
    "deepscaler_1_5b",
    "deepscaler_1_5b_paper",
    "deepscaler_1_5b_test",
    "qwq_32b",
    "qwq_32b_paper",
    "qwq_32b_test",
    "qwen3_8b",
    "qwen3_8b_test",
    "qwen3_32b",
    "qwen3_32b_test",
)

_HARMONIZED = (
    "marco_o1_7b_harmonize",
    "qwq_32b_preview_harmonize",
    "r1_distill_qwen_1_5b_harmonize",
)

RECIPES = {
    "tiny_overthinker": "megaprune.recipes.tiny:config",
    "tiny_overthinker_rounds": "megaprune.recipes.tiny:rounds",
    "tiny_overthinker_harmonize": "megaprune.recipes.tiny:harmonize",
    "tiny_overthinker_test": "megaprune.recipes.tiny:test",
    "tiny_reasoner": "megaprune.recipes.tiny:reasoner",
    "tiny_reasoner_harmonize": "megaprune.recipes.tiny:reasoner_harmonize",
    "tiny_reasoner_test": "megaprune.recipes.tiny:reasoner_test",
    **{name: f"megaprune.recipes.reasoning_models:{name}" for name in _OF_RELEASED_MODELS},
    **{name: f"megaprune.recipes.length_harmonizing:{name}" for name in _HARMONIZED},
}
"""Functions that return the fields of a run, a pruning, a harmonizing or an evaluation, by the name
that `recipe=` takes."""

RENAMED = {
    "r1_distill_qwen_1_5b_recommended": "r1_distill_qwen_1_5b",
    "deepscaler_1_5b_recommended": "deepscaler_1_5b",
    "qwq_32b_recommended": "qwq_32b",
}
"""Recipes that had other names, and the names that they have now."""


def __getattr__(name: str) -> Any:
    if name in RENAMED:
        raise AttributeError(f"there is no recipe {name!r}; its name is {RENAMED[name]!r}")
    if name not in RECIPES:
        raise AttributeError(f"there is no recipe {name!r}; expected one of {', '.join(RECIPES)}")
    module, _, function = RECIPES[name].partition(":")
    return getattr(import_module(module), function)


def __dir__() -> list[str]:
    return sorted(RECIPES)
