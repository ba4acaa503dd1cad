"""Recipes hold the published settings, and divide the GPUs that they are for."""

from dataclasses import fields, replace
from pathlib import Path

import pytest

from megaprune import recipes
from megaprune.algorithms import Algorithm
from megaprune.config.fields import leaves
from megaprune.config.run import read_config
from megaprune.errors import InputError
from megaprune.evaluation.config import read_evaluate_config
from megaprune.harmonizing.config import METHODS, read_harmonize_config
from megaprune.parallelism import Parallel
from megaprune.pruning.config import read_prune_config
from megaprune.recipes import RECIPES
from megaprune.recipes.length_harmonizing import GPUS as HARMONIZING_GPUS
from megaprune.recipes.models import CONFIGS
from megaprune.recipes.reasoning_models import GPUS
from megaprune.rules import harmonize_problems
from megaprune.weights.layouts import Pipeline, vllm_layout
from megaprune.weights.model import Model

# A cut response earns nothing, and the limit is the same for all problems.
TRUNCATE = {
    "name": "truncate", "cut_off": "zero", "soft_value": 0.5, "easy_limit": None, "easy_from": 0.5,
}  # fmt: skip
# arXiv 2504.01296 and its launch scripts; the same for all three models.
PUBLISHED = {
    "limits": [4000, 3000, 2000],
    "steps": 190,
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
    "deepscaler_1_5b": (768, 1, 16, 131072, "DeepScaleR-1.5B-Preview"),
    "qwq_32b": (1024, 4, 32, 40960, "QwQ-32B"),
    "r1_distill_qwen_7b": (1024, 1, 8, 131072, "DeepSeek-R1-Distill-Qwen-7B"),
    "r1_distill_qwen_32b": (1024, 4, 32, 131072, "DeepSeek-R1-Distill-Qwen-32B"),
    "qwen3_8b": (1024, 4, 16, 40960, "Qwen3-8B"),
    "qwen3_32b": (1024, 8, 32, 40960, "Qwen3-32B"),
}
OF_THE_PAPER = [name.removesuffix("_paper") for name in RECIPES if name.endswith("_paper")]


@pytest.mark.parametrize("name", OF_THE_PAPER)
def test_published_settings(name):
    found = dict(leaves(read_prune_config([f"recipe={name}_paper"])))
    max_prompt, tp, _, _, _ = MODELS[name]
    expected = PUBLISHED | {"data.max_prompt_length": max_prompt, "rollout.tp": tp}
    assert {key: found[key] for key in expected} == expected


def test_the_models_of_the_paper():
    assert OF_THE_PAPER == ["r1_distill_qwen_1_5b", "deepscaler_1_5b", "qwq_32b"]


