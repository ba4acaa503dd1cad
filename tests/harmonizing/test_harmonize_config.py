"""The fields of a harmonizing: what follows from others, and what cannot be together."""

import math

import pytest

from megaprune.cli.main import main
from megaprune.config.read import from_yaml, to_yaml
from megaprune.errors import InputError
from megaprune.harmonizing.config import HarmonizeConfig, read_harmonize_config
from megaprune.rules import harmonize_problems

FIELDS = ("model=m", "out=o", "data.train=some_{limit}.parquet")


def read(*fields):
    return read_harmonize_config([*FIELDS, *fields])


def test_fields_of_the_run_follow_from_presample():
    config = read("presample.n=3", "presample.max_response_length=77", "presample.temperature=0.5")
    rollout = config.rollout
    assert (rollout.n, rollout.max_response_length, rollout.temperature) == (3, 77, 1.0)
    assert config.data.train == "some_77.parquet"
    assert from_yaml(HarmonizeConfig, to_yaml(config)) == config


def test_the_published_loss_and_optimizer_are_the_defaults():
    config = read()
    loss, optimizer = config.algorithm.loss, config.optimizer
    assert (loss.name, loss.ratio_to, loss.aggregate) == ("o1_pruner", "reference", "sequence")
    assert (loss.clip_ratio_low, loss.clip_ratio_high) == (0.2, 0.2)
    assert (optimizer.schedule, optimizer.clip_grad, optimizer.weight_decay) == ("cosine", 10, 0)
    assert math.isclose(config.warmup_ratio, 0.1)


@pytest.mark.parametrize("recipe", [[], ["recipe=tiny_overthinker"]])
def test_the_method_decides_the_loss(recipe):
    assert read(*recipe, "method=sft").algorithm.loss.name == "sft"
    own = read(*recipe, "method=o1_pruner", "algorithm.loss.clip_ratio_low=0.1").algorithm.loss
    assert (own.name, own.clip_ratio_low, own.clip_ratio_high) == ("o1_pruner", 0.1, 0.2)
    with pytest.raises(InputError, match=r"the loss is that of the method"):
        read(*recipe, "method=sft", "algorithm.loss.name=grpo")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (["rollout.n=4"], "give presample.n"),
        (["rollout.temperature=0.5"], "give presample.temperature"),
        (["optimizer.warmup_steps=4"], "give warmup_ratio"),
        (["method=ppo"], "expected one of o1_pruner, sft, dpo, simpo"),
    ],
)
def test_refused_when_read(fields, words):
    with pytest.raises(InputError, match=words):
        read(*fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (["harmonize.responses=3", "presample.n=2"], "expected presample.n=3 or more"),
        (["presample.n=1"], "expected presample.n=2 or more"),
        (["presample.max_response_length=9000"], "expected 10024 or more"),
        (["choose=best"], "choose=best without a validation"),
        (["data.rollouts=some"], "presample.folder"),
        (["test.budgets=0"], "test.budgets"),
        (["algorithm.num_minibatches=3"], "does not divide"),
        (["algorithm.loss.kl_coef=1", "algorithm.loss.kl_in=reward"], "expected kl_in=loss"),
    ],
)
def test_refused_together(fields, words):
    (problem,) = harmonize_problems(read(*fields))
    assert words in problem


def test_nothing_is_wrong_with_the_defaults():
    assert list(harmonize_problems(read())) == []


def test_print_config_gives_a_recipe(capsys, tmp_path):
    assert main(["harmonize", *FIELDS, "presample.n=4", "--print-config"]) == 0
    path = tmp_path / "own.yaml"
    path.write_text(capsys.readouterr().out)
    assert main(["harmonize", f"recipe={path}", "--print-config"]) == 0
    assert capsys.readouterr().out == path.read_text()
