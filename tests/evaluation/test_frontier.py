"""The efficiency gap, by hand and by a sum over every budget."""

import numpy as np
import pytest
import yaml

from megaprune.errors import InputError
from megaprune.evaluation.frontier import (
    accuracy_within,
    efficiency_gap,
    frontier_within,
    read_frontiers,
)
from megaprune.evaluation.metrics import accuracy_at_budget

RIGHT = [[True, False], [True, True]]
LENGTHS = [[3, 1], [2, 7]]


def test_a_gap_by_hand():
    # Within 1, 2, 3, 4, 5 tokens: 0, 1 of 4, 2 of 4 and no more.
    own = accuracy_within(RIGHT, LENGTHS, 5)
    assert own.tolist() == [0, 0.25, 0.5, 0.5, 0.5]
    # From 0 at no token through .5 at 2 tokens to .8 at 4, then level.
    frontier = frontier_within({2: 0.5, 4: 0.8}, 5)
    assert frontier == pytest.approx([0.25, 0.5, 0.65, 0.8, 0.8])
    assert efficiency_gap(frontier, own) == pytest.approx(0.25 + 0.25 + 0.15 + 0.3 + 0.3)
    assert efficiency_gap(own, frontier) == pytest.approx(-1.25)


def test_the_curve_is_the_accuracy_within_every_budget():
    rng = np.random.default_rng(0)
    right = [list(rng.random(n) < 0.6) for n in (1, 3, 8, 8)]
    lengths = [list(map(int, rng.integers(0, 40, len(verdicts)))) for verdicts in right]
    at_budget = accuracy_at_budget(right, lengths, range(1, 31))
    expected = [accuracy for accuracy, _ in at_budget.values()]
    assert accuracy_within(right, lengths, 30) == pytest.approx(expected)


def test_a_file(tmp_path):
    file = tmp_path / "frontier.yaml"
    file.write_text(yaml.safe_dump({"aime24": {1000: 0.1, 2000: 1}}))
    assert read_frontiers(str(file)) == {"aime24": {1000: 0.1, 2000: 1.0}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1, 2]", "list; expected for each set a mapping"),
        ("aime24: 0.5", "aime24: 0.5; expected for each set a mapping"),
        ("aime24: {x: 0.5}", "aime24: 'x' for tokens; expected a whole number, 1 or more"),
        ("aime24: {0: 0.5}", "aime24: 0 for tokens"),
        ("aime24: {1000: 50}", "aime24: 50 at 1000 tokens; expected 0 to 1"),
        ("aime24: {1000: .nan}", "aime24: nan at 1000 tokens; expected 0 to 1"),
        ("{", "no YAML"),
    ],
)
def test_a_file_that_is_something_else(tmp_path, text, words):
    file = tmp_path / "frontier.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match="frontier=") as error:
        read_frontiers(str(file))
    assert words in str(error.value)


def test_no_file(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_frontiers(str(tmp_path / "nothing.yaml"))
