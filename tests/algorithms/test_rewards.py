"""Rewards, by hand."""

import subprocess
import sys

import numpy as np
import pytest

from megaprune.algorithms.rewards import REWARDS, Group, truncate


def group(correct, length, finished, limit):
    return Group(np.array(correct, bool), np.array(length), np.array(finished, bool), limit)


def test_truncate_as_published():
    # The table's four responses: right and short, right, wrong, right but longer than 4000.
    rewards = truncate(group([1, 1, 0, 1], [1000, 3000, 2000, 5000], [1, 1, 1, 1], 4000))
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
    assert truncate(group([correct], [length], [finished], 10)).tolist() == [reward]


def test_all_objectives_give_a_reward_for_each_response():
    some = group([1, 0, 1], [3, 4, 5], [1, 1, 0], 4)
    assert "truncate" in REWARDS
    for objective in REWARDS.values():
        rewards = objective(some)
        assert rewards.shape == (3,)
        assert rewards.dtype == np.float64


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (([1, 0], [3], [1, 1], 4), r"\(2,\).*\(1,\).*\[K\]"),
        (([[1]], [[3]], [[1]], 4), r"\[K\]"),
        (([1], [3], [1], 0), "0 tokens"),
    ],
)
def test_groups_that_make_no_sense(args, message):
    with pytest.raises(ValueError, match=message):
        group(*args)


def test_needs_no_torch():
    code = (
        "import sys, megaprune.algorithms.rewards, megaprune.algorithms.advantages\n"
        "heavy = {'torch', 'megatron', 'vllm', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
