"""Filters, by hand."""

import numpy as np
import pytest

from megaprune.algorithms.filters import (
    DropCutOff,
    KeepAll,
    KeepShortest,
    NoSignal,
    PassRateBand,
    RightPair,
    ShortestRight,
)
from megaprune.algorithms.records import Group
from megaprune.errors import InputError


def kept(chosen, *rewards):
    count = len(rewards)
    group = Group(np.ones(count, bool), np.ones(count, int), np.ones(count, bool), 4)
    mask = chosen(group, np.array(rewards, np.float64))
    assert mask.dtype == np.bool_
    return mask.tolist()


def test_none_keeps_everything():
    assert kept(KeepAll(), 0.0, 0.0) == [True, True]
    assert kept(KeepAll(), 1.0, 0.0) == [True, True]


def test_no_signal_leaves_out_groups_of_equals():
    assert kept(NoSignal(), 0.0, 0.0, 0.0) == [False] * 3
    assert kept(NoSignal(), 0.1, 0.1, 0.1) == [False] * 3
    assert kept(NoSignal(), 0.0, 0.0, 1.0) == [True] * 3


def test_a_group_of_one_is_kept():
    assert kept(NoSignal(), 0.0) == [True]


def test_rounds_are_counted():
    assert NoSignal().max_resample_rounds == 2
    with pytest.raises(InputError, match="max_resample_rounds=-1; expected 0 or more"):
        NoSignal(max_resample_rounds=-1)


def group(correct, length, finished=None, name="p"):
    finished = np.ones(len(correct), bool) if finished is None else np.array(finished, bool)
    return Group(np.array(correct, bool), np.array(length), finished, 100, name=name)


def test_the_shortest_are_kept():
    rewards = np.array([1.0, 0.0, 1.0, 1.0])
    some = group([1, 0, 1, 1], [30, 10, 20, 10])
    assert KeepShortest(k=2)(some, rewards).tolist() == [False, True, False, True]
    assert KeepShortest(k=3)(some, rewards).tolist() == [False, True, True, True]
    assert KeepShortest(k=9)(some, rewards).all()
    # Rewards for a token: 1/30, 0, 1/20, 1/10.
    assert KeepShortest(k=2, by="efficiency")(some, rewards).tolist() == [False, False, True, True]
    ties = group([1, 1, 1], [5, 5, 5])
    assert KeepShortest(k=2)(ties, np.ones(3)).tolist() == [True, True, False]


def test_the_shortest_right_ones_are_kept():
    some = group([1, 0, 1, 1], [30, 5, 20, 10])
    rewards = np.zeros(4)
    assert ShortestRight(m=1)(some, rewards).tolist() == [False, False, False, True]
    assert ShortestRight()(some, rewards).tolist() == [False, False, True, True]
    assert ShortestRight(m=9)(some, rewards).tolist() == [True, False, True, True]


def test_a_pair_is_the_shortest_and_the_longest_right_one():
    some = group([1, 0, 1, 1, 0], [20, 5, 30, 10, 40])
    assert RightPair()(some, np.zeros(5)).tolist() == [False, False, True, True, False]
    # The earlier ones of equals.
    ties = group([1, 1, 1, 1], [5, 9, 9, 5])
    assert RightPair()(ties, np.zeros(4)).tolist() == [True, True, False, False]
    assert not RightPair()(group([1, 1, 0], [5, 5, 9]), np.zeros(3)).any()


# Groups of one, all right, all wrong, of one length, with one cut off, and with ties; all kept, or
# none, or a list.
EDGES = (
    group([1], [5]), group([1, 1], [3, 9]), group([0, 0], [3, 9]), group([1, 0], [5, 5]),
    group([1, 1], [9, 3], [0, 1]), group([1, 1, 1], [5, 3, 3]),
)  # fmt: skip


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (KeepAll(), (1, 1, 1, 1, 1, 1)),
        (NoSignal(), (1, 0, 0, 1, 0, 0)),
        (KeepShortest(k=2), (1, 1, 1, 1, 1, [0, 1, 1])),
        (ShortestRight(), (1, 1, 0, [1, 0], 1, [0, 1, 1])),
        (RightPair(), (0, 1, 0, 0, 1, [1, 1, 0])),
        (DropCutOff(), (1, 1, 1, 1, [0, 1], 1)),
        (PassRateBand(), (0, 0, 0, 1, 0, 0)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_edges(chosen, expected):
    for some, kept_ones in zip(EDGES, expected, strict=True):
        mask = chosen(some, some.correct.astype(float))
        assert mask.astype(int).tolist() == (np.ones(len(mask), int) * kept_ones).tolist()


def test_what_was_cut_off_is_left_out():
    some = group([1, 0, 1], [30, 10, 20], [1, 0, 1])
    assert DropCutOff()(some, np.ones(3)).tolist() == [True, False, True]
    assert not DropCutOff()(group([1, 1], [1, 1], [0, 0]), np.ones(2)).any()


def test_a_band_of_pass_rates():
    band = PassRateBand(low=0.25, high=0.5)
    for correct, expected in (
        ([0, 0, 0, 0], False), ([1, 0, 0, 0], True), ([1, 1, 0, 0], True), ([1, 1, 1, 0], False),
    ):  # fmt: skip
        assert band(group(correct, [1] * 4), np.zeros(4)).tolist() == [expected] * 4
    with pytest.raises(InputError, match=r"low=0.5; expected no more than high=0.25"):
        PassRateBand(low=0.5, high=0.25)


def test_a_share_of_easy_problems_is_kept_whatever_the_step():
    band = PassRateBand(high=0.5, keep_easy=0.3)
    easy = [group([1, 1], [1, 1], name=f"p{i}") for i in range(1000)]
    kept = [bool(band(one, np.zeros(2)).all()) for one in easy]
    assert 0.25 < np.mean(kept) < 0.35
    assert kept == [bool(band(one, np.ones(2)).all()) for one in easy]
    assert not band(group([0, 0], [1, 1]), np.zeros(2)).any()
