"""Rewards, by hand."""

import subprocess
import sys

import numpy as np
import pytest

from megaprune.algorithms.records import Group
from megaprune.algorithms.registry import components
from megaprune.algorithms.rewards import SoftOverlong, Truncate
from megaprune.errors import InputError


def group(correct, length, finished, limit):
    return Group(np.array(correct, bool), np.array(length), np.array(finished, bool), limit)


def published():
    # The table's four responses: right and short, right, wrong, right but longer than 4000.
    return group([1, 1, 0, 1], [1000, 3000, 2000, 5000], [1, 1, 1, 1], 4000)


def test_truncate_as_published():
    rewards = Truncate()(published())
    assert rewards.tolist() == [1.0, 1.0, 0.0, 0.0]
    assert rewards.dtype == np.float64


@pytest.mark.parametrize(
    ("correct", "length", "finished", "reward"),
    [
        (1, 1, 1, 1.0),
        (1, 10, 1, 1.0),  # the limit itself is within
        (1, 11, 1, 0.0),
        (1, 10, 0, 0.0),  # right, but cut off: a box in an unfinished thought is worth nothing
        (0, 1, 1, 0.0),
        (0, 10, 0, 0.0),
    ],
)
def test_truncate_needs_all_three(correct, length, finished, reward):
    assert Truncate()(group([correct], [length], [finished], 10)).tolist() == [reward]


def test_soft_overlong_as_published():
    assert SoftOverlong(cache=1000)(published()).tolist() == [1.0, 1.0, 0.0, 0.0]


def test_soft_overlong_by_hand():
    # Limit 10, cache 4: free up to 6, then a quarter more for each token, 1 from 10 on.
    lengths = [1, 6, 7, 9, 10, 12]
    penalty = [0.0, 0.0, -0.25, -0.75, -1.0, -1.0]
    reward = SoftOverlong(cache=4)
    right = reward(group([1] * 6, lengths, [1] * 6, 10))
    wrong = reward(group([0] * 6, lengths, [1] * 6, 10))
    assert right.tolist() == [1 + p for p in penalty]
    assert wrong.tolist() == penalty
    assert right.dtype == np.float64


@pytest.mark.parametrize("cache", [0, -1, 2.5, "4", True])
def test_soft_overlong_has_a_cache(cache):
    with pytest.raises(InputError, match=rf"cache={cache!r}; expected (1 or more|a whole number)"):
        SoftOverlong(cache=cache)


def test_every_reward_gives_one_for_each_response():
    some = group([1, 0, 1], [3, 4, 5], [1, 1, 0], 4)
    assert {"truncate", "soft_overlong"} <= components("reward").keys()
    for reward in components("reward").values():
        rewards = reward()(some)
        assert rewards.shape == (3,)
        assert rewards.dtype == np.float64
        assert (reward()(group([], [], [], 4))).shape == (0,)


def test_needs_no_torch():
    code = (
        "import sys, megaprune.algorithms.rewards, megaprune.algorithms.advantages\n"
        "heavy = {'torch', 'megatron', 'vllm', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
