"""The order of problems: a pure function, each once per epoch."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaprune.data.order import batch, epoch
from megaprune.errors import InputError

COUNTS = st.integers(1, 60)
SEEDS = st.integers(0, 2**70)
WRITTEN = [0, 6, 2, 1, 3, 7, 4, 5]


@settings(deadline=None)
@given(COUNTS, st.integers(1, 150), SEEDS, st.integers(1, 12))
def test_each_once_in_an_epoch_whatever_the_batch(count, size, seed, steps):
    stream = [i for step in range(steps) for i in batch(count, size, step, seed)]
    assert len(stream) == steps * size
    for start in range(0, len(stream), count):
        part = stream[start : start + count]
        assert len(set(part)) == len(part)
        if len(part) == count:
            assert sorted(part) == list(range(count))


@settings(deadline=None)
@given(COUNTS, st.integers(1, 150), st.integers(1, 150), SEEDS)
def test_the_size_of_a_batch_does_not_change_the_order(count, size, other, seed):
    def stream(size):
        return [i for step in range(200 // size + 1) for i in batch(count, size, step, seed)][:200]

    assert stream(size) == stream(other)


@settings(deadline=None)
@given(COUNTS, st.integers(1, 150), st.integers(0, 10**6), SEEDS)
def test_a_step_needs_none_before_it(count, size, step, seed):
    epochs, first = divmod(step * size, count)
    orders = [epoch(count, epochs + i, seed).tolist() for i in range(size // count + 2)]
    assert batch(count, size, step, seed) == sum(orders, [])[first : first + size]


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {tuple(epoch(50, number, seed)) for number in range(20) for seed in range(20)}
    assert len(orders) == 400


def test_all_orders_are_as_likely():
    # 3000 epochs of 3 problems, 6 orders: 500 each, of standard deviation 20.4.
    orders = [tuple(epoch(3, number, 7).tolist()) for number in range(3000)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 6
    assert max(abs(c - 500) for c in counts) < 100


def test_the_order_is_the_documented_one():
    raw = np.random.PCG64(np.random.SeedSequence([3, 1])).random_raw(8).tolist()
    expected = sorted(range(8), key=raw.__getitem__)
    assert epoch(8, 1, 3).tolist() == expected
    assert batch(8, 8, 1, 3) == expected
    # Written down, so that no other version of numpy moves a run that is resumed.
    assert expected == WRITTEN


def test_it_is_the_same_in_another_process():
    code = "from megaprune.data.order import batch; print(batch(97, 40, 12345, 42))"
    found = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=120, capture_output=True, text=True
    )
    assert found.stdout.strip() == str(batch(97, 40, 12345, 42))


@pytest.mark.parametrize(("count", "size", "step"), [(0, 1, 0), (1, 0, 0), (1, 1, -1)])
def test_nothing_to_take_from(count, size, step):
    with pytest.raises(ValueError, match=f"step {step} of {size} out of {count}"):
        batch(count, size, step, 0)


def test_a_negative_seed():
    with pytest.raises(InputError, match="seed=-1; expected 0 or more"):
        batch(4, 2, 0, -1)
