"""A step of learning, with a real tiny actor and rollouts that vLLM drew from the same weights."""

import numpy as np
import pytest
import torch

from megaprune import schema
from megaprune.actor.packing import Sample
from megaprune.config.run import OptimizerConfig
from megaprune.errors import InputError
from megaprune.trainer.learner import Learner, Unstable, learning_rate


@pytest.fixture
def learner(configuration, make_actor):
    """Build a learner and its actor, with fields in the words of the command line."""

    def make(*fields):
        actor = make_actor(*fields)
        return Learner(configuration("optimizer.lr=1e-3", *fields), actor), actor

    return make


def samples_of(batch):
    return [
        Sample(np.concatenate([group.problem.tokens, r.tokens]), len(group.problem.tokens))
        for group in batch.groups
        for r in group.rollouts
    ]


def test_vllm_said_what_the_actor_says(learner, recorded_batch):
    """Log-probs of the recorded tokens: engines that drift apart are seen without an engine."""
    learns, actor = learner()
    batch = recorded_batch(learns.algorithm)
    computed = actor.log_probs(samples_of(batch))
    for rollout, log_probs in zip(batch.learned_rollouts, computed, strict=True):
        np.testing.assert_allclose(log_probs, rollout.log_probs, atol=2e-4)


def test_a_step(learner, recorded_batch):
    learns, actor = learner()
    before = actor.weights()
    batch = recorded_batch(learns.algorithm)
    metrics = learns.learn(0, batch)
    assert all(np.isfinite(value) for value in metrics.values())
    assert metrics[schema.GRAD_NORM] > 0
    assert metrics[schema.LR] == 1e-3
    assert metrics[schema.MISMATCH] < 1e-5
    assert 0 < metrics[schema.ENTROPY] < 1
    # On the policy that drew the responses the ratio is 1: the loss is minus the mean advantage.
    lengths = np.array([[r.length for r in group.rollouts] for group in batch.groups])
    expected = -(batch.advantages * lengths).sum() / lengths.sum()
    assert metrics[schema.LOSS] == pytest.approx(expected, abs=1e-6)
    changed = [name for name, old in before.items() if not old.equal(actor.parameters()[name])]
    assert len(changed) == len(before)


def test_right_answers_become_likelier(learner, recorded_batch):
    learns, actor = learner("optimizer.lr=1e-4")
    batch = recorded_batch(learns.algorithm)
    samples, signs = samples_of(batch), np.sign(batch.advantages.ravel())
    before = [values.sum() for values in actor.log_probs(samples)]
    for step in range(3):
        learns.learn(step, batch)
    after = [values.sum() for values in actor.log_probs(samples)]
    moved = np.array(after) - np.array(before)
    assert moved[signs > 0].mean() > 0 > moved[signs < 0].mean()


def test_micro_batches_change_nothing(learner, recorded_batch):
    results = []
    for tokens in (170, 10_000):
        learns, actor = learner(f"actor.max_tokens={tokens}")
        metrics = learns.learn(0, recorded_batch(learns.algorithm))
        results.append((metrics, actor.weights()))
    (few, one), (many, other) = results
    assert few == pytest.approx(many, rel=1e-4, abs=1e-6)
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name], rtol=0, atol=2e-5)


def test_groups_without_signal_are_tokens_of_the_mean_and_no_more(learner, recorded_batch):
    """Under a limit that is so low that in some groups nothing is right."""
    learns, _ = learner()
    batch = recorded_batch(learns.algorithm, limit=80)
    signal = (batch.advantages != 0).ravel()
    assert 0 < signal.sum() < len(signal)
    metrics = learns.learn(0, batch)
    lengths = np.array([r.length for r in batch.learned_rollouts])
    assert metrics[schema.LEARNED_TOKENS] == lengths[signal].sum()
    expected = -(batch.advantages.ravel() * lengths).sum() / lengths.sum()
    assert metrics[schema.LOSS] == pytest.approx(expected, abs=1e-6)


SIMPO = ["algorithm.loss.name=simpo"]

ALL_RIGHT = """
from dataclasses import dataclass

@dataclass(frozen=True)
class AllRight:
    def __call__(self, group, rewards):
        return group.correct.copy()
"""

RECIPES = {
    "plain": [],
    "held to a reference": ["algorithm.loss.kl_coef=1e-9"],
    "kept open": ["algorithm.loss.entropy_coef=1e-9"],
    "corrected": ["algorithm.loss.importance_cap=2.0"],
    "of ThinkPrune": ["algorithm=thinkprune"],
    "in two steps": ["algorithm.num_minibatches=2"],
}


