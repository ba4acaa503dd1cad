"""Numbers of graded samples, against vectors worked out by hand or by brute force."""

import itertools
import math

import numpy as np
import pytest

from megaprune.evaluation import metrics

RIGHT = [[True, False, False, False], [True, True]]


def test_accuracy_weighs_problems_alike():
    assert metrics.accuracy(RIGHT) == (0.25 + 1) / 2
    with pytest.raises(ValueError, match="without samples"):
        metrics.accuracy([[True], []])
    with pytest.raises(ValueError, match="no problem"):
        metrics.accuracy([])


def test_pass_at_k():
    # One of four is right: 1 - C(3,2)/C(4,2) = 1 - 3/6. Both of two: 1.
    assert metrics.pass_at_k(RIGHT, 1) == pytest.approx(metrics.accuracy(RIGHT))
    assert metrics.pass_at_k(RIGHT, 2) == (0.5 + 1) / 2
    assert metrics.pass_at_k(RIGHT, 3) == 0.75  # of the problem with four samples alone
    assert metrics.pass_at_k(RIGHT, 4) == 1.0
    assert metrics.pass_at_k(RIGHT, 5) is None
    assert metrics.pass_at_k([[False] * 4], 4) == 0.0


@pytest.mark.parametrize("k", [1, 2, 3, 5, 7])
def test_pass_at_k_is_the_mean_over_all_subsets(k):
    samples = [True, False, True, False, False, False, True]
    subsets = [any(chosen) for chosen in itertools.combinations(samples, k)]
    assert metrics.pass_at_k([samples], k) == pytest.approx(sum(subsets) / len(subsets))


def test_majority():
    def majority(answers, right, k):
        return metrics.majority_at_k([answers], [right], k)

    # Three halves outvote two fives.
    texts = ["1/2", "1/2", "1/2", "5", "5"]
    assert majority(texts, [True, True, True, False, False], 5) == 1.0
    assert majority(texts, [False, False, False, True, True], 5) == 0.0
    assert majority(texts, [True, True, True, False, False], 1) == pytest.approx(0.6)
    # Of the ten subsets of three, seven have two halves or more; none ties.
    assert majority(texts, [True, True, True, False, False], 3) == pytest.approx(0.7)
    # Of two, three pairs are right, one is wrong, six tie and count half.
    assert majority(texts, [True, True, True, False, False], 2) == pytest.approx(0.6)
    # A tie of three, of which one is right.
    assert majority(["1", "2", "3"], [True, False, False], 3) == pytest.approx(1 / 3)
    # Who has no answer does not vote; where nobody votes, it is wrong.
    assert majority([None, None, "4"], [False, False, True], 3) == 1.0
    assert majority([None, None], [False, False], 2) == 0.0
    assert majority(["1", "1"], [True, True], 3) is None
    # Right answers are one class, however they are written.
    assert majority(["1+1", "2", "4/2", "7", "7"], [True, True, True, False, False], 5) == 1.0
    assert majority(["right", "2", "2"], [False, True, True], 3) == 1.0
    # A grader that does not say what it found.
    assert majority([None, None], [True, False], 1) is None


def test_majority_of_many_is_near_the_exact_chance():
    # 40 samples, 24 right, all others wrong alike; 7 of them: more than C(40, 7) subsets to list.
    n, c, k = 40, 24, 7
    exact = sum(math.comb(c, i) * math.comb(n - c, k - i) for i in range(4, 8)) / math.comb(n, k)
    answers = [["1"] * c + ["2"] * (n - c)]
    right = [[True] * c + [False] * (n - c)]
    found = metrics.majority_at_k(answers, right, k)
    assert math.comb(n, k) > metrics.SUBSETS
    assert found == pytest.approx(exact, abs=3 * math.sqrt(exact * (1 - exact) / metrics.SUBSETS))
    assert found == metrics.majority_at_k(answers, right, k)
    assert found != metrics.majority_at_k(answers, right, k, seed=1)
    assert metrics.majority_at_k(answers, right, n) == 1.0
    assert metrics.majority_at_k(answers, right, 1) == pytest.approx(c / n)


def test_accuracy_at_budget():
    lengths = [[100, 500, 700, 900], [600, 601]]
    found = metrics.accuracy_at_budget(RIGHT, lengths, [50, 600, 1000])
    assert found == {
        50: (0.0, 50.0),
        600: ((1 / 4 + 1 / 2) / 2, ((100 + 500 + 600 + 600) / 4 + 600) / 2),
        1000: (metrics.accuracy(RIGHT), (2200 / 4 + 600.5) / 2),
    }


