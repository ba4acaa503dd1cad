"""The configuration of a run: its files under a limit, and its algorithm."""

import pickle
from dataclasses import replace

import pytest
import yaml

from megaprune.algorithms import Algorithm
from megaprune.config.read import differences, from_yaml, read_fields, to_yaml
from megaprune.config.run import Config, DataConfig, RolloutConfig, read_config
from megaprune.errors import InputError

BASE = ["model=m", "out=o", "data.train=d"]
OWN = """
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Brevity:
    scale: float = 100.0

    def __call__(self, group):
        return group.correct * np.exp(-group.length / self.scale)
"""


def spec(*arguments):
    return read_config([*BASE, *arguments]).algorithm.to_spec()


def test_files_are_those_of_the_limit():
    data = DataConfig(train="train_{limit}.parquet", validation="choice_{limit}")
    config = Config(model="m", out="o", data=data, rollout=RolloutConfig(max_response_length=2000))
    assert (config.data.train, config.data.validation) == ("train_2000.parquet", "choice_2000")


def test_a_preset_and_fields_beside_it():
    assert spec("algorithm=dler") == Algorithm.from_spec("dler").to_spec()
    for words in (
        ["algorithm=dler", "algorithm.loss.clip_ratio_high=0.3"],
        ["algorithm.loss.clip_ratio_high=0.3", "algorithm=dler"],
    ):
        expected = {**spec("algorithm=dler")["loss"], "clip_ratio_high": 0.3}
        assert spec(*words)["loss"] == expected
        assert spec(*words)["filter"] == {"name": "no_signal", "max_resample_rounds": 2}


def test_a_field_changes_the_recipes_algorithm():
    paper = read_fields(Config, ["recipe=qwq_32b_paper"]).algorithm.to_spec()
    config = read_fields(Config, ["recipe=qwq_32b_paper", "algorithm.loss.entropy_coef=0"])
    assert config.algorithm.to_spec() == {**paper, "loss": {**paper["loss"], "entropy_coef": 0.0}}
    other = read_fields(Config, ["recipe=qwq_32b_paper", "algorithm.filter.name=no_signal"])
    assert other.algorithm.to_spec()["filter"] == {"name": "no_signal", "max_resample_rounds": 2}
    assert other.algorithm.to_spec()["loss"] == paper["loss"]


def test_several_rewards():
    rewards = spec("algorithm.rewards=[{name: truncate}, {name: soft_overlong, weight: 0.5}]")
    assert [entry["name"] for entry in rewards["rewards"]] == ["truncate", "soft_overlong"]
    assert rewards["rewards"][1]["weight"] == 0.5


def test_it_is_written_whole_and_read_back():
    config = read_config([*BASE, "algorithm=dler"])
    text = to_yaml(config)
    assert yaml.safe_load(text)["algorithm"]["loss"]["clip_ratio_high"] == 0.28
    assert from_yaml(Config, text) == config
    assert pickle.loads(pickle.dumps(config)) == config


def test_it_may_not_change_when_a_run_goes_on():
    config = read_config([*BASE, "algorithm.loss.kl_coef=0.1"])
    text = to_yaml(read_config(BASE))
    assert differences(config, text) == ["algorithm.loss.kl_coef=0.1 (the run's: 0.0)"]


def test_a_recipe_in_yaml_may_name_a_preset(tmp_path):
    recipe = tmp_path / "own.yaml"
    recipe.write_text("algorithm: dler\nsteps: 3\n")
    assert spec(f"recipe={recipe}") == spec("algorithm=dler")
    recipe.write_text("algorithm:\n  preset: dler\n  num_minibatches: 2\n")
    assert spec(f"recipe={recipe}") == {**spec("algorithm=dler"), "num_minibatches": 2}


def test_python_takes_a_spec_too():
    config = read_config(BASE)
    for value in ("dler", {"preset": "dler"}, Algorithm.from_spec("dler")):
        assert replace(config, algorithm=value).algorithm == Algorithm.from_spec("dler")


def test_a_reward_of_ones_own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    words = [f"algorithm.reward.name={path}:Brevity", "algorithm.reward.scale=50"]
    config = read_config([*BASE, *words])
    assert config.algorithm.to_spec()["rewards"] == [{"name": f"{path}:Brevity", "scale": 50.0}]
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("algorithm=dlre", "algorithm='dlre'; did you mean dler?"),
        ("algorithm=3", "algorithm=3; expected a preset"),
        ("algorithm.reward.name=trunkate", "algorithm.reward.name='trunkate'; did you mean trunc"),
        ("algorithm.lost.kl_coef=1", "algorithm.lost: there is no such field; did you mean"),
        ("algorithm.loss.kl_coeff=1", "algorithm.loss.kl_coeff: grpo has no such field; did you"),
        ("algorithm.loss.clip_ratio_low=1.5", "algorithm.loss.clip_ratio_low=1.5; expected "),
        ("algorithm.loss.kl_coef=much", "algorithm.loss.kl_coef='much'; expected a number"),
        ("algorithm.num_minibatches=0", "algorithm.num_minibatches=0; expected a whole number, 1"),
        ("algorithm.kl=1", "there is no field 'algorithm.kl'; its name is algorithm.loss.kl_coef"),
    ],
)
def test_refused(argument, words):
    with pytest.raises(InputError) as error:
        read_config([*BASE, argument])
    assert str(error.value).startswith(words), error.value
