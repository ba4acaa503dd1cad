"""Algorithms at work: what they compute, and what the user's own classes may give back."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from megaprune.algorithms.advantages import GroupMean
from megaprune.algorithms.algorithm import (
    Algorithm,
    GroupScore,
    WeightedReward,
    reward_metrics,
)
from megaprune.algorithms.loss_metrics import combine, to_host
from megaprune.algorithms.losses import DrGrpoLoss, GrpoLoss, SftLoss
from megaprune.algorithms.records import BatchInfo, Group, LossBatch
from megaprune.errors import InputError


def group(correct=(1, 1, 0, 1), length=(1000, 3000, 2000, 5000), name="set/7"):
    count = len(correct)
    numbers = np.array(correct, bool), np.array(length), np.ones(count, bool)
    return Group(*numbers, 4000, tuple("abcdef"[:count]), {}, name)


def micro_batch(policy_moved=False, **values):
    log_probs = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    values = {"advantage": torch.tensor([1.0, -1.0, -1.0]), **values}
    info = BatchInfo(3, 2, 10, policy_moved)
    return LossBatch(log_probs, torch.ones(3), values, (0, 1, 3), info)


def test_a_users_own_from_a_file(own):
    spec = {
        "rewards": [
            {"name": "truncate"},
            {"name": "own.py:Brevity", "weight": 0.2, "scale": 1000, "points": [1, 2]},
        ],
        "advantage": {"name": "own.py:Ranks"},
        "filter": {"name": "own.py:Shortest"},
        "loss": {"name": "own.py:Plain"},
    }
    algorithm = Algorithm.from_spec(spec)
    assert algorithm.labels == ("truncate", "Brevity")
    assert algorithm.max_resample_rounds == 3
    assert algorithm.needs == {"rollout"}
    assert algorithm.needs_all
    score = algorithm.score(group())
    assert score.parts["Brevity"].tolist() == [-1.0, -3.0, -2.0, -5.0]
    assert score.rewards.tolist() == pytest.approx([0.8, 0.4, -0.4, -1.0])
    assert score.kept.tolist() == [True, False, False, False]
    advantages = algorithm.advantages(score.rewards[None], score.kept[None])
    assert advantages.tolist() == [[2.0, 0.0, 0.0, 0.0]]
    output = algorithm.compute_loss(micro_batch())
    loss, metrics = combine([to_host(output)])
    assert loss == pytest.approx((-1 + 2) / 2)
    assert metrics == {"sequence_loss": pytest.approx(0.5), "largest": 1.0}
    again = algorithm.to_spec()
    assert again["rewards"][1] == spec["rewards"][1] | {"scale": 1000.0, "scope": "all"}
    assert again["loss"] == {"name": "own.py:Plain"}
    assert Algorithm.from_spec(again) == algorithm


@dataclass(frozen=True)
class InAModule:
    offset: float = 0.5

    def __call__(self, group):
        return group.correct + self.offset


def test_a_users_own_from_a_module():
    name = f"{__name__}:InAModule"
    algorithm = Algorithm.from_spec({"reward": {"name": name}})
    assert algorithm == Algorithm((WeightedReward(InAModule()),))
    assert algorithm.to_spec()["rewards"] == [{"name": name, "offset": 0.5}]
    assert algorithm.score(group()).rewards.tolist() == [1.5, 1.5, 0.5, 1.5]


ARRAYS = [
    ("None", "returned None"),
    ("'a'", "returned 'a'"),
    ("[1, 2, 3]", r"returned shape (3,)"),
    ("[[1, 2, 3, 4]]", r"returned shape (1, 4)"),
    ("[1, 2, 3, float('nan')]", "returned nan"),
    ("[1, 2, float('-inf'), 4]", "returned -inf"),
    ("[1, [2], 3, 4]", "returned [1, [2], 3, 4]"),
    ("[1, 2, 3, 'a']", "returned elements of type <U21"),
    ("given[0].nonsense", "failed for group set/7 of 4: AttributeError: "),
]


@pytest.mark.parametrize(("what", "message"), ARRAYS)
def test_rewards_that_cannot_be(own, what, message):
    algorithm = Algorithm.from_spec({"reward": {"name": "own.py:Returns", "what": what}})
    with pytest.raises(InputError) as raised:
        algorithm.score(group())
    said = str(raised.value)
    assert said.startswith(f"reward own.py:Returns {message}")
    assert "group set/7 of 4" in said
    assert "failed" in said or said.endswith("; expected 4 finite numbers")
    assert "\n" not in said


def test_lists_and_bools_are_rewards(own):
    for what in ("[1, 0, 1, 0]", "[True, False, True, False]", "given[0].length < 3000"):
        algorithm = Algorithm.from_spec({"reward": {"name": "own.py:Returns", "what": what}})
        rewards = algorithm.score(group()).rewards
        assert rewards.tolist() == [1.0, 0.0, 1.0, 0.0]
        assert rewards.dtype == np.float64


def test_filters_and_advantages_that_cannot_be(own):
    returns = {"name": "own.py:Returns", "what": "[1, 0, 1, 0]"}
    with pytest.raises(InputError) as raised:
        Algorithm.from_spec({"filter": returns}).score(group())
    assert "filter own.py:Returns returned elements of type int64" in str(raised.value)
    assert "expected 4 true or false" in str(raised.value)
    algorithm = Algorithm.from_spec({"advantage": returns})
    with pytest.raises(InputError, match=r"shape \(4,\); expected 2 x 4 finite numbers"):
        algorithm.advantages(np.zeros((2, 4)), np.ones((2, 4), bool))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("None", "returned a NoneType; expected a LossOutput(loss, metrics)"),
        ("given[0].log_probs.sum()", "returned a Tensor; expected a LossOutput(loss, metrics)"),
        ("LossOutput(given[0].log_probs)", "returned a loss of shape (3,); expected a tensor"),
        ("LossOutput(1.0)", "returned a loss of shape float; expected a tensor"),
        (
            "LossOutput(given[0].log_probs.sum(), {'a': 1.0})",
            "returned 1.0 as metric 'a'; expected one of sum_of, mean_by_token",
        ),
        (
            "LossOutput(given[0].log_probs.sum(), {'a': mean_by_token(given[0].log_probs[1:])})",
            "returned 2 values of 'a'; expected 3, one for each token",
        ),
        (
            "LossOutput(given[0].log_probs.sum(), {'a': mean_by_sequence(given[0].log_probs)})",
            "returned 3 values of 'a'; expected 2, one for each sequence",
        ),
        ("given[0].reference", "failed: AttributeError: "),
        ("given[0].value('reference')", "failed: ValueError: the loss needs 'reference'"),
    ],
)
def test_losses_that_cannot_be(own, what, message):
    algorithm = Algorithm.from_spec({"loss": {"name": "own.py:Returns", "what": what}})
    with pytest.raises(InputError) as raised:
        algorithm.compute_loss(micro_batch())
    assert str(raised.value).startswith(f"loss own.py:Returns {message}")


def test_an_error_of_the_users_own_is_found(own):
    returns = {"name": "own.py:Returns", "what": "1 / 0"}
    with pytest.raises(InputError, match=r"ZeroDivisionError: division by zero \(.*\)$"):
        Algorithm.from_spec({"reward": returns}).score(group())


def test_errors_of_ours_stay_what_they_are():
    algorithm = Algorithm(loss=DrGrpoLoss())
    log_probs = torch.zeros(1)
    values = {"advantage": torch.zeros(1)}
    batch = LossBatch(log_probs, log_probs, values, (0, 1), BatchInfo(1, 1))
    with pytest.raises(ValueError, match="sequence_tokens") as raised:
        algorithm.compute_loss(batch)
    assert not isinstance(raised.value, InputError)


def test_rewards_add_up_with_their_weights():
    algorithm = Algorithm.from_spec(
        {
            "rewards": [
                {"name": "truncate", "weight": 2.0},
                {"name": "soft_overlong", "weight": -0.5},
            ]
        }
    )
    scores = [algorithm.score(group()), algorithm.score(group(length=(3500, 1, 1, 1)))]
    # truncate 1, 1, 0, 0 and soft_overlong (cache 1000) 1, 1, 0, 0
    assert scores[0].rewards.tolist() == [1.5, 1.5, 0.0, 0.0]
    # truncate 1, 1, 0, 1 and soft_overlong .5, 1, 0, 1
    assert scores[1].rewards.tolist() == [1.75, 1.5, 0.0, 1.5]
    assert reward_metrics(algorithm, scores) == {
        "reward/truncate": 5 / 8,
        "reward/truncate/weighted": 10 / 8,
        "reward/soft_overlong": 4.5 / 8,
        "reward/soft_overlong/weighted": -2.25 / 8,
    }


def test_one_reward_is_as_it_is():
    score = Algorithm().score(group())
    assert isinstance(score, GroupScore)
    assert score.rewards.tolist() == [1.0, 1.0, 0.0, 0.0]
    assert score.kept.all()


def test_advantages_of_what_is_left_out_are_0():
    rewards = np.array([[1.0, 0.0], [1.0, 1.0]])
    algorithm = Algorithm(advantage=GroupMean())
    whole = algorithm.advantages(rewards, np.ones((2, 2), bool))
    assert whole.tolist() == [[0.5, -0.5], [0.0, 0.0]]
    part = algorithm.advantages(rewards, np.array([[True, False], [True, True]]))
    assert part.tolist() == [[0.5, 0.0], [0.0, 0.0]]


def test_log_prob_passes_are_made_for_what_needs_them():
    reference = GrpoLoss(kl_coef=0.1)
    assert Algorithm().needs == frozenset()
    assert Algorithm(num_minibatches=2).needs == {"old"}
    assert Algorithm(loss=reference).needs == {"reference"}
    assert Algorithm(loss=reference, num_minibatches=2).needs == {"old", "reference"}
    assert Algorithm(loss=SftLoss(), num_minibatches=2).needs == frozenset()


@dataclass(frozen=True)
class SaysNothing:
    def __call__(self, batch):
        return None


def test_a_loss_that_says_nothing_is_given_the_old_policy_and_all_samples():
    algorithm = Algorithm(loss=SaysNothing(), num_minibatches=2)
    assert algorithm.needs == {"old"}
    assert algorithm.needs_all
