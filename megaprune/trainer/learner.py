"""From graded answers to an optimizer step: rewards, advantages, loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from megaprune import schema
from megaprune.actor.actor import Actor, Step
from megaprune.actor.packing import Array, Sample
from megaprune.algorithms.loss_metrics import combine
from megaprune.algorithms.losses import standard_metrics
from megaprune.algorithms.records import BatchInfo, LossBatch, LossOutput
from megaprune.config.run import Config, OptimizerConfig
from megaprune.errors import InputError
from megaprune.trainer.batch import RolloutBatch

_RESERVED = {metric.name for metric in schema.METRICS if not metric.of_loss}
"""Names of metrics that are not a loss's to tell."""


class Unstable(Exception):
    """A step that a run should not go on from; says why."""


class Learner:
    """Learns from a step's rollouts.

    Args:
        config: of the run.
        actor: with the weights that the run began with, which are the reference if one is needed.
    """

    def __init__(self, config: Config, actor: Actor):
        self._config, self._actor = config, actor
        self.algorithm = config.algorithm
        self._by_advantage = self.algorithm.by_advantage
        # Responses with weights bring the reference's log-probs along.
        needed = "reference" in self.algorithm.needs and config.data.weights is None
        self._reference = actor.weights() if needed else None
        """In the host's memory: it is used once a step."""

    def learn(self, step: int, batch: RolloutBatch) -> dict[str, float]:
        """Optimizer steps on a batch; the metrics of all of them together. Collective.

        Responses that the filter leaves out of a group are left out here too. Groups without
        signal that fill a batch up count as tokens of the mean, and have no gradient.

        Args:
            step: steps done before, which is the version of the policy.
            batch: what is learned from.

        Raises:
            Unstable: the loss, the gradient or a metric is not finite, or the engines are too far
                apart.
        """
        # Where some of the rollouts were drawn by an older policy, the engine's own log-probs are
        # those of the policy that drew them.
        stale = any(r.policy_version != step for r in batch.learned_rollouts)
        in_reward = self.algorithm.kl_in_reward
        batch = _of_whole_units(batch, self.algorithm.unit)
        samples = self._with_log_probs(_samples(batch, every=in_reward), stale)
        if in_reward:
            samples = self._with_kl_in_rewards(batch, samples)
        # Engines that are apart are seen where nothing can be learned, too: that may be why.
        with_signal = any(sample.values["advantage"].any() for sample in samples)
        self._by_advantage = self.algorithm.by_advantage and with_signal
        lr = learning_rate(self._config.optimizer, step, self._config.steps)
        unit = self.algorithm.unit if with_signal else 1
        units = np.arange(len(samples)).reshape(-1, unit)
        count = min(self.algorithm.num_minibatches, len(units))
        updates = [
            self._update([samples[i] for i in part.ravel()], lr, stale, unit)
            for part in np.array_split(units, count)
        ]
        _, metrics = combine(share for update in updates for share in update.shares)
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise Unstable(f"the loss's metric {name} is {value}")
        if schema.MISMATCH in metrics and not stale:
            self._check(metrics[schema.MISMATCH])
        return {
            schema.LOSS: sum(update.loss for update in updates) / count,
            schema.GRAD_NORM: sum(update.grad_norm for update in updates) / count,
            schema.LR: lr,
            **metrics,
        }

    def _update(self, samples: Sequence[Sample], lr: float, stale: bool, unit: int) -> Step:
        info = BatchInfo(
            total_tokens=sum(sample.scored for sample in samples),
            total_sequences=len(samples),
            limit=self._config.rollout.max_response_length,
            policy_moved=stale or self.algorithm.num_minibatches > 1,
        )
        try:
            return self._actor.step(
                samples if self.algorithm.needs_all else _with_signal(samples),
                self._loss,
                info=info,
                unit=unit,
                temperature=self._config.rollout.temperature,
                lr=lr,
            )
        except FloatingPointError as error:
            raise Unstable(str(error)) from error

    def _loss(self, batch: LossBatch) -> LossOutput:
        """The algorithm's loss, with the metrics that every loss has."""
        output = self.algorithm.compute_loss(batch)
        standard = standard_metrics(batch, self._by_advantage)
        if taken := _RESERVED & output.metrics.keys():
            raise InputError(
                f"the loss tells a metric {min(taken)!r}, which every step has already; give it "
                f"another name"
            )
        return LossOutput(output.loss, {**standard, **output.metrics})

    def _with_log_probs(self, samples: Sequence[Sample], stale: bool) -> list[Sample]:
        """Add what the loss needs that takes a pass of the model: nothing in the usual case."""
        temperature = self._config.rollout.temperature
        more: dict[str, list[Any]] = {}
        if stale:
            more["old"] = [sample.values["rollout"] for sample in samples]
        elif "old" in self.algorithm.needs:
            more["old"] = self._actor.log_probs(samples, temperature)
        if self._reference is not None:
            with self._actor.using(self._reference):
                more["reference"] = self._actor.log_probs(samples, temperature)
        return [
            Sample(s.tokens, s.prompt, {**s.values, **{name: v[i] for name, v in more.items()}})
            for i, s in enumerate(samples)
        ]

    def _with_kl_in_rewards(self, batch: RolloutBatch, samples: Sequence[Sample]) -> list[Sample]:
        """Take each response's divergence from its reward, and compute the advantages anew.

        Args:
            samples: of all responses of the batch's groups, with old and reference log-probs.

        Returns:
            The samples that are learned from, with their advantages.
        """
        lost = [
            self.algorithm.reward_penalty(
                *(torch.as_tensor(sample.values[n], dtype=torch.float64) for n in _COMPARED)
            )
            for sample in samples
        ]
        count = batch.advantages.shape[1]
        scores = [
            replace(group.score, rewards=group.score.rewards - of_group)
            for group, of_group in zip(batch.groups, np.reshape(lost, (-1, count)), strict=True)
        ]
        lengths = [[rollout.length for rollout in group.rollouts] for group in batch.groups]
        advantages = self.algorithm.advantages_of(scores, lengths)
        result = []
        for place, sample in enumerate(samples):
            group, number = divmod(place, count)
            if number in batch.groups[group].learned:
                own: Array = np.full(sample.scored, advantages[group, number], np.float32)
                result.append(replace(sample, values={**sample.values, "advantage": own}))
        return result

    def _check(self, mismatch: float) -> None:
        largest = self._config.max_mismatch
        if largest is not None and not mismatch <= largest:
            raise Unstable(
                f"the engines' log-probs differ by {mismatch:.3g} nats on average, more than "
                f"max_mismatch={largest}"
            )


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """The learning rate of a step.

    With a constant schedule the warm-up's first step has lr / warmup_steps. With a cosine it has 0,
    as in transformers: lr k / W in the first W steps, then lr (1 + cos(pi (k - W) / (N - W))) / 2.

    Args:
        config: of the optimizer.
        step: steps done before, k.
        steps: of the whole run, N.
    """
    warmup = config.warmup_steps
    if config.schedule == "constant":
        return config.lr * (min(1.0, (step + 1) / warmup) if warmup else 1.0)
    if step < warmup:
        return config.lr * step / warmup
    return config.lr * (1.0 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


_COMPARED = ("old", "reference")


def _samples(batch: RolloutBatch, every: bool = False) -> list[Sample]:
    """The responses that are learned from, or every one, one after another in the batch's order."""
    samples = []
    for group, advantages in zip(batch.groups, batch.advantages, strict=True):
        prompt = np.asarray(group.problem.tokens, np.int64)
        for number in range(len(group.rollouts)) if every else group.learned:
            rollout = group.rollouts[number]
            values = {
                "advantage": np.full(rollout.length, advantages[number], np.float32),
                "rollout": rollout.log_probs,
            }
            if rollout.reference_log_probs is not None:
                values["reference"] = rollout.reference_log_probs
            tokens = np.concatenate([prompt, rollout.tokens])
            samples.append(Sample(tokens, len(prompt), values))
    return samples


def _of_whole_units(batch: RolloutBatch, unit: int) -> RolloutBatch:
    """The groups of a batch that have a unit of responses to be learned from.

    Where none has, the batch as it is: then all advantages are 0, and nothing is learned.

    Raises:
        InputError: a group has more or fewer responses that are learned from.
    """
    if unit == 1:
        return batch
    places = [i for i, group in enumerate(batch.groups) if group.kept and batch.advantages[i].any()]
    for group in (batch.groups[i] for i in places):
        if len(group.learned) != unit:
            raise InputError(
                f"{len(group.learned)} responses to {group.problem.name} are to be learned from, "
                f"and algorithm.loss takes {unit} of each group; expected an algorithm.filter that "
                f"keeps so many, as right_pair does of pairs"
            )
    if not places:
        return batch
    return replace(
        batch, groups=[batch.groups[i] for i in places], advantages=batch.advantages[places]
    )


def _with_signal(samples: Sequence[Sample]) -> Sequence[Sample]:
    """Samples that the gradient depends on; the shortest one where it is 0 without any.

    The optimizer then does what it would have done with all of them: its momentum moves weights.
    """
    with_signal = [sample for sample in samples if sample.values["advantage"].any()]
    return with_signal or [min(samples, key=lambda sample: len(sample.tokens))]
