"""What a step learns from: a source gives one batch a step.

`OnPolicySource` draws responses with the current weights. **A batch is the first N groups with
signal, in the order of the data**, whatever the number of engines: engines run ahead in that order,
by as many groups as the share of groups with signal asks for, so that replacements do not wait for
the slowest response of a first draw. `OfflineSource` takes responses that were drawn before.

Both keep a state that is saved with each checkpoint: a run that goes on gets the same batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from megaprune.algorithms import Algorithm, Group
from megaprune.config.run import Config
from megaprune.data import Problem
from megaprune.data.order import GroupResult, ProblemOrder
from megaprune.distributed.timing import Clock
from megaprune.generation.generator import SamplingOptions
from megaprune.generation.worker import Rollout, RolloutRequest, RolloutWorker

Matrix = NDArray[np.float64]
"""[groups, responses]."""


@dataclass(frozen=True, eq=False)
class ScoredGroup:
    """A problem, its K responses, and what they are worth.

    Args:
        place: number of the problem in the data.
        problem: the problem.
        rollouts: K graded responses, by number.
        rewards: [K], the weighted sum of all rewards.
        parts: each reward by itself, [K], before its weight.
        learned: [K] bool, the responses that the filter keeps.
    """

    place: int
    problem: Problem
    rollouts: Sequence[Rollout]
    rewards: NDArray[np.float64]
    parts: Mapping[str, NDArray[np.float64]]
    learned: NDArray[np.bool_]

    @property
    def kept(self) -> bool:
        """Whether anything is learned from this group."""
        return bool(self.learned.any())

    def result(self) -> GroupResult:
        """How the group went, for the order of problems."""
        return GroupResult(
            self.place,
            float(np.mean([rollout.verdict.match for rollout in self.rollouts])),
            float(self.rewards.mean()),
            float(np.mean([rollout.length for rollout in self.rollouts])),
        )


@dataclass(frozen=True, eq=False)
class RolloutBatch:
    """The groups that a step learns from, and those that it passes over.

    Args:
        groups: G groups, in the order of the data.
        advantages: [G, K].
        filtered: groups without signal that others took the place of.
        surplus: groups that were drawn beyond the last one that was needed.
    """

    groups: Sequence[ScoredGroup]
    advantages: Matrix
    filtered: Sequence[ScoredGroup] = ()
    surplus: Sequence[ScoredGroup] = ()

    @property
    def drawn(self) -> list[ScoredGroup]:
        """All groups that count: those learned from, and those passed over for lack of signal."""
        return [*self.groups, *self.filtered]

    @property
    def rewards(self) -> Matrix:
        """Rewards of the groups that are learned from, [G, K]."""
        return np.stack([group.rewards for group in self.groups])

    @property
    def tokens(self) -> int:
        """Tokens of all responses that were drawn for this step."""
        return sum(r.length for g in (*self.drawn, *self.surplus) for r in g.rollouts)

    def samples(self) -> Iterator[tuple[Problem, Rollout, float, bool]]:
        """Each response of `groups`: its problem, itself, its advantage, whether it is learned."""
        for group, advantages in zip(self.groups, self.advantages, strict=True):
            for rollout, advantage, learned in zip(
                group.rollouts, advantages, group.learned, strict=True
            ):
                yield group.problem, rollout, float(advantage), bool(learned)


class Source(Protocol):
    """Gives a batch for each step. Methods are collective; all ranks get the same."""

    def next(self, step: int) -> RolloutBatch:
        """The batch of a step, which is the number of steps done before."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on behind the last batch."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind the batch at which the state was saved."""
        ...


class OnPolicySource:
    """Draws responses with the weights that the engines have. Collective.

    Args:
        config: of the run.
        problems: to train on.
        order: in which they are drawn.
        worker: with this rank's engine.
        algorithm: its rewards and its filter decide which groups count.
        clock: is told the phases.
        on_graded: is shown the responses of each draw.
    """

    def __init__(
        self,
        config: Config,
        problems: Sequence[Problem],
        order: ProblemOrder,
        worker: RolloutWorker,
        algorithm: Algorithm,
        clock: Clock,
        on_graded: Callable[[Sequence[Rollout]], None],
    ):
        self._config, self._problems, self._order = config, problems, order
        self._worker, self._algorithm, self._clock = worker, algorithm, clock
        self._on_graded = on_graded
        self._waiting: list[int] = []
        """Problems that were taken from the order and are not used yet."""
        self._carried: list[ScoredGroup] = []
        """Groups that the last step drew and did not need, if they are carried over."""
        self._signal_share = 1.0

    def next(self, step: int) -> RolloutBatch:
        """The first `train_batch_size` groups with signal, in the order of the data.

        Groups without signal are passed over (dynamic sampling, DAPO 2503.14476), up to
        `filter.max_resample_rounds` times the batch; what is then missing is made up by some of
        them, from the first on.
        """
        wanted = self._config.data.train_batch_size
        most = wanted * (1 + self._algorithm.filter.max_resample_rounds)
        drawn, self._carried = self._carried, []
        count = 0
        while True:
            missing = wanted - sum(group.kept for group in drawn)
            ahead = min(math.ceil(missing / self._signal_share), most - count)
            if missing <= 0 or ahead <= 0:
                break
            drawn += self._draw(self._take(ahead), step, count)
            count += ahead
        batch = self._chosen(drawn, wanted)
        self._give_back(batch.surplus)
        share = sum(group.kept for group in drawn) / len(drawn)
        self._signal_share = max(share, wanted / most)
        self._order.observe([group.result() for group in batch.drawn])
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The order's state, problems that wait, and groups that are carried over."""
        return {
            "order": self._order.state_dict(),
            "waiting": list(self._waiting),
            "signal_share": self._signal_share,
            "carried": [_packed(group) for group in self._carried],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind the batch at which the state was saved."""
        self._order.load_state_dict(state["order"])
        self._waiting = [int(place) for place in state["waiting"]]
        self._signal_share = float(state["signal_share"])
        self._carried = [
            self._scored(int(group["place"]), _unpacked(group)) for group in state["carried"]
        ]

    def _take(self, count: int) -> list[int]:
        """The next problems: those that were given back come first."""
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken + self._order.take(count - len(taken))

    def _draw(self, places: Sequence[int], step: int, drawn: int) -> list[ScoredGroup]:
        """Groups of some problems, in their order.

        Args:
            places: numbers of the problems.
            step: steps done before: the policy's version.
            drawn: groups that were drawn before in this step.
        """
        config, rollout, worker = self._config, self._config.rollout, self._worker
        # By its place in the draw, too: where two epochs meet, a problem may come twice.
        requests = [
            RolloutRequest(self._problems[place], f"{drawn + i}/{self._problems[place].name}")
            for i, place in enumerate(places)
        ]
        # Another seed for each step: a problem that comes again gets other responses.
        seed = config.seed * 1_000_003 + step + 1
        sampling = SamplingOptions(
            rollout.n, rollout.max_response_length, rollout.temperature, seed=seed
        )
        with self._clock("generate"):
            share = worker.generator.share(len(requests))
            worker.generate({i: requests[i] for i in share}, sampling, policy_version=step)
        with self._clock("grade"):
            rollouts = worker.gather()
            self._on_graded(rollouts)
            return [
                self._scored(place, rollouts[i * rollout.n : (i + 1) * rollout.n])
                for i, place in enumerate(places)
            ]

    def _scored(self, place: int, rollouts: Sequence[Rollout]) -> ScoredGroup:
        problem, limit = self._problems[place], self._config.rollout.max_response_length
        return score(self._algorithm, place, problem, rollouts, limit)

    def _chosen(self, drawn: Sequence[ScoredGroup], wanted: int) -> RolloutBatch:
        """The batch among groups in their order: the first `wanted` that are kept."""
        kept = [i for i, group in enumerate(drawn) if group.kept][:wanted]
        end = kept[-1] + 1 if len(kept) == wanted else len(drawn)
        empty = [i for i in range(end) if not drawn[i].kept]
        fill = wanted - len(kept)
        chosen = sorted([*kept, *empty[:fill]])
        groups = [drawn[i] for i in chosen]
        advantages = self._algorithm.advantage(np.stack([group.rewards for group in groups]))
        filtered = [drawn[i] for i in empty[fill:]]
        return RolloutBatch(groups, advantages, filtered, drawn[end:])

    def _give_back(self, surplus: Sequence[ScoredGroup]) -> None:
        """Groups that were not needed come first in the next step: as they are, or drawn anew."""
        if self._config.rollout.carry_over:
            self._carried = list(surplus)
        else:
            self._waiting = [group.place for group in surplus] + self._waiting


class OfflineSource:
    """Gives responses that were drawn before, the same ones whenever their problem comes.

    Args:
        config: of the run.
        problems: to train on; those without stored responses are left out.
        order: in which problems come, numbered as in `problems_with_rollouts`.
        rollouts: responses by the name of their problem (see `trainer.offline`).
        algorithm: its rewards and filter.
    """

    def __init__(
        self,
        config: Config,
        problems: Sequence[Problem],
        order: ProblemOrder,
        rollouts: Mapping[str, Sequence[Rollout]],
        algorithm: Algorithm,
    ):
        self._config, self._order, self._algorithm = config, order, algorithm
        limit = config.rollout.max_response_length
        self._groups = [
            score(algorithm, place, problem, rollouts[problem.name], limit)
            for place, problem in enumerate(problems)
        ]

    def next(self, step: int) -> RolloutBatch:
        """The next `train_batch_size` groups with signal, one pass over the data at most."""
        wanted = self._config.data.train_batch_size
        groups: list[ScoredGroup] = []
        filtered: list[ScoredGroup] = []
        while len(groups) < wanted and len(groups) + len(filtered) < len(self._groups) + wanted:
            group = self._groups[self._order.take(1)[0]]
            (groups if group.kept else filtered).append(group)
        groups += filtered[: wanted - len(groups)]
        self._order.observe([group.result() for group in (*groups, *filtered)])
        advantages = self._algorithm.advantage(np.stack([group.rewards for group in groups]))
        return RolloutBatch(groups, advantages, filtered)

    def state_dict(self) -> dict[str, Any]:
        """The order's state."""
        return {"order": self._order.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind the batch at which the state was saved."""
        self._order.load_state_dict(state["order"])


def score(
    algorithm: Algorithm, place: int, problem: Problem, rollouts: Sequence[Rollout], limit: int
) -> ScoredGroup:
    """What the responses to a problem are worth.

    Args:
        algorithm: with its rewards and filter.
        place: number of the problem.
        problem: the problem.
        rollouts: its graded responses.
        limit: tokens that a response may have.
    """
    group = Group(
        correct=np.array([rollout.verdict.match for rollout in rollouts]),
        length=np.array([rollout.length for rollout in rollouts]),
        finished=np.array([rollout.finished for rollout in rollouts]),
        limit=limit,
        text=tuple(rollout.text for rollout in rollouts),
        extra=problem.extra,
    )
    rewards, parts = algorithm.rewards_of(group)
    return ScoredGroup(place, problem, rollouts, rewards, parts, algorithm.filter(group, rewards))
