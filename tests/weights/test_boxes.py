import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from megaprune.weights.boxes import Box

SHAPE = (5, 4, 3)


@st.composite
def boxes(draw):
    bounds = [sorted(draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in SHAPE]
    return Box(tuple(a for a, _ in bounds), tuple(max(b, a + 1) for a, b in bounds))


def mask(*some):
    counts = np.zeros(tuple(n + 1 for n in SHAPE), int)
    for box in some:
        counts[box.slices] += 1
    return counts


@given(boxes(), boxes())
def test_intersection_and_difference_partition_a_box(one, other):
    common = one.intersect(other)
    parts = [*one.subtract(other), *([common] if common else [])]
    assert (mask(*parts) == mask(one)).all()
    assert common is None or (mask(common) == mask(one) * mask(other)).all()


@given(boxes(), st.integers(1, 70))
def test_bands_partition_a_box_in_memory_order(box, limit):
    bands = list(box.bands(limit))
    assert (mask(*bands) == mask(box)).all()
    numbers = np.arange(mask(box).size).reshape(mask(box).shape)
    joined = np.concatenate([numbers[band.slices].reshape(-1) for band in bands])
    assert (joined == numbers[box.slices].reshape(-1)).all()
    axis = next((d for d, n in enumerate(box.shape) if n != 1), len(SHAPE))
    row = int(np.prod(box.shape[axis + 1 :]))
    assert all(band.size <= max(limit, row) for band in bands)


@given(boxes())
def test_one_run_means_consecutive_addresses(box):
    shape = tuple(n + 1 for n in SHAPE)
    addresses = np.arange(np.prod(shape)).reshape(shape)[box.slices].reshape(-1)
    assert box.is_one_run(shape) == bool((np.diff(addresses) == 1).all())


@given(boxes(), boxes())
def test_within_undoes_shift(one, other):
    assert one.within(other).shift(other.start) == one
    assert one.shift((1, 2, 3)).shape == one.shape
