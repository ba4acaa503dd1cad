"""Advantages, by hand and by their properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaprune.algorithms.advantages import (
    BatchStd,
    Gdpo,
    GroupMean,
    GroupStd,
    LeaveOneOut,
    ReinforcePlusPlusBaseline,
    without_signal,
)
from megaprune.algorithms.algorithm import Algorithm
from megaprune.errors import InputError

ADVANTAGES = {"group_std": GroupStd(), "group_mean": GroupMean(), "batch_std": BatchStd()}
ADVANTAGES |= {"group_std, population": GroupStd(epsilon=0.0, ddof=0)}
ADVANTAGES |= {"leave_one_out": LeaveOneOut()}
group_std, group_mean, batch_std = GroupStd(), GroupMean(), BatchStd()


def matrix(*rows):
    return np.array(rows, np.float64)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_group_std_by_hand():
    # mean .5, unbiased variance 4 * .25 / 3 = 1/3: .5 / (.5773502692 + 1e-6) = .8660239
    close(group_std(matrix([1, 0, 0, 1])), [[0.8660239, -0.8660239, -0.8660239, 0.8660239]])
    # mean 1/16, unbiased variance (1/16) * (15/16) * 16/15 = 1/16, std 1/4:
    # (15/16) / .250001 = 3.749985, (-1/16) / .250001 = -.249999
    close(group_std(matrix([1] + [0] * 15)), [[3.749985] + [-0.249999] * 15])


def test_the_epsilon_counts_where_rewards_hardly_differ():
    # mean 1e-6, unbiased std sqrt(2) * 1e-6: 1e-6 / (1.41421356e-6 + 1e-6) = sqrt(2) - 1
    close(group_std(matrix([0, 2e-6])), [[-0.41421356, 0.41421356]])


def test_the_deviation_of_a_population():
    # mean .5, variance .25: .5 / .5; variance (1/16)(15/16), std .2420615: .9375 / .2420615.
    population = GroupStd(epsilon=0.0, ddof=0)
    close(population(matrix([1, 0, 0, 1])), [[1, -1, -1, 1]])
    close(population(matrix([1] + [0] * 15)), [[3.8729833] + [-0.2581989] * 15])
    close(GroupStd(epsilon=0.5, ddof=0)(matrix([1, 0, 0, 1])), [[0.5, -0.5, -0.5, 0.5]])


@pytest.mark.parametrize(("field", "value"), [("epsilon", -1e-6), ("ddof", 2), ("ddof", 0.5)])
def test_options_out_of_range(field, value):
    with pytest.raises(InputError, match=f"{field}={value}; expected"):
        GroupStd(**{field: value})


def test_group_mean_by_hand():
    found = group_mean(matrix([1, 1, 0, 0], [0, 0, 0, 1]))
    close(found, [[0.5, 0.5, -0.5, -0.5], [-0.25, -0.25, -0.25, 0.75]])


def test_batch_std_by_hand():
    # Centred: .75, -.25 x 3, .25 x 3, -.75. Variance (2 * 9/16 + 6 * 1/16) / 8 = 3/16:
    # .75 / sqrt(3/16) = sqrt(3), .25 / sqrt(3/16) = 1 / sqrt(3).
    a, b = 1.7320508, 0.5773503
    close(batch_std(matrix([1, 0, 0, 0], [1, 1, 1, 0])), [[a, -b, -b, -b], [b, b, b, -a]])
    # A group without signal counts in the deviation: variance 2 * .25 / 4 = 1/8, .5 / sqrt(1/8).
    close(batch_std(matrix([1, 0], [1, 1])), [[1.4142136, -1.4142136], [0, 0]])


def test_leave_one_out_by_hand():
    close(
        LeaveOneOut()(matrix([1, 0, 0, 0], [3, 1, 1, 1])), [[1] + [-1 / 3] * 3, [2] + [-2 / 3] * 3]
    )
    rewards = np.random.default_rng(0).normal(size=(5, 7))
    others = [[np.delete(row, i).mean() for i in range(7)] for row in rewards]
    close(LeaveOneOut()(rewards), rewards - np.array(others))
    close(LeaveOneOut()(matrix([1], [3])), [[1], [3]])


def test_gdpo_normalises_each_reward():
    right = matrix([1, 0, 1, 0], [1, 1, 0, 0])
    short = matrix([0.01, 0.02, 0.03, 0.04], [0, 0, 0, 0])
    parts, weights = np.stack([right, short]), np.array([1.0, 0.5])
    by_hand = sum(
        w * np.nan_to_num((p - p.mean(1, keepdims=True)) / (p.std(1, ddof=1, keepdims=True) + 1e-6))
        for w, p in zip(weights, parts, strict=True)
    )
    length = matrix([1, 2, 3, 4], [5, 5, 5, 5])
    close(Gdpo(by_batch="none")(parts, weights, length), by_hand)
    expected = (by_hand - by_hand.mean()) / (by_hand.std(ddof=1) + 1e-6)
    close(Gdpo()(parts, weights, length), expected)
    tokens = np.repeat(by_hand.ravel(), length.ravel().astype(int))
    expected = (by_hand - tokens.mean()) / np.sqrt(tokens.var(ddof=1) + 1e-8)
    close(Gdpo(by_batch="token")(parts, weights, length), expected)
    assert not Gdpo()(np.ones((2, 3, 4)), weights, length).any()
    # A group without signal gets exactly nothing; of groups of one the batch is the baseline.
    flat = np.concatenate([parts, np.ones((2, 1, 4))], axis=1)
    longer = np.concatenate([length, matrix([9, 9, 9, 9])])
    for by_batch in ("response", "token", "none"):
        assert without_signal(Gdpo(by_batch=by_batch)(flat, weights, longer)).tolist() == [
            False, False, True,
        ]  # fmt: skip
    single = np.array([[[1.0], [0.0], [0.0], [0.0]]])
    # mean 1/4, variance 1/4: 3/4 and -1/4 over 1/2
    found = Gdpo(epsilon=0.0)(single, np.ones(1), np.ones((4, 1)))
    close(found, [[1.5], [-0.5], [-0.5], [-0.5]])
    # A reward of a hundredth of another's size has as much to say, and its weight is a weight.
    exact = Gdpo(epsilon=0.0)
    larger = parts * [[[1]], [[100]]]
    close(exact(larger, weights, length), exact(parts, weights, length))


def test_reinforce_pp_baseline_weighs_by_tokens():
    rewards, length = matrix([1, 0, 0], [1, 1, 0]), matrix([10, 20, 30], [5, 5, 40])
    tokens = np.repeat(
        (rewards - rewards.mean(1, keepdims=True)).ravel(), length.ravel().astype(int)
    )
    white = (tokens - tokens.mean()) / np.sqrt(tokens.var(ddof=1) + 1e-8)
    starts = np.cumsum([0, *length.ravel()[:-1]]).astype(int)
    close(ReinforcePlusPlusBaseline()(rewards, length), white[starts].reshape(2, 3))
    assert not ReinforcePlusPlusBaseline()(matrix([1, 1]), matrix([3, 4])).any()
    mixed = ReinforcePlusPlusBaseline()(matrix([1, 0], [1, 1], [0, 0]), matrix(*[[3, 4]] * 3))
    assert without_signal(mixed).tolist() == [False, True, True]


def test_an_algorithm_gives_an_advantage_what_it_asks_for():
    rewards = [{"name": "correct"}, {"name": "minmax", "weight": 0.5}]
    right, short = matrix([1, 0, 1]), matrix([0.1, 0.2, 0.3])
    parts, kept = np.stack([right, short]), np.ones((1, 3), bool)
    algorithm = Algorithm.from_spec({"rewards": rewards, "advantage": "gdpo"})
    total = right + 0.5 * short
    length = matrix([5, 6, 7])
    expected = Gdpo()(parts, np.array([1.0, 0.5]), length)
    close(algorithm.advantages(total, kept, parts, length), expected)
    algorithm = Algorithm.from_spec({"advantage": "reinforce_pp_baseline"})
    expected = ReinforcePlusPlusBaseline()(total, length)
    close(algorithm.advantages(total, kept, parts, length), expected)


def test_the_baseline_of_the_kept_ones():
    spec = {"filter": {"name": "keep_shortest", "k": 2}, "advantage": "group_mean"}
    rewards = matrix([1, 0, 5], [7, 0, 2])
    kept = np.array([[True, True, False], [False, True, True]])
    found = Algorithm.from_spec(spec).advantages(rewards, kept)
    close(found, [[0.5, -0.5, 0], [0, -1, 1]])
    with pytest.raises(
        InputError, match="keeps 1, 2 responses of groups; expected the same number of each"
    ):
        Algorithm.from_spec(spec).advantages(rewards, kept & [[True, False, False], [True] * 3])


def test_a_group_of_one_has_no_baseline():
    close(group_std(matrix([1], [0], [3])), [[1 / 1.000001], [0], [3 / 1.000001]])
    close(group_mean(matrix([1], [0])), [[1], [0]])
    # The batch is the baseline: 1, 0, 0, 0 have mean 1/4 and variance 3/16.
    close(batch_std(matrix([1], [0], [0], [0])), [[1.7320508]] + [[-0.5773503]] * 3)


@pytest.mark.parametrize("advantage", ADVANTAGES.values(), ids=ADVANTAGES)
@settings(deadline=None)  # other tests share the processors
@given(
    st.integers(2, 16).flatmap(
        lambda k: st.lists(
            st.one_of(
                st.floats(-10, 10).map(lambda r: [r] * k),
                st.lists(st.sampled_from([0.0, 0.1, 0.3, 1.0]), min_size=k, max_size=k),
            ),
            min_size=1,
            max_size=6,
        )
    )
)
def test_equal_rewards_get_exactly_nothing(advantage, rows):
    advantages = advantage(matrix(*rows))
    assert advantages.shape == np.shape(rows)
    assert np.isfinite(advantages).all()
    expected = [len(set(row)) == 1 for row in rows]
    assert without_signal(advantages).tolist() == expected
    assert (advantages[expected] == 0.0).all()
    # Each group weighs as much up as down.
    np.testing.assert_allclose(advantages.sum(1), 0.0, atol=1e-9)


@pytest.mark.parametrize("advantage", ADVANTAGES.values(), ids=ADVANTAGES)
def test_rounding_leaves_no_signal(advantage):
    # .1 + .1 + .1 is not .3: a plain mean would leave 1e-17 of each.
    assert (np.mean([0.1] * 3) - 0.1) != 0.0
    assert not advantage(matrix([0.1] * 3, [0.7] * 3)).any()


@pytest.mark.parametrize("advantage", ADVANTAGES.values(), ids=ADVANTAGES)
def test_shapes(advantage):
    assert advantage(np.zeros((0, 4))).shape == (0, 4)
    assert advantage(np.zeros((0, 1))).shape == (0, 1)
    assert advantage(np.array([[1, 0]])).dtype == np.float64
    for shape in [(3,), (2, 2, 2), (2, 0)]:
        with pytest.raises(ValueError, match="expected \\[groups, responses\\]"):
            advantage(np.zeros(shape))


@pytest.mark.parametrize("advantage", ADVANTAGES.values(), ids=ADVANTAGES)
def test_rewards_are_left_as_they_are(advantage):
    for rewards in (matrix([1, 0, 0.5]), matrix([1], [0])):
        before = rewards.copy()
        result = advantage(rewards)
        result += 1
        np.testing.assert_array_equal(rewards, before)
