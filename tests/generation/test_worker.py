"""The worker that grades what an engine draws; its engine plays back what vLLM once drew."""

from types import SimpleNamespace

import numpy as np
import pytest

from megaprune.config.run import GradingConfig
from megaprune.generation.generator import Response, SamplingOptions
from megaprune.generation.worker import RolloutRequest, RolloutWorker

SAMPLING = SamplingOptions(4, 120)


class Player:
    """Gives the recorded responses to its prompts, those of all prompts in turn."""

    def __init__(self, problems, rollouts):
        self.config = SimpleNamespace(tp=1)
        self.asked = []
        self._rollouts = {problem.tokens: rollouts[problem.name] for problem in problems}

    def generate(self, prompts, sampling, progress):
        self.asked.append((prompts, sampling))
        for number in range(sampling.n):
            for index, prompt in enumerate(prompts):
                if prompt.numbers is not None and number not in prompt.numbers:
                    continue
                recorded = next(
                    rollouts[number]
                    for tokens, rollouts in self._rollouts.items()
                    if tuple(prompt.tokens[: len(tokens)]) == tuple(tokens)
                )
                given = len(prompt.tokens) - self._prompt_length(prompt)
                yield Response(
                    index, number, recorded.tokens[given:], recorded.log_probs[given:],
                    recorded.finish_reason,
                )  # fmt: skip

    def _prompt_length(self, prompt):
        return next(len(t) for t in self._rollouts if tuple(prompt.tokens[: len(t)]) == tuple(t))


@pytest.fixture(scope="module")
def tokenizer():
    from megaprune.data import load_tokenizer
    from megaprune.recipes.tiny import FOLDER

    return load_tokenizer(FOLDER / "model")


@pytest.fixture(scope="module")
def graders(alone, recorded, tokenizer):
    made = RolloutWorker(Player(*recorded), GradingConfig(workers=1), tokenizer)
    yield made
    made.close()


@pytest.fixture
def worker(graders):
    """Nothing is left in it from another test."""
    graders.generator.asked.clear()
    return graders


def requests_of(problems):
    return {10 + i: RolloutRequest(problem, problem.name) for i, problem in enumerate(problems)}


def test_graded_as_the_run_graded_them(worker, recorded):
    problems, rollouts = recorded
    worker.generate(requests_of(problems), SAMPLING, policy_version=7)
    graded = worker.gather()
    assert [(r.request, r.number) for r in graded] == [
        (10 + i, number) for i in range(len(problems)) for number in range(4)
    ]
    expected = [rollout for problem in problems for rollout in rollouts[problem.name]]
    assert {r.verdict.match for r in expected} == {True, False}
    assert {r.finish_reason for r in expected} == {"stop", "length"}
    for rollout, other in zip(graded, expected, strict=True):
        assert rollout.policy_version == 7
        assert rollout.verdict == other.verdict
        assert rollout.text == other.text  # the token that ended it is no part of it
        assert (rollout.length, rollout.finished) == (other.length, other.finished)
        np.testing.assert_array_equal(rollout.tokens, other.tokens)
        np.testing.assert_array_equal(rollout.log_probs, other.log_probs)
    assert worker.collect() == []


def test_some_are_handed_out_as_they_are_graded(worker, recorded):
    """Each once: those that were seen meanwhile are not among those that are collected."""
    problems, _ = recorded
    seen = []
    worker.generate(requests_of(problems), SAMPLING, on_graded=seen.extend)
    keys = [(r.request, r.number) for r in (*seen, *worker.collect())]
    assert sorted(keys) == [(10 + i, n) for i in range(len(problems)) for n in range(4)]


def test_a_response_that_is_begun(worker, recorded):
    """Its prefix goes to the engine behind the prompt, and is the beginning of the response."""
    problems, rollouts = recorded
    whole = rollouts[problems[0].name][2]
    prefix = tuple(whole.tokens[:5].tolist())
    request = RolloutRequest(problems[0], "k", numbers=[2], prefix=prefix, max_tokens=50)
    worker.generate({0: request}, SAMPLING)
    ((prompt,), _) = worker.generator.asked[0]
    assert tuple(prompt.tokens) == (*problems[0].tokens, *prefix)
    assert (prompt.name, prompt.numbers, prompt.limit) == ("k", [2], 50)
    (rollout,) = worker.collect()
    assert rollout.verdict == whole.verdict
    np.testing.assert_array_equal(rollout.tokens, whole.tokens)
    np.testing.assert_array_equal(rollout.log_probs, whole.log_probs[5:])


def test_engines_of_several_ranks_are_graded_by_their_first(alone, recorded, tokenizer):
    player = Player(*recorded)
    player.config.tp = 2
    made = RolloutWorker(player, GradingConfig(workers=1), tokenizer)
    assert made.grades  # rank 0
    made.close()