@pytest.mark.parametrize("name", MODELS)
def test_the_gpus_can_be_divided_so(name):
    config = read_prune_config([f"recipe={name}"])
    max_prompt, _, gpus, context, shapes = MODELS[name]
    assert config.model == f"models/{shapes}"
    model = Model.from_config(CONFIGS[shapes])
    Parallel(config.actor.tp, Pipeline(config.actor.pp), config.actor.sequence_parallel).layout(
        model, gpus, "te"
    )
    vllm_layout(model, config.rollout.tp, gpus // config.rollout.tp)
    assert max_prompt + max(config.limits[0], config.validation.max_response_length) <= context


@pytest.mark.parametrize("name", MODELS)
def test_all_have_the_algorithm_of_dler(name):
    algorithm = read_prune_config([f"recipe={name}"]).algorithm
    assert algorithm == Algorithm.from_spec("dler")
    assert algorithm.to_spec()["rewards"] == [TRUNCATE]


@pytest.mark.parametrize("name", OF_THE_PAPER)
def test_the_paper_s_differ_in_the_algorithm_alone(name):
    ours, paper = (read_prune_config([f"recipe={name}{v}"]) for v in ("", "_paper"))
    assert replace(ours, algorithm=paper.algorithm, out=paper.out) == paper
    assert ours.out != paper.out
    assert ours.algorithm.to_spec() == {
        "rewards": [TRUNCATE],
        "advantage": {"name": "batch_std"},
        "filter": {"name": "no_signal", "max_resample_rounds": 2},
        "loss": {**paper.algorithm.to_spec()["loss"], "clip_ratio_high": 0.28, "kl_coef": 0.0,
                 "entropy_coef": 0.0},
        "num_minibatches": 1,
        "length": "response",
    }  # fmt: skip


@pytest.mark.parametrize("name", OF_THE_PAPER)
def test_an_old_name_is_answered_with_the_new_one(name):
    answer = f"there is no recipe '{name}_recommended'; its name is '{name}'"
    with pytest.raises(InputError, match=answer):
        read_prune_config([f"recipe={name}_recommended"])
    with pytest.raises(AttributeError, match=answer):
        getattr(recipes, f"{name}_recommended")


def test_qwen3_begins_with_a_long_limit():
    """A beginning under 24,000 tokens failed for it (POLARIS, issue 8)."""
    for name in ("qwen3_8b", "qwen3_32b"):
        config, test = (
            read_prune_config([f"recipe={name}"]),
            read_evaluate_config([f"recipe={name}_test"]),
        )
        assert config.limits[0] > 24000
        assert config.grading.thought == test.grading.thought == "qwen3"


@pytest.mark.parametrize("name", [name for name in RECIPES if not name.endswith("_test")])
def test_training_takes_a_round_of_it(name):
    config = read_config([f"recipe={name}"])
    assert "{limit}" not in config.data.train
    assert not {f.name for f in fields(config)} & {"limits", "max_drop"}


# arXiv 2501.12570 and its released code: K, lambda, learning rate, cutoff, trained layers, model.
HARMONIZED = {
    "marco_o1_7b_harmonize": (16, 2.0, 2e-7, 3072, None, "Marco-o1"),
    "qwq_32b_preview_harmonize": (12, 5.0, 2e-6, 4096, 48, "QwQ-32B-Preview"),
}
OF_O1_PRUNER = {
    "method": "o1_pruner",
    "rounds": 1,
    "epochs": 1.0,
    "warmup_ratio": 0.1,
    "presample.problems": 5000,
    "presample.temperature": 0.5,
    "presample.top_p": 0.8,
    "presample.max_response_length": 8192,
    "rollout.temperature": 1.0,
    "data.train_batch_size": 32,
    "algorithm.loss.name": "o1_pruner",
    "algorithm.loss.clip_ratio_low": 0.2,
    "algorithm.loss.clip_ratio_high": 0.2,
    "algorithm.loss.kl_coef": 0.0,
    "algorithm.loss.entropy_coef": 0.0,
    "harmonize.clip_low": -2.0,
    "harmonize.clip_high": 4.0,
    "harmonize.baseline": "all",
    "harmonize.normalize": "data_set",
    "harmonize.shortness": "all",
    "harmonize.all_wrong": "keep",
    "harmonize.responses": 2,
    "harmonize.end_token": False,
    "optimizer.schedule": "cosine",
    "optimizer.weight_decay": 0.0,
    "optimizer.clip_grad": 10.0,
    "test.temperature": 0.0,
    "test.max_response_length": 8192,
}


@pytest.mark.parametrize("name", HARMONIZED)
def test_published_settings_of_o1_pruner(name):
    found = dict(leaves(read_harmonize_config([f"recipe={name}"])))
    n, lam, lr, cutoff, trainable, shapes = HARMONIZED[name]
    expected = OF_O1_PRUNER | {
        "presample.n": n, "harmonize.lam": lam, "optimizer.lr": lr,
        "data.cutoff": cutoff, "actor.trainable_layers": trainable, "model": f"models/{shapes}",
    }  # fmt: skip
    assert {key: found[key] for key in expected} == expected
    sets = ("math_o1_pruner", "gsm8k", "gaokao2023")
    for file, name_of_set in zip(found["test.data"], sets, strict=True):
        assert Path(file).name.startswith(f"{name_of_set}_")


@pytest.mark.parametrize("name", [*HARMONIZED, "r1_distill_qwen_1_5b_harmonize"])
@pytest.mark.parametrize("method", METHODS)
def test_harmonizings_and_their_baselines_obey_the_rules(name, method):
    fields = [f"recipe={name}", f"method={method}"]
    if method in ("dpo", "simpo") and name not in HARMONIZED:
        fields.append("actor.max_tokens=34048")  # both of a pair are in one micro-batch
    config = read_harmonize_config(fields)
    assert [*harmonize_problems(config)] == []
    model = Model.from_config(CONFIGS[Path(config.model).name])
    Parallel.of(config.actor).layout(model, HARMONIZING_GPUS[name], "te")
    vllm_layout(model, config.rollout.tp, HARMONIZING_GPUS[name] // config.rollout.tp)


@pytest.mark.parametrize("name", MODELS)
def test_evaluations_are_of_what_was_pruned(name):
    """With ThinkPrune's sampling: temperature 0.6, top_p 0.95, 32,000 tokens, 64 samples (of 32B, 16)."""
    pruning, test = (
        read_prune_config([f"recipe={name}"]),
        read_evaluate_config([f"recipe={name}_test"]),
    )
    max_prompt, tp, gpus, context, _ = MODELS[name]
    assert test.model == f"{pruning.out}/model"
    assert (test.temperature, test.top_p, test.max_response_length) == (0.6, 0.95, 32000)
    assert test.n == (16 if name.endswith("32b") else None)
    assert test.rollout.tp == tp
    assert max_prompt + test.max_response_length <= context
    assert GPUS[f"{name}_test"] == gpus