def test_percentiles():
    assert metrics.percentiles([]) is None
    assert metrics.percentiles(list(range(101))) == {
        "count": 101,
        "mean": 50,
        **{f"p{p}": p for p in (20, 40, 50, 60, 80, 90, 99)},
    }
    assert metrics.percentiles([1, 2])["p50"] == 1.5


def test_bootstrap_of_a_coin():
    # 100 problems, half of them right: the mean of a draw is binomial(100, 1/2) / 100, whose 2.5
    # and 97.5 percent points are 40 and 60.
    low, high = metrics.bootstrap([0.0, 1.0] * 50)
    assert (low, high) == (pytest.approx(0.40), pytest.approx(0.60))
    assert (low, high) == metrics.bootstrap([0.0, 1.0] * 50)
    narrow = metrics.bootstrap([0.0, 1.0] * 50, level=0.5)
    assert low < narrow[0] < 0.5 < narrow[1] < high
    assert metrics.bootstrap([0.3]) == (0.3, 0.3)
    with pytest.raises(ValueError, match="expected one for each problem"):
        metrics.bootstrap([])


def test_bootstrap_of_another_statistic_and_many_problems():
    values = np.arange(30_001.0)
    low, high = metrics.bootstrap(values, np.median, draws=200)
    # The standard error of the median of n uniform values of width w is w / (2 sqrt n): 86.6.
    assert 15_000 - 4 * 86.6 < low < 15_000 < high < 15_000 + 4 * 86.6
    assert high - low == pytest.approx(2 * 1.96 * 86.6, rel=0.3)


# Newcombe (1998, Statistics in Medicine 17:857), table I: the score interval without correction; at
# 0 and n it is 0 to z^2 / (n + z^2), and its mirror.
WILSON = [
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0, 0.1611),
    (1, 29, 0.0061, 0.1718),
    (29, 29, 0.8830, 1.0),
]


@pytest.mark.parametrize(("right", "n", "low", "high"), WILSON)
def test_wilson(right, n, low, high):
    assert metrics.wilson(right / n, n) == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize("n", [1, 4, 30, 500])
@pytest.mark.parametrize("share", [0.0, 1.0, 0.5])
def test_intervals_of_shares_have_width(n, share):
    """Where all problems are alike, as at 0 and 100 %, a bootstrap would be certain."""
    assert metrics.bootstrap([share] * n) == (share, share)
    low, high = metrics.share_interval([share] * n)
    assert (low, high) == metrics.wilson(share, n)
    assert 0 <= low <= share <= high <= 1
    assert high - low > 1 / (n + 4)
    assert high - low < 4 / math.sqrt(n)


def test_intervals_of_shares_that_differ_are_the_bootstrap_s():
    values = [0.0, 1.0] * 20
    assert metrics.share_interval(values) == metrics.bootstrap(values)
    assert metrics.difference_interval(values, [0.5] * 40) == metrics.paired_bootstrap(
        values, [0.5] * 40
    )


