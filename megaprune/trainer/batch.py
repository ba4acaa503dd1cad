"""What a step learns from, as records: groups of graded rollouts, what they are worth, a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from megaprune.algorithms.algorithm import Algorithm, GroupScore
from megaprune.algorithms.records import Group, Matrix
from megaprune.data import Problem
from megaprune.data.order import GroupResult
from megaprune.errors import InputError
from megaprune.generation.worker import Rollout
from megaprune.grading.verdict import WITHOUT_ANSWER

References: TypeAlias = Mapping[str, Mapping[str, list[Any]]]
"""By a problem's name, of each of the reference model's responses to it: its `length` in tokens,
and in `accuracy` whether it is right."""


@dataclass(frozen=True, eq=False)
class RolloutGroup:
    """A problem, its K rollouts, and what they are worth.

    Args:
        place: number of the problem in the data.
        problem: the problem.
        rollouts: K graded responses, by number.
        score: their rewards [K], and which of them are learned from.
    """

    place: int
    problem: Problem
    rollouts: Sequence[Rollout]
    score: GroupScore

    @property
    def kept(self) -> bool:
        """Whether anything is learned from this group."""
        return bool(self.score.kept.any())

    @property
    def learned(self) -> list[int]:
        """The numbers of the rollouts that count in a batch that the group is in.

        A filter may leave some of a group out. Where a group without signal fills a batch up, all
        of its rollouts count.
        """
        return [n for n, kept in enumerate(self.score.kept) if kept or not self.kept]

    def result(self) -> GroupResult:
        """How the group went, for the order of problems."""
        return GroupResult(
            self.place,
            float(np.mean([rollout.verdict.match for rollout in self.rollouts])),
            float(self.score.rewards.mean()),
            float(np.mean([rollout.length for rollout in self.rollouts])),
        )

    def rows(self, advantages: Sequence[float] | None = None) -> Iterator[dict[str, object]]:
        """Rows of a run's tables (see `megaprune.schema`), one for each rollout.

        Args:
            advantages: [K]; None if nothing is learned from the group.
        """
        for number, rollout in enumerate(self.rollouts):
            advantage = None
            if advantages is not None and self.score.kept[number]:
                advantage = float(advantages[number])
            yield {
                **sample_row(self.problem, rollout),
                "reward": float(self.score.rewards[number]),
                "advantage": advantage,
            }


@dataclass(frozen=True, eq=False)
class RolloutBatch:
    """The groups that a step learns from, and those that it passes over.

    Args:
        groups: G groups, in the order of the data.
        advantages: [G, K].
        filtered: groups without signal that others took the place of.
        surplus: groups that were drawn beyond the last one that was needed.
    """

    groups: Sequence[RolloutGroup]
    advantages: Matrix
    filtered: Sequence[RolloutGroup] = ()
    surplus: Sequence[RolloutGroup] = ()

    @property
    def drawn(self) -> list[RolloutGroup]:
        """The groups that count: those learned from, and those passed over."""
        return [*self.groups, *self.filtered]

    @property
    def learned_rollouts(self) -> list[Rollout]:
        """The rollouts of `groups` that count, group by group."""
        return [group.rollouts[n] for group in self.groups for n in group.learned]

    @property
    def drawn_rollouts(self) -> list[Rollout]:
        """The rollouts of `drawn`, group by group."""
        return [rollout for group in self.drawn for rollout in group.rollouts]

    def tokens(self, policy_version: int) -> int:
        """Tokens of the responses that a policy drew for this batch, the surplus included."""
        groups = (*self.drawn, *self.surplus)
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        return sum(r.length for r in rollouts if r.policy_version == policy_version)

    def rows(self) -> list[dict[str, object]]:
        """Rows of the step's table: all that was drawn, what was learned from first."""
        rows: list[dict[str, object]] = []
        for group, advantages in zip(self.groups, self.advantages.tolist(), strict=True):
            rows.extend(group.rows(advantages))
        for group in (*self.filtered, *self.surplus):
            rows.extend(group.rows())
        return rows


