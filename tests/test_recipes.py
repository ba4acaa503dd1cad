"""Recipes hold the published settings, and divide the GPUs that they are for."""

from dataclasses import fields, replace

import pytest

from megaprune.config.fields import leaves
from megaprune.config.run import read_config
from megaprune.evaluation.config import read_evaluate_config
from megaprune.parallelism import Parallel
from megaprune.pruning.config import read_prune_config
from megaprune.recipes import RECIPES
from megaprune.recipes.models import CONFIGS
from megaprune.recipes.thinkprune import GPUS
from megaprune.weights.layouts import Pipeline, vllm_layout
from megaprune.weights.model import Model

# A cut response earns nothing, and the limit is the same for all problems.
TRUNCATE = {
    "name": "truncate", "cut_off": "zero", "soft_value": 0.5, "easy_limit": None, "easy_from": 0.5,
}  # fmt: skip
# arXiv 2504.01296 and its launch scripts; the same for all three models.
PUBLISHED = {
    "limits": [4000, 3000, 2000],
    "data.train_batch_size": 128,
    "rollout.n": 16,
    "rollout.temperature": 1.0,
    "algorithm.num_minibatches": 1,
    "algorithm.rewards": [TRUNCATE],
    "algorithm.advantage.name": "group_std",
    "algorithm.filter.name": "none",
    "algorithm.loss.clip_ratio_low": 0.2,
    "algorithm.loss.clip_ratio_high": 0.2,
    "algorithm.loss.kl_coef": 0.001,
    "algorithm.loss.entropy_coef": 0.001,
    "optimizer.lr": 1e-6,
    "optimizer.warmup_steps": 0,
    "optimizer.weight_decay": 0.01,
    "optimizer.weight_decay_on_vectors": True,
    "optimizer.beta1": 0.9,
    "optimizer.beta2": 0.999,
    "optimizer.clip_grad": 1.0,
    "validation.every": 20,
    "validation.n": 16,
    "validation.temperature": 0.6,
    "validation.top_p": 0.95,
    "checkpoint.every": 20,
}
# Longest prompt, ranks of an engine, GPUs, context of the model in tokens.
MODELS = {
    "r1_distill_qwen_1_5b": (768, 1, 16, 131072, "DeepSeek-R1-Distill-Qwen-1.5B"),
    "deepscaler_1_5b": (768, 1, 16, 131072, "DeepSeek-R1-Distill-Qwen-1.5B"),  # its shapes
    "qwq_32b": (1024, 4, 32, 40960, "QwQ-32B"),
}


@pytest.mark.parametrize("name", MODELS)
def test_published_settings(name):
    found = dict(leaves(read_prune_config([f"recipe={name}"])))
    max_prompt, tp, _, _, _ = MODELS[name]
    expected = PUBLISHED | {"data.max_prompt_length": max_prompt, "rollout.tp": tp}
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize("variant", ["", "_recommended"])
@pytest.mark.parametrize("name", MODELS)
def test_the_gpus_can_be_divided_so(name, variant):
    config = read_prune_config([f"recipe={name}{variant}"])
    max_prompt, _, gpus, context, shapes = MODELS[name]
    model = Model.from_config(CONFIGS[shapes])
    Parallel(config.actor.tp, Pipeline(config.actor.pp), config.actor.sequence_parallel).layout(
        model, gpus, "te"
    )
    vllm_layout(model, config.rollout.tp, gpus // config.rollout.tp)
    assert max_prompt + max(config.limits[0], config.validation.max_response_length) <= context


@pytest.mark.parametrize("name", MODELS)
def test_recommended_differs_in_the_optimizer_alone(name):
    paper, ours = (read_prune_config([f"recipe={name}{v}"]) for v in ("", "_recommended"))
    assert replace(ours, algorithm=paper.algorithm, out=paper.out) == paper
    assert ours.algorithm.to_spec() == {
        "rewards": [TRUNCATE],
        "advantage": {"name": "batch_std"},
        "filter": {"name": "no_signal", "max_resample_rounds": 2},
        "loss": {**paper.algorithm.to_spec()["loss"], "clip_ratio_high": 0.28, "kl_coef": 0.0,
                 "entropy_coef": 0.0},
        "num_minibatches": 1,
    }  # fmt: skip


@pytest.mark.parametrize("name", [name for name in RECIPES if not name.endswith("_test")])
def test_training_takes_a_round_of_it(name):
    config = read_config([f"recipe={name}"])
    assert "{limit}" not in config.data.train
    assert not {f.name for f in fields(config)} & {"limits", "max_drop"}


@pytest.mark.parametrize("name", MODELS)
def test_evaluations_are_of_what_was_pruned(name):
    """With ThinkPrune's sampling: temperature 0.6, top_p 0.95, 32,000 tokens, 64 samples (QwQ 16)."""
    pruning, test = (
        read_prune_config([f"recipe={name}"]),
        read_evaluate_config([f"recipe={name}_test"]),
    )
    max_prompt, tp, gpus, context, _ = MODELS[name]
    assert test.model == f"{pruning.out}/model"
    assert (test.temperature, test.top_p, test.max_response_length) == (0.6, 0.95, 32000)
    assert test.n == (16 if name == "qwq_32b" else None)
    assert test.rollout.tp == tp
    assert max_prompt + test.max_response_length <= context
    assert GPUS[f"{name}_test"] == gpus