@pytest.mark.parametrize("n", [4, 30, 500])
def test_intervals_of_differences_have_width(n):
    reach = 1.96**2 / (n + 1.96**2)
    same = [0.0, 1.0] * (n // 2)
    for values in ([0.0] * n, [1.0] * n, same):
        assert metrics.difference_interval(values, values) == pytest.approx(
            (-reach, reach), abs=1e-4
        )
    assert metrics.difference_interval([1.0] * n, [0.0] * n) == pytest.approx(
        (1 - reach, 1), abs=1e-4
    )


def test_independent_differences():
    """Newcombe (1998, Statistics in Medicine 17:873), table II, method 10: 56/70 and 48/80, and
    both at an end, 10/10 and 0/10; here of problems with one answer each."""
    first, second = [1.0] * 56 + [0.0] * 14, [1.0] * 48 + [0.0] * 32
    found = metrics.independent_interval(first, second)
    assert found == pytest.approx((0.0524, 0.3339), abs=0.02)  # a bootstrap's ends, not Wilson's
    found = metrics.independent_interval([1.0] * 10, [0.0] * 10)
    assert found == pytest.approx((0.6075, 1.0), abs=6e-5)
    found = metrics.independent_interval([0.0] * 10, [0.0] * 10)
    assert found == pytest.approx((-0.2775, 0.2775), abs=6e-5)


def test_paired_bootstrap_is_narrower():
    hard = np.linspace(0, 0.9, 40)
    assert metrics.paired_bootstrap(hard + 0.1, hard) == pytest.approx((0.1, 0.1))
    low, high = metrics.bootstrap(hard)
    assert high - low > 0.1
    with pytest.raises(ValueError, match="expected the same"):
        metrics.paired_bootstrap([1, 2], [1, 2, 3])


# Table 2 of O1-Pruner (2501.12570): accuracy, length, and those of the baseline; the signed and the
# absolute score worked out from them.
CELLS = [
    ("Marco, O1-Pruner, MATH", (77.5, 657, 73.8, 1156), 0.582, 0.582),
    ("QwQ, O1-Pruner, GSM8K", (96.5, 534, 95.1, 777), 0.357, 0.357),
    ("Marco, fast prompt, MATH", (71.0, 1113, 73.8, 1156), -0.153, 0.151),
    ("Marco, fast prompt, GSM8K", (81.7, 447, 89.2, 530), -0.264, 0.409),
    ("Marco, DPO, MATH", (71.8, 761, 73.8, 1156), 0.206, 0.423),
    ("QwQ, fast prompt, MATH", (90.2, 1763, 90.6, 2191), 0.173, 0.209),
]


@pytest.mark.parametrize(("cell", "numbers", "signed", "absolute"), CELLS)
def test_aes_of_the_table_of_o1_pruner(cell, numbers, signed, absolute):
    assert metrics.aes(*numbers) == pytest.approx((signed, absolute), abs=6e-4), cell


def test_aes_has_no_value_without_a_baseline_to_speak_of():
    assert metrics.aes(0.5, 100, 0.0, 200) is None
    assert metrics.aes(0.5, 200, 0.5, 200) == (0.0, 0.0)


def test_ock_score_by_hand():
    assert metrics.ock_score(0.5, 0) == 50
    assert metrics.ock_score(0.8, 10_000) == pytest.approx(80 - 10 * np.log(2))
    # A model that is two points worse has the same score with e^0.2 of the tokens.
    tokens = 10_000 * (2 * np.exp(-0.2) - 1)
    assert metrics.ock_score(0.78, tokens) == pytest.approx(metrics.ock_score(0.8, 10_000))


def test_the_area_under_budgets_by_hand():
    # Between 1000 and 2000 the mean is 0.5, and between 2000 and 8000, which is twice as wide, 0.7.
    area = metrics.area_under_budgets({8000: 0.8, 1000: 0.4, 2000: 0.6})
    assert area == pytest.approx((0.5 + 2 * 0.7) / 3)
    assert metrics.area_under_budgets({500: 0.3, 4000: 0.3}) == pytest.approx(0.3)
    assert metrics.area_under_budgets({500: 0.3}) is None
    assert metrics.area_under_budgets({}) is None


def test_tokens_of_right_answers_by_difficulty():
    right = [[1, 1, 1], [1, 1, 0], [1, 0, 0, 0], [0, 0], [1, 1]]
    lengths = [[1, 2, 3], [10, 20, 99], [7, 1, 1, 1], [5, 5], [4, 6]]
    assert metrics.right_length_by_difficulty(right, lengths) == {
        "easy": {"problems": 2, "length": (2 + 5) / 2},
        "medium": {"problems": 1, "length": 15},
        "hard": {"problems": 1, "length": 7},
    }
    assert metrics.right_length_by_difficulty([[0]], [[3]]) == {}


def test_crossed_bootstrap_draws_seeds_and_problems():
    """Its variance is that of both draws: problems', seeds', and theirs together (Owen 2007)."""
    rng = np.random.default_rng(1)
    seeds, problems = 12, 80
    noise = rng.normal(size=(seeds, problems)) * 0.3
    values = rng.normal(size=(seeds, 1)) + rng.normal(size=problems) + noise
    low, high = metrics.crossed_bootstrap(values, draws=20_000)
    between = values.mean(axis=1).var() / seeds + values.mean(axis=0).var() / problems
    rest = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0) + values.mean()
    expected = 2 * 1.96 * np.sqrt(between + rest.var() / (seeds * problems))
    assert high - low == pytest.approx(expected, rel=0.05)
    assert low < values.mean() < high
    one = metrics.crossed_bootstrap(values[:1], draws=20_000)
    assert one == pytest.approx(metrics.bootstrap(values[0], draws=20_000), rel=0.05)
    with pytest.raises(ValueError, match="expected one for each seed and problem"):
        metrics.crossed_bootstrap(values[0])
