"""Which checkpoint is best: the shortest of those that are as right as the rightest, or nearly."""

import pytest

from megaprune.trainer.checkpoint_files import Best, Score


def chosen(tie, *measured):
    """The step that is left after (accuracy, length) of steps 1, 2, ..."""
    best = Best(tie)
    for step, (accuracy, length) in enumerate(measured, 1):
        best = best.after(Score(step, accuracy, length))
    return best.score.step


@pytest.mark.parametrize(
    ("tie", "measured", "step"),
    [
        (0, [(0.9, 100)], 1),
        (0, [(0.9, 100), (0.8, 10)], 1),
        (0, [(0.9, 100), (0.9, 99)], 2),
        (0, [(0.9, 100), (0.9, 100)], 1),  # the earlier of equals
        (0, [(0.9, 100), (0.91, 500)], 2),
        (1, [(0.9, 100), (0.895, 50)], 2),
        (1, [(0.9, 100), (0.88, 50)], 1),
        (1, [(0.9, 100), (0.905, 200)], 1),  # more right, by less than counts, and longer
        # Small losses do not add up: each is measured from the highest.
        (1, [(0.9, 100), (0.895, 90), (0.888, 80), (0.88, 70)], 2),
        # What is highest is remembered, though another was chosen.
        (1, [(0.9, 100), (0.908, 200), (0.897, 50)], 1),
        # The chosen one is out of reach of a later one.
        (1, [(0.9, 100), (0.92, 200)], 2),
    ],
)
def test_the_choice(tie, measured, step):
    assert chosen(tie, *measured) == step