class Scorer:
    """Rewards groups of rollouts, and keeps what rewards remember from step to step.

    Args:
        algorithm: its rewards and its filter decide.
        limit: tokens that a response may have.
        references: what problems carry as `reference`, by their names.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        limit: int,
        references: References | None = None,
    ):
        self._algorithm, self._limit, self._references = algorithm, limit, references or {}
        self._memory = algorithm.start_memory()

    def score(self, place: int, problem: Problem, rollouts: Sequence[Rollout]) -> RolloutGroup:
        """What the rollouts of the problem at a place in the data are worth."""
        group = self._group(problem, rollouts)
        return RolloutGroup(place, problem, rollouts, self._algorithm.score(group, self._memory))

    def score_anew(self, groups: Sequence[RolloutGroup]) -> list[RolloutGroup]:
        """Groups that were scored before, by what rewards remember now."""
        if not self._memory:
            return list(groups)
        return [self.score(group.place, group.problem, group.rollouts) for group in groups]

    def observe(self, batch: RolloutBatch) -> None:
        """Let rewards remember a step: all groups that count, learned from or not."""
        if self._memory:
            groups = [self._group(group.problem, group.rollouts) for group in batch.drawn]
            self._memory = self._algorithm.observe(self._memory, groups)

    def state_dict(self) -> dict[str, Any]:
        """What rewards remember."""
        return {"memory": dict(self._memory)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remember what was remembered when the state was saved."""
        # A run that was begun before rewards could remember has none that does.
        self._memory = state.get("memory", self._memory)

    def _group(self, problem: Problem, rollouts: Sequence[Rollout]) -> Group:
        carried: dict[str, Any] = {"data_source": problem.data_source, "gold": problem.gold}
        if problem.name in self._references:
            carried["reference"] = self._references[problem.name]
        if problem.budget is not None:
            carried["budget"] = problem.budget
        of_response = np.array([rollout.length for rollout in rollouts])
        measured = of_response
        if self._algorithm.length == "thought":
            measured = np.array([_thought_length(rollout, problem) for rollout in rollouts])
        return Group(
            np.array([rollout.verdict.match for rollout in rollouts]),
            measured,
            np.array([rollout.finished for rollout in rollouts]),
            self._limit,
            tuple(rollout.text for rollout in rollouts),
            carried,
            problem.name,
            np.array([rollout.verdict.why not in WITHOUT_ANSWER for rollout in rollouts]),
            response_length=of_response,
        )


def _thought_length(rollout: Rollout, problem: Problem) -> int:
    if rollout.thought_length is None:
        raise InputError(
            f"algorithm.length=thought: nobody counted the thoughts of the responses to "
            f"{problem.name}; draw them again, or take algorithm.length=response"
        )
    return rollout.thought_length


def make_batch(
    algorithm: Algorithm,
    groups: Sequence[RolloutGroup],
    filtered: Sequence[RolloutGroup] = (),
    surplus: Sequence[RolloutGroup] = (),
) -> RolloutBatch:
    """A batch of groups, with the advantages that they have among each other."""
    lengths = [[rollout.length for rollout in group.rollouts] for group in groups]
    advantages = algorithm.advantages_of([group.score for group in groups], lengths)
    return RolloutBatch(groups, advantages, filtered, surplus)


def sample_row(problem: Problem, rollout: Rollout) -> dict[str, Any]:
    """A rollout as a row of any table of responses (see `megaprune.schema`), without its reward."""
    prefix = rollout.length - len(rollout.log_probs)
    log_probs = np.concatenate([np.full(prefix, np.nan, np.float32), rollout.log_probs])
    return {
        "problem": problem.name,
        "data_source": problem.data_source,
        "prompt": problem.prompt,
        "number": rollout.number,
        "response": rollout.text,
        "gold": problem.gold,
        "length": rollout.length,
        "thought_length": rollout.thought_length,
        "finish": rollout.finish_reason,
        "match": rollout.verdict.match,
        "extracted": rollout.verdict.extracted,
        "why": rollout.verdict.why,
        "detail": rollout.verdict.detail,
        "policy_version": rollout.policy_version,
        "prompt_tokens": problem.tokens,
        "tokens": rollout.tokens.astype(np.int32),  # as the table has them, which pyarrow copies
        "log_probs": log_probs,
    }