def test_means_are_over_the_same_responses_in_every_recipe(learner, recorded_batch):
    """Those with an advantage: a recipe that has others computed too measures no others."""
    learns, actor = learner()
    batch = recorded_batch(learns.algorithm, limit=80)
    signal = (batch.advantages != 0).ravel()
    log_probs = actor.log_probs(samples_of(batch))
    pairs = zip(batch.learned_rollouts, log_probs, strict=True)
    apart = [np.abs(values - rollout.log_probs) for rollout, values in pairs]
    mismatch = np.concatenate([a for a, s in zip(apart, signal, strict=True) if s]).mean()
    told = {}
    for name, fields in RECIPES.items():
        learns, _ = learner(*fields)
        told[name] = learns.learn(0, recorded_batch(learns.algorithm, limit=80))
    everything = told["held to a reference"][schema.LEARNED_TOKENS]
    assert everything > told["plain"][schema.LEARNED_TOKENS]
    for name, metrics in told.items():
        assert metrics[schema.MISMATCH] == pytest.approx(mismatch, rel=1e-3), name
        if name != "in two steps":  # the second is of other weights
            assert metrics[schema.ENTROPY] == pytest.approx(told["plain"][schema.ENTROPY]), name
            assert metrics[schema.CLIP_RATIO] == 0


@pytest.mark.parametrize("fields", [[], ["algorithm.loss.entropy_coef=0.1"]])
def test_engines_are_compared_in_a_step_without_signal(learner, recorded_batch, fields):
    """Engines that are apart may be why nothing is right."""
    learns, _ = learner(*fields)
    batch = recorded_batch(learns.algorithm, 2)
    batch.advantages[:] = 0
    metrics = learns.learn(0, batch)
    assert 0 < metrics[schema.MISMATCH] < 1e-5
    assert schema.CLIP_RATIO not in metrics
    learns, _ = learner("max_mismatch=1e-12", *fields)
    with pytest.raises(Unstable, match="max_mismatch"):
        learns.learn(0, batch)


def test_supervised_fine_tuning_learns_from_all(learner, recorded_batch):
    """Its advantages mean nothing."""
    told = []
    for zero in (False, True):
        learns, _ = learner("algorithm.loss.name=sft")
        batch = recorded_batch(learns.algorithm, 2)
        if zero:
            batch.advantages[1] = 0
        told.append(learns.learn(0, batch)[schema.ENTROPY])
    assert told[0] == pytest.approx(told[1])


def pair_of(group):
    """Numbers of the shortest and the longest right response."""
    right = [n for n, rollout in enumerate(group.rollouts) if rollout.verdict.match]
    by_length = [min, max]
    return [choose(right, key=lambda n: group.rollouts[n].length) for choose in by_length]


@pytest.mark.parametrize("fields", [["algorithm=dpo"], ["algorithm=dpo", *SIMPO]], ids=str)
def test_pairs_are_learned_from(learner, recorded_batch, fields):
    """The same in any micro-batches; the shortest right response gains on the longest."""
    results = []
    for tokens in (280, 10_000):
        learns, actor = learner(f"actor.max_tokens={tokens}", "optimizer.lr=1e-4", *fields)
        batch = recorded_batch(learns.algorithm)
        metrics = learns.learn(0, batch)
        results.append((metrics, actor.weights()))
    (few, one), (many, other) = results
    assert few == pytest.approx(many, rel=1e-4, abs=1e-6)
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name], rtol=0, atol=2e-6)
    pairs = [(g, *pair_of(g)) for g in batch.groups if g.kept]
    assert 0 < len(pairs) < len(batch.groups)  # some have no pair
    assert few[schema.LEARNED_TOKENS] == sum(
        g.rollouts[n].length for g, *numbers in pairs for n in numbers
    )
    if SIMPO[0] not in fields:  # the policy is the reference
        assert few[schema.LOSS] == pytest.approx(np.log(2), abs=1e-6)
        assert few[schema.PAIR_MARGIN] == pytest.approx(0, abs=1e-6)
    again = [learns.learn(step, batch) for step in (1, 2, 3)]
    assert again[-1][schema.PAIR_MARGIN] > again[0][schema.PAIR_MARGIN] > few[schema.PAIR_MARGIN]
    assert again[-1][schema.LOSS] < few[schema.LOSS]


