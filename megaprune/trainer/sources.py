"""What a step learns from: problems answered, graded, judged; groups without signal replaced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from megaprune.algorithms.advantages import without_signal
from megaprune.algorithms.records import Matrix
from megaprune.config.run import Config
from megaprune.data import Problem, batch
from megaprune.generation.generator import SamplingOptions
from megaprune.generation.worker import Rollout, RolloutWorker, rows
from megaprune.trainer.learner import Learner
from megaprune.trainer.metrics import Clock


@dataclass(frozen=True)
class RolloutBatchPart:
    """Problems with n graded answers each, by problem, and what those are worth.

    Args:
        rewards, advantages: [problems, n].
    """

    problems: Sequence[Problem]
    answers: Sequence[Rollout]
    rewards: Matrix
    advantages: Matrix

    def take(self, which: Sequence[int]) -> tuple[list[Problem], list[list[Rollout]]]:
        """Some of the problems, with their answers."""
        n = self.rewards.shape[1]
        return [self.problems[i] for i in which], [
            list(self.answers[i * n : (i + 1) * n]) for i in which
        ]


@dataclass(frozen=True)
class RolloutBatch(RolloutBatchPart):
    """What a step learns from, and what it passed over.

    Args:
        unused: groups without signal that others took the place of; their answers stay on record.
        no_signal: share of all groups that were drawn.
    """

    unused: tuple[list[Problem], list[Rollout]]
    no_signal: float

    @property
    def tokens(self) -> int:
        """Of all responses that were drawn."""
        return sum(a.length for a in (*self.answers, *self.unused[1]))

    def rows(self) -> list[dict[str, object]]:
        """Of the step's table."""
        return [
            *rows(self.problems, self.answers, self.rewards, self.advantages),
            *rows(*self.unused),
        ]


class Batches:
    """Draws the batches of a run, each a function of its step. Collective.

    Args:
        problems: to train on.
        answers, learner: of this rank.
        clock: told the phases.
        seen: told of each lot of answers as it is graded.
    """

    def __init__(
        self,
        config: Config,
        problems: Sequence[Problem],
        answers: RolloutWorker,
        learner: Learner,
        clock: Clock,
        seen: Callable[[Sequence[Rollout]], None],
    ):
        self._config, self._problems = config, problems
        self._answers, self._learner, self._clock, self._seen = answers, learner, clock, seen

    def draw(self, step: int) -> RolloutBatch:
        """The batch of a step.

        With `algorithm.refills`, groups without signal are replaced by other problems, so often at
        most (dynamic sampling, DAPO 2503.14476); what is still missing is made up by some of them.

        Args:
            step: how many were done before.
        """
        wanted, refills = self._config.data.train_batch_size, self._config.algorithm.refills
        lots: list[tuple[RolloutBatchPart, list[int], list[int]]] = []
        missing = wanted
        for attempt in range(1 + refills):
            lot = self._lot(step * (1 + refills) + attempt, missing)
            empty = without_signal(lot.advantages)
            lots.append((lot, np.flatnonzero(~empty).tolist(), np.flatnonzero(empty).tolist()))
            missing -= len(lots[-1][1])
            if not missing or not refills:
                break
        drawn = sum(len(lot.problems) for lot, _, _ in lots)
        empties = sum(len(empty) for _, _, empty in lots)
        if len(lots) == 1:
            return RolloutBatch(**vars(lots[0][0]), unused=([], []), no_signal=empties / drawn)
        return self._merged(lots, missing, empties / drawn)

    def _lot(self, number: int, count: int) -> RolloutBatchPart:
        """The first problems of a numbered draw, answered."""
        config = self._config
        indices = batch(len(self._problems), config.data.train_batch_size, number, config.seed)[
            :count
        ]
        problems = [self._problems[index] for index in indices]
        rollout = config.rollout
        # Another seed for each draw: a problem that comes again gets other responses.
        seed = config.seed * 1_000_003 + number + 1
        with self._clock("generate"):
            sampling = SamplingOptions(
                rollout.n, rollout.max_response_length, rollout.temperature, seed=seed
            )
            self._answers.generate(problems, sampling)
        with self._clock("grade"):
            answers = self._answers.graded()
            self._seen(answers)
            return RolloutBatchPart(problems, answers, *self._judged(problems, answers))

    def _judged(
        self, problems: Sequence[Problem], answers: Sequence[Rollout]
    ) -> tuple[Matrix, Matrix]:
        judged = self._learner.compute_rewards_and_advantages(problems, answers)
        return judged.rewards, judged.advantages

    def _merged(
        self,
        lots: Sequence[tuple[RolloutBatchPart, list[int], list[int]]],
        missing: int,
        no_signal: float,
    ) -> RolloutBatch:
        taken, unused = _Groups(), _Groups()
        for lot, some, empty in lots:
            taken.add(*lot.take(some))
            fill, missing = empty[:missing], max(0, missing - len(empty))
            taken.add(*lot.take(fill))
            unused.add(*lot.take(empty[len(fill) :]))
        judged = self._judged(taken.problems, taken.answers)
        return RolloutBatch(
            taken.problems,
            taken.answers,
            *judged,
            unused=(unused.problems, unused.answers),
            no_signal=no_signal,
        )


class _Groups:
    """Problems and their answers from several lots, numbered anew."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.answers: list[Rollout] = []

    def add(self, problems: Sequence[Problem], groups: Sequence[Sequence[Rollout]]) -> None:
        for problem, group in zip(problems, groups, strict=True):
            number = len(self.problems)
            self.problems.append(problem)
            self.answers += [replace(a, response=replace(a.response, prompt=number)) for a in group]
