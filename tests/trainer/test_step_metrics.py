"""What is told of a step: numbers by hand, seconds that add up, a line that people read."""

import time

import numpy as np
import pytest

from megaprune import schema
from megaprune.algorithms.algorithm import Algorithm
from megaprune.data import Problems
from megaprune.generation.worker import Rollout
from megaprune.grading import Verdict
from megaprune.grading.verdict import WHY
from megaprune.trainer.metrics import Clock, Reporter, batch_metrics, response_metrics

RIGHT, WRONG = Verdict(True, "1", "right"), Verdict(False, "2", "wrong")
CRASHED = Verdict(False, None, "crash", "ZeroDivisionError: the fourth")


def rollout(length, verdict=RIGHT, finish="stop"):
    return Rollout(0, 0, np.arange(length), np.zeros(length, np.float32), finish, "", verdict)


def test_responses_by_hand():
    rollouts = [rollout(10), rollout(20), rollout(30, WRONG), rollout(100, CRASHED, "length")]
    assert response_metrics(rollouts) == {
        schema.ACCURACY: 0.5,
        schema.LENGTH_MEAN: 40.0,
        schema.LENGTH_P50: 25.0,
        schema.LENGTH_P95: pytest.approx(89.5),
        schema.TRUNCATED: 0.25,
        schema.GRADING_FAILED: 0.25,
        **dict.fromkeys(map(schema.verdict_of, WHY), 0),
        "verdict/right": 0.5,
        "verdict/wrong": 0.25,
        "verdict/crash": 0.25,
    }
    assert "verdict/thought_not_closed" in response_metrics(rollouts)


def test_a_recorded_batch(recorded_batch):
    """The numbers of the run that drew it are those of its rollouts."""
    algorithm = Algorithm.from_spec({"reward": "truncate", "filter": "none"})
    batch = recorded_batch(algorithm)
    metrics = batch_metrics(batch, algorithm)
    rollouts = batch.learned_rollouts
    assert len(rollouts) == 32
    assert metrics[schema.REWARD] == metrics[schema.ACCURACY]  # within the limit by drawing
    assert metrics[schema.ACCURACY] == np.mean([r.verdict.match for r in rollouts])
    assert metrics[schema.NO_SIGNAL] == 0
    assert batch_metrics(recorded_batch(algorithm, limit=60), algorithm)[schema.NO_SIGNAL] > 0.2
    assert all(schema.metric_of(name) for name in metrics)


def test_seconds_of_phases_add_up():
    clock = Clock()
    with clock("generate"):
        time.sleep(0.02)
    for _ in range(2):
        with clock("grade"):
            time.sleep(0.01)
    line = clock.read()
    assert line["seconds/generate"] >= 0.02 <= line["seconds/grade"]
    assert line["seconds/step"] >= line["seconds/generate"] + line["seconds/grade"]
    for phase in ("generate", "grade"):
        share = line[f"seconds/{phase}"] / line["seconds/step"]
        assert line[f"share/{phase}"] == pytest.approx(share)
    again = clock.read()
    assert "seconds/grade" not in again
    assert again["seconds/step"] < line["seconds/step"]


def test_what_is_beside_a_step_is_not_in_its_seconds():
    clock = Clock()
    with clock("generate"):
        time.sleep(0.01)
    with clock.beside("validate") as seconds:
        time.sleep(0.3)
        validation = seconds()
    line = clock.read()
    assert validation >= 0.3
    assert 0.01 <= line["seconds/step"] < 0.3
    assert line["share/generate"] == pytest.approx(line["seconds/generate"] / line["seconds/step"])
    assert "seconds/validate" not in line


@pytest.fixture
def reporter(alone, configuration):
    return lambda done=0, dropped=0, validation_limit=None: Reporter(
        configuration(), done, Problems([], dropped), (), validation_limit
    )


def test_lines_that_people_read(reporter, capsys):
    tells = reporter(done=1, dropped=3)
    head = capsys.readouterr().out
    assert "(3 dropped as too long), 8 x 4 responses of at most 120 tokens a step" in head
    assert "no validation" in head
    assert "goes on after step 1" in head
    rollouts = [rollout(10), rollout(30, WRONG)]
    line = {"step": 2, schema.REWARD: 0.5, **response_metrics(rollouts), schema.SECONDS_STEP: 2.0}
    tells.show({**line, "unknown": 7})
    tells.show({"step": 2, **{f"validation/{k}": v for k, v in response_metrics(rollouts).items()}})
    unanswered = [rollout(10), rollout(30, Verdict(False, None, "no answer"))]
    tells.show({**line, **response_metrics(unanswered)})
    step, validation, told = capsys.readouterr().out.splitlines()
    assert step.startswith("step 2/4")
    assert "reward 0.500  right 50.0%  tokens 20" in step
    assert "left 4 s" in step
    assert "unknown" not in step
    assert "wrong 50.0%" in step
    assert "no answer" not in step  # 0 of it
    assert "no answer 50.0%" in told
    assert validation.split()[:4] == ["validation", "right", "50.0%", "tokens"]


def test_the_first_line_says_how_long_a_validation_s_responses_may_be(reporter, capsys):
    reporter(validation_limit=480)
    (head,) = capsys.readouterr().out.splitlines()
    assert "of at most 120 tokens a step, validation with at most 480 tokens; " in head


def test_graders_that_fail_are_named_once(reporter, capsys):
    tells = reporter()
    capsys.readouterr()
    tells.warn_of_failed([rollout(10)])
    assert capsys.readouterr().out == ""
    tells.warn_of_failed([rollout(10), rollout(10, CRASHED)])
    tells.warn_of_failed([rollout(10, CRASHED)])
    (line,) = capsys.readouterr().out.splitlines()
    assert line == (
        "megaprune: warning: the grader failed on 1 of 2 answers "
        "(crash: ZeroDivisionError: the fourth); they count as wrong"
    )
