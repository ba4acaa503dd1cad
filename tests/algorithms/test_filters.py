"""Filters, by hand."""

import numpy as np
import pytest

from megaprune.algorithms.filters import KeepAll, NoSignal
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