def test_a_batch_without_a_pair_teaches_nothing(learner, recorded_batch):
    learns, actor = learner("algorithm=dpo")
    before = actor.weights()
    batch = recorded_batch(learns.algorithm, 2)
    batch.advantages[:] = 0
    metrics = learns.learn(0, batch)
    assert (metrics[schema.LOSS], metrics[schema.GRAD_NORM]) == (0, 0)
    assert all(weight.equal(actor.parameters()[name]) for name, weight in before.items())


def test_responses_that_are_no_pairs_are_refused(learner, recorded_batch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(ALL_RIGHT)
    learns, _ = learner("algorithm=dpo", "algorithm.filter.name=own.py:AllRight")
    with pytest.raises(
        InputError, match=r"responses to .* learned from.*takes 2 of each.*right_pair"
    ):
        learns.learn(0, recorded_batch(learns.algorithm))
    learns, _ = learner("algorithm=dpo", "algorithm.reward.name=correct")
    with pytest.raises(InputError, match="same advantage"):
        learns.learn(0, recorded_batch(learns.algorithm))


def test_nothing_to_learn_from_moves_nothing(learner, recorded_batch):
    """All advantages 0: no gradient, and Adam without momentum stays where it is."""
    learns, actor = learner()
    batch = recorded_batch(learns.algorithm)
    batch.advantages[:] = 0
    before = actor.weights()
    metrics = learns.learn(0, batch)
    assert (metrics[schema.LOSS], metrics[schema.GRAD_NORM]) == (0, 0)
    for name, weight in before.items():
        assert weight.equal(actor.parameters()[name]), name


def test_the_learning_rate_warms_up(learner, recorded_batch):
    learns, _ = learner("optimizer.warmup_steps=4")
    batch = recorded_batch(learns.algorithm, 2)
    rates = [learns.learn(step, batch)[schema.LR] for step in (0, 1, 3, 9)]
    assert rates == pytest.approx([2.5e-4, 5e-4, 1e-3, 1e-3])


def test_a_cosine_s_learning_rates_are_the_published_ones():
    """O1-Pruner's: 9,999 samples in batches of 32, of which a tenth warms up."""
    config = OptimizerConfig(lr=2e-7, schedule="cosine", warmup_steps=32)
    rates = [learning_rate(config, step, 312) for step in (0, 1, 32, 156, 311)]
    assert rates == pytest.approx([0, 6.25e-9, 2e-7, 1.178557e-7, 6.294e-12], rel=1e-4)
    assert learning_rate(OptimizerConfig(schedule="cosine", lr=1.0), 0, 10) == 1
    falling = [learning_rate(config, step, 312) for step in range(32, 312)]
    assert falling == sorted(falling, reverse=True)


def test_a_reference_is_what_the_run_began_with(learner, recorded_batch):
    learns, _ = learner("algorithm.loss.kl_coef=0.1")
    assert "reference" in learns.algorithm.needs
    first = learns.learn(0, recorded_batch(learns.algorithm))
    second = learns.learn(1, recorded_batch(learns.algorithm, version=1))
    assert first[schema.KL] == pytest.approx(0, abs=1e-9)
    assert second[schema.KL] > 1e-6


def test_a_divergence_in_the_reward_changes_advantages(learner, recorded_batch):
    """Sums over responses of k1 = log-prob - reference are taken from rewards, then centred."""
    fields = ("kl_coef=0.5", "kl_in=reward", "kl_estimator=k1")
    learns, actor = learner(*(f"algorithm.loss.{field}" for field in fields))
    reference = actor.weights()
    learns.learn(0, recorded_batch(learns.algorithm))
    batch = recorded_batch(learns.algorithm, version=1)
    old = [values.sum() for values in actor.log_probs(samples_of(batch))]
    with actor.using(reference):
        apart = old - np.array([values.sum() for values in actor.log_probs(samples_of(batch))])
    rewards = np.array([group.score.rewards for group in batch.groups])
    rewards = rewards - 0.5 * apart.reshape(rewards.shape)
    advantages = rewards - rewards.mean(1, keepdims=True)
    lengths = np.array([[r.length for r in group.rollouts] for group in batch.groups])
    metrics = learns.learn(1, batch)
    expected = -(advantages * lengths).sum() / lengths.sum()
    assert expected != pytest.approx(-(batch.advantages * lengths).sum() / lengths.sum(), abs=1e-3)
    assert metrics[schema.LOSS] == pytest.approx(expected, abs=1e-5)
    assert metrics[schema.KL] == pytest.approx(apart.sum() / lengths.sum(), abs=1e-5)


def test_minibatches_are_a_step_each(learner, recorded_batch):
    """The second goes from other weights than drew its responses, so that ratios are clipped."""
    learns, actor = learner("algorithm.num_minibatches=2")
    assert "old" in learns.algorithm.needs
    before = actor.weights()
    metrics = learns.learn(0, recorded_batch(learns.algorithm))
    assert metrics[schema.MISMATCH] < 1e-5  # of the policy that drew the tokens
    assert 0 <= metrics[schema.CLIP_RATIO] < 1
    # Adam's first two steps are of lr each, at most.
    moved = max((actor.parameters()[n] - old).abs().max() for n, old in before.items())
    assert 1e-3 < moved < 2.1e-3


def test_rollouts_of_an_older_policy(learner, recorded_batch):
    """Their own log-probs are the old ones; that engine and actor differ is as it should be."""
    learns, _ = learner("max_mismatch=1e-9")
    metrics = learns.learn(5, recorded_batch(learns.algorithm, version=3))
    assert metrics[schema.GRAD_NORM] > 0


def test_engines_that_are_too_far_apart(learner, recorded_batch):
    learns, _ = learner("max_mismatch=1e-12")
    with pytest.raises(Unstable, match="log-probs differ by .* more than max_mismatch=1e-12"):
        learns.learn(0, recorded_batch(learns.algorithm))


def test_weights_that_are_no_numbers(learner, recorded_batch):
    learns, actor = learner()
    before = actor.weights()
    next(iter(actor.parameters().values()))[:] = float("nan")
    with pytest.raises(Unstable, match="the loss is nan"):
        learns.learn(0, recorded_batch(learns.algorithm))
    unchanged = [name for name, old in before.items() if old.equal(actor.parameters()[name])]
    assert len(unchanged) == len(before) - 1


OWN_LOSSES = """
from dataclasses import dataclass

from megaprune.algorithms import LossOutput, maximum, mean_by_sequence, mean_by_token, percentiles


@dataclass(frozen=True)
class Own:
    metric: str = "my/ratio"
    spoil: bool = False
    needs = frozenset({"old"})

    def __call__(self, batch):
        ratio = (batch.log_probs - batch.old).exp()
        sums = batch.sum_by_sequence(-ratio * batch.advantage)
        metrics = {
            self.metric: mean_by_token(ratio * (float("nan") if self.spoil else 1.0)),
            "my/length": mean_by_sequence(batch.mean_by_sequence(ratio) * 0 + 1),
            "my/longest": maximum(batch.sum_by_sequence(ratio * 0 + 1)),
            "my/lengths": percentiles(batch.sum_by_sequence(ratio * 0 + 1), 50),
        }
        return LossOutput(sums.sum() / batch.total_sequences, metrics)
"""


@pytest.fixture
def own_loss(tmp_path, monkeypatch):
    (tmp_path / "own_losses.py").write_text(OWN_LOSSES)
    monkeypatch.chdir(tmp_path)
    return "algorithm.loss.name=own_losses.py:Own"


def test_a_loss_of_the_users_own(learner, recorded_batch, own_loss):
    found = {}
    for budget in (200, 4096):
        learns, _ = learner(own_loss, "algorithm.num_minibatches=2", f"actor.max_tokens={budget}")
        batch = recorded_batch(learns.algorithm)
        found[budget] = learns.learn(0, batch)
    lengths = [rollout.length for rollout in batch.learned_rollouts]
    for metrics in found.values():
        assert metrics["my/longest"] == max(lengths)
        assert metrics["my/lengths/p50"] == pytest.approx(np.median(lengths))
        assert metrics["my/length"] == 1.0
        assert metrics[schema.LEARNED_TOKENS] == sum(lengths)  # it says nothing of `needs_all`
        assert schema.CLIP_RATIO not in metrics
    for name in ("my/ratio", schema.LOSS, schema.GRAD_NORM, schema.MISMATCH):
        assert found[200][name] == pytest.approx(found[4096][name], rel=1e-4, abs=1e-6)


def test_metrics_of_the_users_own_that_cannot_be(learner, recorded_batch, own_loss):
    learns, _ = learner(own_loss, "algorithm.loss.metric=entropy")
    with pytest.raises(InputError, match="a metric 'entropy', which every step has already"):
        learns.learn(0, recorded_batch(learns.algorithm))
    learns, _ = learner(own_loss, "algorithm.loss.spoil=true")
    with pytest.raises(Unstable, match="the loss's metric my/ratio is nan"):
        learns.learn(0, recorded_batch(learns.algorithm))
