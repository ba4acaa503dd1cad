"""Where batches come from: a source gives one for each step.

`OnPolicySource` draws responses with the current weights. **A batch is the first N groups with
signal, in the order of the data**, on any number of engines. Engines run ahead in that order, by as
many groups as the share of groups with signal asks for, so that replacements do not wait for the
slowest response of a first draw. `OfflineSource` gives responses that were drawn before, and
`weighted.WeightedSource` some of them that have weights.

A source's state is saved with each checkpoint: a run that goes on gets the same batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from megaprune.algorithms.algorithm import Algorithm
from megaprune.config.run import Config
from megaprune.data import Problem
from megaprune.data.order import ProblemOrder, make_order, take_problems
from megaprune.errors import InputError
from megaprune.generation.generator import SamplingOptions
from megaprune.generation.worker import Rollout, RolloutRequest, RolloutWorker
from megaprune.grading import Verdict
from megaprune.trainer.batch import References, RolloutBatch, RolloutGroup, Scorer, make_batch
from megaprune.trainer.metrics import Clock
from megaprune.trainer.offline import read_references, read_rollouts
from megaprune.trainer.weighted import make_weighted_source


class Source(Protocol):
    """Gives a batch for each step. Methods are collective; all ranks get the same."""

    def next(self, step: int) -> RolloutBatch:
        """The batch of a step, where `step` steps were done before."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on behind the last batch."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind the batch at which the state was saved."""
        ...


def make_source(
    config: Config,
    problems: Sequence[Problem],
    worker: RolloutWorker | None,
    algorithm: Algorithm,
    clock: Clock,
    on_graded: Callable[[Sequence[Rollout]], None],
) -> Source:
    """The source that a run's configuration asks for.

    Args:
        config: of the run: `data.order`, `data.rollouts` for rollouts that are there,
            `data.weights` for what they weigh, and `data.references`.
        problems: to train on.
        worker: None if there are rollouts.
        algorithm, clock, on_graded: see the sources.

    Raises:
        InputError: the order or the rollouts cannot be used.
    """
    data = config.data
    if data.weights is not None:
        return make_weighted_source(config, problems, algorithm)
    references = None
    if data.references:
        references = read_references(Path(data.references), problems, algorithm.length)
    if data.rollouts is None:
        assert worker is not None, "a run without rollouts has an engine that draws them"
        order = make_order(data.order, len(problems), config.seed)
        return OnPolicySource(
            config, problems, order, worker, algorithm, clock, on_graded, references
        )
    problems, rollouts = read_rollouts(Path(data.rollouts), problems, config.rollout.n)
    order = make_order(data.order, len(problems), config.seed)
    return OfflineSource(config, problems, order, rollouts, algorithm, references)


class OnPolicySource:
    """Draws responses with the weights that the engines have. Collective.

    Args:
        config: of the run.
        problems: to train on.
        order: in which they are drawn.
        worker: with this rank's engine.
        algorithm: its rewards and its filter decide which groups count.
        clock: is told the phases.
        on_graded: is shown the rollouts of each draw.
        references: see `Scorer`.
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
        references: References | None = None,
    ):
        self._config, self._problems, self._order = config, problems, order
        self._worker, self._algorithm, self._clock = worker, algorithm, clock
        self._scorer = Scorer(algorithm, config.rollout.max_response_length, references)
        self._on_graded = on_graded
        self._waiting: list[int] = []
        """Problems that were taken from the order, and whose turn it still is."""
        self._carried: list[RolloutGroup] = []
        """Groups that the last step drew and did not need, if they are carried over."""
        self._signal_share = 1.0
        """Of the groups of the last step."""

    def next(self, step: int) -> RolloutBatch:
        """The first `train_batch_size` groups with signal, in the order of the data.

        Groups without signal are passed over (dynamic sampling, DAPO 2503.14476). At most
        `filter.max_resample_rounds` more batches of problems are drawn for that; what is then
        missing is made up by groups without signal, from the first on.
        """
        wanted = self._config.data.train_batch_size
        most = wanted * (1 + self._algorithm.max_resample_rounds)
        resamples = most > wanted
        groups, self._carried = self._scorer.score_anew(self._carried), []
        drawn = 0
        while True:
            counted = sum(group.kept for group in groups) if resamples else len(groups)
            ahead = min(math.ceil((wanted - counted) / self._signal_share), most - drawn)
            if ahead <= 0:
                break
            groups = groups + self._draw(self._take(ahead), step, drawn)
            drawn += ahead
        batch = (
            choose(self._algorithm, groups, wanted)
            if resamples
            else make_batch(self._algorithm, groups)
        )
        if resamples:
            share = sum(group.kept for group in groups) / len(groups)
            self._signal_share = max(share, wanted / most)
            self._give_back(batch.surplus)
        self._order.observe([group.result() for group in batch.drawn])
        self._scorer.observe(batch)
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The order's state, problems whose turn it is, groups that are carried over, and what
        rewards remember."""
        return {
            "order": self._order.state_dict(),
            **self._scorer.state_dict(),
            "waiting": list(self._waiting),
            "signal_share": self._signal_share,
            "carried": [_pack(group) for group in self._carried],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind the batch at which the state was saved."""
        self._order.load_state_dict(state["order"])
        self._waiting = [int(place) for place in state["waiting"]]
        self._signal_share = float(state["signal_share"])
        self._scorer.load_state_dict(state)
        self._carried = [
            self._scored(int(packed["place"]), _unpack(packed)) for packed in state["carried"]
        ]

    def _take(self, count: int) -> list[int]:
        """The next problems; those that were given back come first."""
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        left = count - len(taken)
        return taken + take_problems(self._order, left, len(self._problems))

    def _draw(self, places: Sequence[int], step: int, drawn: int) -> list[RolloutGroup]:
        """The groups of some problems, in their order.

        Args:
            places: numbers of the problems.
            step: steps done before, which is the version of the policy.
            drawn: groups that this step has drawn before.
        """
        config, rollout, worker = self._config, self._config.rollout, self._worker
        # By its place in the draw, too: where two epochs meet, a problem may come twice.
        problems = [self._problems[place] for place in places]
        requests = [
            RolloutRequest(problem, f"{drawn + i}/{problem.name}")
            for i, problem in enumerate(problems)
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

    def _scored(self, place: int, rollouts: Sequence[Rollout]) -> RolloutGroup:
        return self._scorer.score(place, self._problems[place], rollouts)

    def _give_back(self, surplus: Sequence[RolloutGroup]) -> None:
        """Groups that were not needed come first in the next step: as they are, or drawn anew."""
        if self._config.rollout.carry_over:
            self._carried = list(surplus)
        else:
            self._waiting = [group.place for group in surplus] + self._waiting


class OfflineSource:
    """Gives rollouts that were drawn before, the same ones whenever their problem comes.

    Args:
        config: of the run.
        problems: to train on, each of which has rollouts.
        order: in which problems come.
        rollouts: K of each problem, by its name (see `trainer.offline`).
        algorithm: its rewards and its filter decide which groups count.
        references: see `Scorer`.

    Raises:
        InputError: no group has a signal.
    """

    def __init__(
        self,
        config: Config,
        problems: Sequence[Problem],
        order: ProblemOrder,
        rollouts: Mapping[str, Sequence[Rollout]],
        algorithm: Algorithm,
        references: References | None = None,
    ):
        self._wanted, self._order, self._algorithm = config.data.train_batch_size, order, algorithm
        self._scorer = Scorer(algorithm, config.rollout.max_response_length, references)
        self._groups = [
            self._scorer.score(place, problem, rollouts[problem.name])
            for place, problem in enumerate(problems)
        ]
        if not any(group.kept for group in self._groups):
            raise InputError(
                f"data.rollouts={config.data.rollouts}: nothing can be learned from any of its "
                f"{len(self._groups)} groups; choose another algorithm.filter or algorithm.reward"
            )

    def next(self, step: int) -> RolloutBatch:
        """The next `train_batch_size` groups that are learned from, in the order of the data."""
        groups: list[RolloutGroup] = []
        filtered: list[RolloutGroup] = []
        while len(groups) < self._wanted:
            place = take_problems(self._order, 1, len(self._groups))[0]
            group = self._scorer.score_anew([self._groups[place]])[0]
            (groups if group.kept else filtered).append(group)
        batch = make_batch(self._algorithm, groups, filtered)
        self._order.observe([group.result() for group in batch.drawn])
        self._scorer.observe(batch)
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The order's state, and what rewards remember."""
        return {"order": self._order.state_dict(), **self._scorer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind the batch at which the state was saved."""
        self._order.load_state_dict(state["order"])
        self._scorer.load_state_dict(state)


def choose(algorithm: Algorithm, groups: Sequence[RolloutGroup], wanted: int) -> RolloutBatch:
    """The batch among groups in the order of the data: the first `wanted` that are kept.

    Where there are fewer, groups that are not kept fill it up, from the first on.
    """
    kept = [i for i, group in enumerate(groups) if group.kept][:wanted]
    end = kept[-1] + 1 if len(kept) == wanted else len(groups)
    others = [i for i in range(end) if not groups[i].kept]
    fill = wanted - len(kept)
    chosen = [groups[i] for i in sorted([*kept, *others[:fill]])]
    return make_batch(algorithm, chosen, [groups[i] for i in others[fill:]], groups[end:])


def _pack(group: RolloutGroup) -> dict[str, Any]:
    """A group as plain lists, texts and numbers: a checkpoint holds no other objects."""
    rollouts = [
        {
            **vars(rollout),
            "tokens": rollout.tokens.tolist(),
            "log_probs": rollout.log_probs.tolist(),
            "verdict": asdict(rollout.verdict),
        }
        for rollout in group.rollouts
    ]
    return {"place": group.place, "rollouts": rollouts}


def _unpack(packed: Mapping[str, Any]) -> list[Rollout]:
    return [
        Rollout(
            **{
                **fields,
                "tokens": np.array(fields["tokens"], np.int64),
                "log_probs": np.array(fields["log_probs"], np.float32),
                "verdict": Verdict(**fields["verdict"]),
            }
        )
        for fields in packed["rollouts"]
    ]
