"""Markers counted by hand."""

import random
from itertools import islice

import pytest

from megaprune.grading.markers import MARKERS, count_markers
from megaprune.recipes.overthinker.problems import CHECKS, drawn, response


@pytest.mark.parametrize(
    ("text", "rechecks", "hesitations", "restarts"),
    [
        ("", 0, 0, 0),
        ("So x = 3.5 and y = 2.", 0, 0, 0),
        ("Wait, let me check that, to be sure.", 1, 1, 0),
        ("Wait. Let me CHECK. To be\nsure.", 1, 1, 0),  # a line's end ends a sentence
        ("Let me double-check: 3 + 4 = 7. Check again!", 2, 0, 0),
        ("Hmm, is that right? Hmm... no.\n\nIs  that correct?", 2, 2, 0),
        ("The checkers await; the hmmm waiter confirms nothing.", 0, 0, 0),
        ("Alternatively, try another way.\nLet's try x = 1. Let’s try x = 2.", 0, 0, 3),
        ("Actually, maybe I should start over from scratch, and verify.", 1, 1, 1),
        ("That can't be right. That can’t be right", 0, 2, 0),
        ("Perhaps wait, hold on, hmm", 0, 1, 0),
        ("Let me verify it once more", 1, 0, 0),
    ],
)
def test_by_hand(text, rechecks, hesitations, restarts):
    expected = {"re-checks": rechecks, "hesitations": hesitations, "restarts": restarts}
    assert count_markers(text) == expected


def test_each_marker_is_found_and_is_of_one_kind():
    for kind, phrases in MARKERS.items():
        for phrase in phrases:
            assert count_markers(f"So, {phrase.upper()}, then.") == {
                other: int(other == kind) for other in MARKERS
            }, phrase


def test_the_overthinker():
    """Its re-checks, counted by the words that they are made with."""
    rng, total = random.Random(0), 0
    for problem in islice(drawn(5), 300):
        thought = response(problem, rng).partition("</think>")[0]
        made = sum(thought.count(check) for check in CHECKS)
        found = count_markers(thought)
        assert found["re-checks"] == made
        assert found["hesitations"] == thought.count("Wait,") + thought.count("Hmm,")
        assert found["restarts"] == 0
        total += made
    assert total > 1000
