"""From graded answers to an optimizer step: rewards, advantages, loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megaprune.actor.actor import Actor, Step
from megaprune.actor.packing import Sample
from megaprune.algorithms.algorithm import Algorithm, GroupScore
from megaprune.algorithms.loss_metrics import combine
from megaprune.algorithms.losses import standard_metrics
from megaprune.algorithms.records import BatchInfo, Group, LossBatch, LossOutput, Matrix
from megaprune.config.run import AlgorithmConfig, Config
from megaprune.data import Problem
from megaprune.errors import InputError
from megaprune.generation.worker import Rollout


class Unstable(Exception):
    """A step that a run should not go on from; says why."""


@dataclass(frozen=True, eq=False)
class ScoredBatch:
    """What a batch's responses are worth.

    Args:
        rewards, advantages: [prompts, n].
        kept: [prompts, n] bool, the responses that are learned from.
        scores: of each prompt's group, with every reward by itself.
    """

    rewards: Matrix
    advantages: Matrix
    kept: NDArray[np.bool_]
    scores: Sequence[GroupScore]


class Learner:
    """Learns from a step's rollouts.

    Args:
        config: of the run.
        actor: with the weights that the run began with, which are the reference if one is needed.
    """

    def __init__(self, config: Config, actor: Actor):
        self._config, self._actor = config, actor
        self.algorithm = algorithm_of(config.algorithm)
        needed = "reference" in self.algorithm.needs
        self._reference = actor.weights() if needed else None
        """In the host's memory: it is used once a step."""

    def score(self, problem: Problem, rollouts: Sequence[Rollout]) -> GroupScore:
        """What the rollouts of one problem are worth, and which are learned from."""
        return self.algorithm.score(
            Group(
                np.array([rollout.verdict.match for rollout in rollouts]),
                np.array([rollout.length for rollout in rollouts]),
                np.array([rollout.finished for rollout in rollouts]),
                self._config.rollout.max_response_length,
                tuple(rollout.text for rollout in rollouts),
                {"data_source": problem.data_source, "gold": problem.gold},
                problem.name,
            )
        )

    def compute_rewards_and_advantages(
        self, problems: Sequence[Problem], rollouts: Sequence[Rollout]
    ) -> ScoredBatch:
        """Score a whole batch; its rollouts come by problem, equally many of each."""
        n = len(rollouts) // len(problems)
        scores = [
            self.score(problem, rollouts[i * n : (i + 1) * n]) for i, problem in enumerate(problems)
        ]
        rewards = np.stack([score.rewards for score in scores])
        kept = np.stack([score.kept for score in scores])
        return ScoredBatch(rewards, self.algorithm.advantages(rewards, kept), kept, scores)

    def learn(
        self, step: int, problems: Sequence[Problem], answers: Sequence[Rollout], advantages: Matrix
    ) -> dict[str, float]:
        """Optimizer steps on a step's rollouts; the metrics of all of them together. Collective.

        Args:
            step: how many were done before.

        Raises:
            Unstable: the loss, the gradient or a metric is not finite, or the engines are too far
                apart.
        """
        samples = [
            _sample(problems[answer.response.prompt], answer, advantage)
            for answer, advantage in zip(answers, advantages.flat, strict=True)
        ]
        samples = self._with_log_probs(samples)
        lr, count = self._lr(step), self.algorithm.num_minibatches
        updates = [
            self._update([samples[i] for i in part], lr)
            for part in np.split(np.arange(len(samples)), count)
        ]
        _, metrics = combine(share for update in updates for share in update.shares)
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise Unstable(f"the loss's metric {name} is {value}")
        if "mismatch" in metrics:
            self._check(metrics["mismatch"])
        return {
            "loss": sum(update.loss for update in updates) / count,
            "grad_norm": sum(update.grad_norm for update in updates) / count,
            "lr": lr,
            **metrics,
        }

    def _update(self, samples: Sequence[Sample], lr: float) -> Step:
        info = BatchInfo(
            total_tokens=sum(sample.scored for sample in samples),
            total_sequences=len(samples),
            limit=self._config.rollout.max_response_length,
            policy_moved=self.algorithm.num_minibatches > 1,
        )
        try:
            return self._actor.step(
                samples if self.algorithm.needs_all else _with_signal(samples),
                self._loss,
                info=info,
                temperature=self._config.rollout.temperature,
                lr=lr,
            )
        except FloatingPointError as error:
            raise Unstable(str(error)) from error

    def _loss(self, batch: LossBatch) -> LossOutput:
        """The algorithm's loss, with the metrics that every loss has."""
        output = self.algorithm.compute_loss(batch)
        standard = standard_metrics(batch)
        if taken := (standard.keys() | {"loss", "grad_norm", "lr"}) & output.metrics.keys():
            raise InputError(
                f"the loss tells a metric {min(taken)!r}, which every loss has already; give it "
                f"another name"
            )
        return LossOutput(output.loss, {**standard, **output.metrics})

    def _with_log_probs(self, samples: Sequence[Sample]) -> list[Sample]:
        """Add what the loss needs that takes a pass of the model: nothing in the usual case."""
        temperature = self._config.rollout.temperature
        more: dict[str, list[Any]] = {}
        if "old" in self.algorithm.needs:
            more["old"] = self._actor.log_probs(samples, temperature)
        if self._reference is not None:
            with self._actor.using(self._reference):
                more["reference"] = self._actor.log_probs(samples, temperature)
        return [
            Sample(s.tokens, s.prompt, {**s.values, **{name: v[i] for name, v in more.items()}})
            for i, s in enumerate(samples)
        ]

    def _lr(self, step: int) -> float:
        warmup = self._config.optimizer.warmup_steps
        return self._config.optimizer.lr * (min(1.0, (step + 1) / warmup) if warmup else 1.0)

    def _check(self, mismatch: float) -> None:
        largest = self._config.max_mismatch
        if largest is not None and not mismatch <= largest:
            raise Unstable(
                f"the engines' log-probs differ by {mismatch:.3g} nats on average, more than "
                f"max_mismatch={largest}"
            )


def algorithm_of(config: AlgorithmConfig) -> Algorithm:
    """The algorithm that a configuration's fields describe."""
    resampling = {"name": "no_signal", "max_resample_rounds": config.refills}
    return Algorithm.from_spec(
        {
            "reward": config.objective,
            "advantage": config.estimator,
            "filter": resampling if config.refills else "none",
            "loss": {
                "name": "grpo",
                "clip_ratio_low": config.clip_low,
                "clip_ratio_high": config.clip_high,
                "kl_coef": config.kl,
                "entropy_coef": config.entropy,
                "importance_cap": config.importance_cap,
            },
            "num_minibatches": config.updates,
        }
    )


def _sample(problem: Problem, answer: Rollout, advantage: float) -> Sample:
    tokens = np.concatenate([problem.tokens, answer.response.tokens]).astype(np.int64)
    values = {
        "advantage": np.full(answer.length, advantage, np.float32),
        "rollout": answer.response.log_probs,
    }
    return Sample(tokens, len(problem.tokens), values)


def _with_signal(samples: Sequence[Sample]) -> Sequence[Sample]:
    """Samples that the gradient depends on; the shortest one where it is 0 without any.

    The optimizer then does what it would have done with all of them: its momentum moves weights.
    """
    some = [sample for sample in samples if sample.values["advantage"].any()]
    return some or [min(samples, key=lambda sample: len(sample.tokens))]
