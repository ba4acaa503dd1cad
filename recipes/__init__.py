"""Recipes: known runs and models, ready to be changed."""

RECIPES = {
    "tiny_overthinker": "megaprune.recipes.tiny_overthinker:config",
    "tiny_overthinker_rounds": "megaprune.recipes.tiny_overthinker:rounds",
    "tiny_overthinker_test": "megaprune.recipes.tiny_overthinker:test",
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
"""Functions that make the fields of a run, a pruning or an evaluation, by the name that `recipe=`
takes."""
