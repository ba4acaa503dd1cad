"""Steps whose responses all fail for one reason are warned of, and end a run."""

import numpy as np
import pytest

from megaprune import schema
from megaprune.generation.worker import Rollout
from megaprune.grading import Verdict
from megaprune.grading.verdict import WHY
from megaprune.trainer.failing_steps import FailingSteps
from megaprune.trainer.metrics import response_metrics


def rollouts(*reasons):
    return [
        Rollout(
            0, n, np.arange(3), np.zeros(3, np.float32), "stop", "", Verdict(w == "right", "", w)
        )
        for n, w in enumerate(reasons)
    ]


def line(*reasons):
    """What metrics.jsonl has of such a step."""
    return {"step": 1, schema.REWARD: 0.0, **response_metrics(rollouts(*reasons))}


@pytest.mark.parametrize("why", [why for why in WHY if why not in ("right", "wrong")])
def test_three_in_a_row_are_too_many(why):
    steps = FailingSteps(3)
    for count in (1, 2, 3):
        warning = steps.see(rollouts(why, why, why))
        assert warning.startswith(f"all 3 responses of the step have the verdict {why!r} (")
        assert WHY[why] in warning
        assert steps.is_new == (count == 1)  # of which a run warns
        assert (steps.too_many is not None) == (count == 3)
    assert steps.too_many.startswith("3 steps in a row had no response with another verdict")
    assert "With max_failed_steps=null the run goes on all the same" in steps.too_many


@pytest.mark.parametrize(
    "between", [["no answer", "right"], ["right", "right"], ["cut off", "no answer"], ["crash"]]
)
def test_a_step_between_that_is_another(between):
    steps = FailingSteps(3)
    for _ in range(2):
        for reasons in (["no answer"], ["no answer"], between):
            steps.see(rollouts(*reasons))
            assert steps.too_many is None
        assert steps.is_new == (between == ["crash"])
    steps.see(rollouts("no answer"))
    assert steps.is_new


def test_what_is_no_failure():
    steps = FailingSteps(1)
    assert steps.see(rollouts("right", "right")) is None
    assert steps.see(rollouts("right", "no answer", "cut off")) is None
    assert steps.too_many is None
    # The answers of hard problems are wrong: it is said, and no reason to stop.
    assert "gold answers" in steps.see(rollouts("wrong", "wrong"))
    assert steps.too_many is None
    assert steps.see(rollouts("cut off")).endswith("raise rollout.max_response_length")
    assert steps.too_many.startswith("1 step in a row")


def test_one_may_go_on():
    steps = FailingSteps(None)
    for _ in range(50):
        assert "thought" in steps.see(rollouts("thought not closed"))
        assert steps.too_many is None


def test_a_run_that_goes_on_counts_the_steps_before():
    validation = {"step": 2, "validation/accuracy": 0.0, "validation/verdict/no_answer": 1.0}
    before = [line("no answer", "right"), line("no answer"), validation, line("no answer")]
    steps = FailingSteps(3, before)
    assert steps.too_many is None
    steps.see(rollouts("no answer"))
    assert steps.too_many is not None
    steps = FailingSteps(3, [*before, line("right")])
    steps.see(rollouts("no answer"))
    assert steps.too_many is None
    assert FailingSteps(3, [{"step": 1, schema.REWARD: 0.0}]).too_many is None  # an older run's
