"""Accuracy by intervals of length, against counting."""

import random

import pytest

from megaprune.evaluation.length_intervals import accuracy_by_rank, accuracy_by_width


def test_by_hand():
    right = [[True, False, True, True], [False, True, False, False, True, True, True, False]]
    lengths = [[10, 40, 20, 30], [1, 2, 3, 4, 5, 6, 7, 8]]
    # The first by rank: 1, 1, 1, 0; the second in pairs: .5, 0, 1, .5.
    assert accuracy_by_rank(right, lengths) == pytest.approx([0.75, 0.5, 1.0, 0.25])
    # Widths of 7.5: 10 | 20 | 30 | 40. Widths of 1.75: 1 2 | 3 4 | 5 6 | 7 8.
    assert accuracy_by_width(right, lengths) == pytest.approx([0.75, 0.5, 1.0, 0.25])
    some = accuracy_by_width([[True, False, False, True]], [[3, 9, 3, 9]])
    assert some == [0.5, None, None, 0.5]


def test_equal_lengths_are_equally_right():
    """Whatever the order of the responses."""
    for right in ([True, False, False, False], [False, False, False, True]):
        assert accuracy_by_rank([right], [[7] * 4]) == pytest.approx([0.25] * 4)
        assert accuracy_by_width([right], [[7] * 4]) is None


@pytest.mark.parametrize("seed", range(5))
def test_ranks_against_copies(seed):
    """A response in two intervals counts in both by its share: as 4 copies of each would."""
    draw = random.Random(seed)
    size = draw.choice([5, 6, 7, 9, 11])
    lengths = draw.sample(range(1, 500), size)
    right = [draw.random() < 0.6 for _ in lengths]
    copies = [b for _, b in sorted(zip(lengths, right, strict=True)) for _ in range(4)]
    expected = [sum(copies[i * size : (i + 1) * size]) / size for i in range(4)]
    assert accuracy_by_rank([right], [lengths]) == pytest.approx(expected)


def test_too_few_responses():
    assert accuracy_by_rank([[True, False]], [[1, 2]]) is None
    assert accuracy_by_width([[True, False]], [[1, 2]]) is None
    # They leave the others as they are.
    both = accuracy_by_rank([[True, False], [True] * 4], [[1, 2], [1, 2, 3, 4]])
    assert both == [1.0] * 4
