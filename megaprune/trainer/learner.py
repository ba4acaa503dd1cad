"""From graded answers to an optimizer step: rewards, advantages, loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from megaprune.actor.actor import Actor
from megaprune.actor.packing import Sample
from megaprune.algorithms.advantages import ADVANTAGES, Matrix
from megaprune.algorithms.losses import Grpo
from megaprune.algorithms.rewards import REWARDS, Group
from megaprune.config.run import Config
from megaprune.data import Problem
from megaprune.generation.worker import Rollout


class Unstable(Exception):
    """A step that a run should not go on from; says why."""


class Learner:
    """Learns from a step's answers.

    Args:
        config: of the run.
        actor: with the weights that the run began with, which are the reference if one is needed.
    """

    def __init__(self, config: Config, actor: Actor):
        a = config.algorithm
        self._config, self._actor = config, actor
        self._loss = Grpo(a.clip_low, a.clip_high, a.kl, a.entropy, a.importance_cap)
        self._reference = actor.weights() if a.kl else None
        """In the host's memory: it is used once a step."""

    def judge(self, answers: Sequence[Rollout]) -> tuple[Matrix, Matrix]:
        """Rewards and advantages, [prompts, n] each; answers come by prompt."""
        rollout, algorithm = self._config.rollout, self._config.algorithm
        worth = REWARDS[algorithm.objective]
        groups = [answers[i : i + rollout.n] for i in range(0, len(answers), rollout.n)]
        rewards = np.stack([worth(_group(group, rollout.max_response_length)) for group in groups])
        return rewards, ADVANTAGES[algorithm.estimator](rewards)

    def learn(
        self, step: int, problems: Sequence[Problem], answers: Sequence[Rollout], advantages: Matrix
    ) -> dict[str, float]:
        """Optimizer steps on a step's answers; what they came to, per token and step. Collective.

        Args:
            step: how many were done before.

        Raises:
            Unstable: the loss or the gradient is not finite, or the engines are too far apart.
        """
        samples = [
            _sample(problems[answer.response.prompt], answer, advantage)
            for answer, advantage in zip(answers, advantages.flat, strict=True)
        ]
        samples = self._with_log_probs(samples)
        lr, totals = self._lr(step), dict[str, float]()
        updates = self._config.algorithm.updates
        for part in np.split(np.arange(len(samples)), updates):
            for name, value in self._update([samples[i] for i in part], lr).items():
                totals[name] = totals.get(name, 0.0) + value
        seen = totals["tokens"]
        found = {
            "loss": totals["loss"] / updates,
            "grad_norm": totals["grad_norm"] / updates,
            "lr": lr,
            "entropy": totals["entropy_sum"] / seen,
            "clipped": totals["clipped_tokens"] / seen,
            "mismatch": totals["mismatch_abs_sum"] / seen,
            "mismatch_kl": totals["mismatch_kl_sum"] / seen,
            "learned_tokens": seen,
        }
        for name, total in (("kl", "kl_sum"), ("capped", "capped_tokens")):
            if total in totals:
                found[name] = totals[total] / seen
        self._check(found["mismatch"])
        return found

    def _update(self, samples: Sequence[Sample], lr: float) -> dict[str, float]:
        tokens = sum(sample.scored for sample in samples)
        try:
            done = self._actor.step(
                samples if self._loss.needs_all else _with_signal(samples),
                self._loss.loss(tokens),
                temperature=self._config.rollout.temperature,
                lr=lr,
            )
        except FloatingPointError as error:
            raise Unstable(str(error)) from error
        return {**done.metrics, "loss": done.loss, "grad_norm": done.grad_norm}

    def _with_log_probs(self, samples: Sequence[Sample]) -> list[Sample]:
        """Add what the loss wants that takes a pass of the model: none in the usual case."""
        temperature = self._config.rollout.temperature
        more: dict[str, list[Any]] = {}
        if self._config.algorithm.updates > 1:
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


def _group(answers: Sequence[Rollout], limit: int) -> Group:
    return Group(
        np.array([answer.verdict.match for answer in answers]),
        np.array([answer.length for answer in answers]),
        np.array([answer.finished for answer in answers]),
        limit,
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
