"""An algorithm: rewards, an advantage, a filter and a loss, chosen and checked as a whole."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megaprune import schema
from megaprune.algorithms import registry
from megaprune.algorithms.advantages import Advantage, GroupStd
from megaprune.algorithms.calls import (
    call,
    checked_array,
    of_group_words,
    plain_memory,
    wrong_output,
)
from megaprune.algorithms.component_fields import FieldDescription
from megaprune.algorithms.filters import Filter, KeepAll
from megaprune.algorithms.losses import GrpoLoss, Loss
from megaprune.algorithms.presets import DEFAULT, PRESETS
from megaprune.algorithms.records import Group, LossBatch, LossOutput, Matrix, Vector
from megaprune.algorithms.rewards import Reward, Truncate
from megaprune.algorithms.rewards.history import Memory, Remembers
from megaprune.algorithms.specs import Spec, merge_specs, whole_spec
from megaprune.errors import InputError

if TYPE_CHECKING:
    import torch

LOG_PROBS = frozenset({"old", "reference", "rollout"})
"""What a loss may need beside the policy's own log-probs."""


LENGTHS = ("response", "thought")
"""What the length of a response may be."""


@dataclass(frozen=True)
class WeightedReward:
    """One of the rewards that are added up."""

    reward: Reward
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class GroupScore:
    """What the responses of one group are worth.

    Args:
        rewards: [K], the weighted sum.
        parts: [K] each, every reward by itself and without its weight, by label.
        kept: [K] bool, the responses that are learned from.
    """

    rewards: Vector
    parts: Mapping[str, Vector]
    kept: NDArray[np.bool_]


@dataclass(frozen=True)
class Algorithm:
    """What is learned from graded responses.

    Args:
        rewards: what a response is worth: the sum of these.
        advantage: how much better that is than what others are worth.
        filter: which responses are learned from.
        loss: what is minimised.
        num_minibatches: optimizer steps on the responses of a step, each on a part of them.
        length: what rewards and filters measure: the whole response, or its thought.

    Raises:
        InputError: a part cannot be what it is to be; begins with the field's dotted name.
    """

    rewards: tuple[WeightedReward, ...] = (WeightedReward(Truncate()),)
    advantage: Advantage = field(default_factory=GroupStd)
    filter: Filter = field(default_factory=KeepAll)
    loss: Loss = field(default_factory=GrpoLoss)
    num_minibatches: int = 1
    length: Literal["response", "thought"] = "response"

    def __post_init__(self) -> None:
        if self.length not in LENGTHS:
            raise InputError(
                f"algorithm.length={self.length!r}; expected one of {', '.join(LENGTHS)}"
            )
        number = self.num_minibatches
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise InputError(
                f"algorithm.num_minibatches={number}; expected a whole number, 1 or more"
            )
        if not self.rewards:
            raise InputError("algorithm.rewards=[]; expected one reward or more")
        for where, kind, component in self._components():
            name = registry.class_label(type(component))
            try:
                registry.check_component(kind, type(component), name)
            except InputError as error:
                raise InputError(f"{where}: {error}") from error
        for where, entry in zip(_reward_fields(len(self.rewards)), self.rewards, strict=True):
            if not math.isfinite(entry.weight):
                raise InputError(f"{where}.weight={entry.weight}; expected a finite number")
        self._check_loss()
        if self.kl_in_reward and "parts" in getattr(self.advantage, "arguments", ()):
            name = registry.name_of("advantage", self.advantage)
            raise InputError(
                f"algorithm.loss.kl_in=reward with algorithm.advantage.name={name}, which takes "
                f"each reward by itself; expected kl_in=loss, or another advantage"
            )

    def _check_loss(self) -> None:
        if unknown := self._loss_needs() - LOG_PROBS:
            raise InputError(
                f"algorithm.loss: its `needs` has {', '.join(sorted(unknown))}; expected some of "
                f"{', '.join(sorted(LOG_PROBS))}"
            )
        if not isinstance(self.unit, int) or self.unit < 1:
            raise InputError(
                f"algorithm.loss: its `unit` is {self.unit!r}; expected a whole number, 1 or more"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel between processes as a spec: classes of the user's own are loaded in each."""
        return type(self).from_spec, (self.to_spec(),)

    @classmethod
    def from_spec(cls, spec: Spec) -> Algorithm:
        """The algorithm of a spec: the name of a preset, or what `specs` describes.

        Raises:
            InputError: it cannot be; begins with the dotted name of the field.
        """
        whole = whole_spec(spec)
        entries = []
        for where, entry in zip(
            _reward_fields(len(whole["rewards"])), whole["rewards"], strict=True
        ):
            fields = dict(entry)
            weight = fields.pop("weight", 1.0)
            if isinstance(weight, bool) or not isinstance(weight, (int, float)):
                raise InputError(f"{where}.weight={weight!r}; expected a number")
            entries.append(WeightedReward(registry.build("reward", fields, where), float(weight)))
        parts = {
            kind: registry.build(kind, whole[kind], f"algorithm.{kind}")
            for kind in ("advantage", "filter", "loss")
        }
        single = {name: whole[name] for name in ("num_minibatches", "length")}
        return cls(tuple(entries), **parts, **single)

    @staticmethod
    def merge_specs(base: Spec, change: Spec) -> dict[str, Any]:
        """A whole spec with some of it changed, as `specs.merge_specs` does."""
        return merge_specs(base, change)

    @staticmethod
    def describe_fields() -> Iterator[FieldDescription]:
        """All fields of algorithms, and of every component that comes with megaprune."""
        return describe_fields()

    def to_spec(self) -> dict[str, Any]:
        """A plain dictionary that `from_spec` makes this algorithm of; all fields are said."""
        rewards = []
        for entry in self.rewards:
            spec = registry.to_spec("reward", entry.reward)
            rewards.append(spec | ({} if entry.weight == 1.0 else {"weight": entry.weight}))
        return {
            "rewards": rewards,
            "advantage": registry.to_spec("advantage", self.advantage),
            "filter": registry.to_spec("filter", self.filter),
            "loss": registry.to_spec("loss", self.loss),
            "num_minibatches": self.num_minibatches,
            "length": self.length,
        }

    @property
    def needs(self) -> frozenset[str]:
        """Log-probs that the loss cannot do without: some of old, reference, rollout.

        Where a step has a single update the old log-probs are the policy's own.
        """
        needs = self._loss_needs()
        single = self.num_minibatches == 1 and not self.kl_in_reward
        return needs - {"old"} if single else needs

    @property
    def kl_in_reward(self) -> bool:
        """Whether rewards lose what `reward_penalty` says of each response."""
        return bool(getattr(self.loss, "kl_in_reward", False))

    def reward_penalty(self, old: torch.Tensor, reference: torch.Tensor) -> float:
        """What a response's reward loses; see the loss's method of that name."""
        loss: Any = self.loss
        return float(loss.reward_penalty(old, reference))

    @property
    def needs_all(self) -> bool:
        """Whether samples with advantage 0 count in the loss."""
        return bool(getattr(self.loss, "needs_all", True))

    @property
    def unit(self) -> int:
        """How many responses of a group the loss takes together, in one micro-batch: 2 of pairs."""
        unit: int = getattr(self.loss, "unit", 1)
        return unit

    @property
    def by_advantage(self) -> bool:
        """Whether what is learned comes from advantages.

        Metrics of a loss are then over samples whose advantage is not 0, also where a term without
        an advantage (a KL divergence, an entropy) has the others computed too.
        """
        return bool(getattr(self.loss, "by_advantage", not self.needs_all))

    @property
    def needs_reference(self) -> str:
        """The label of a reward that compares with responses of the reference model; empty if none
        does."""
        needing = (
            label
            for label, entry in zip(self.labels, self.rewards, strict=True)
            if getattr(entry.reward, "needs_reference", False)
        )
        return next(needing, "")

    @property
    def max_resample_rounds(self) -> int:
        """How many times a batch's problems may be drawn again to replace groups."""
        return int(getattr(self.filter, "max_resample_rounds", 0))

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each reward, all different, by which it is logged."""
        labels: list[str] = []
        for entry in self.rewards:
            label = registry.class_label(type(entry.reward))
            same = sum(other.partition("#")[0] == label for other in labels)
            labels.append(f"{label}#{same + 1}" if same else label)
        return tuple(labels)

    @property
    def weights(self) -> Mapping[str, float]:
        """The weight of each reward, by label."""
        weights = (entry.weight for entry in self.rewards)
        return dict(zip(self.labels, weights, strict=True))

    def start_memory(self) -> dict[str, Memory]:
        """What rewards remember before the first step, by label; empty if none remembers."""
        return {
            label: call("reward", reward, "", method="start")
            for label, reward in self._remembering()
        }

    def observe(self, memory: Mapping[str, Memory], groups: Sequence[Group]) -> dict[str, Memory]:
        """What rewards remember after a step that drew these groups, by label.

        Raises:
            InputError: a class of the user's own fails, or gives back what JSON cannot hold.
        """
        return {
            label: plain_memory(
                reward, call("reward", reward, "", memory[label], groups, method="observe")
            )
            for label, reward in self._remembering()
        }

    def score(self, group: Group, memory: Mapping[str, Memory] | None = None) -> GroupScore:
        """Reward a group's responses, and say which of them are learned from.

        Args:
            group: the graded responses.
            memory: what rewards remember of earlier steps, by label; None for nothing.

        Raises:
            InputError: a class of the user's own fails, or gives back what it must not.
        """
        parts: dict[str, Vector] = {}
        total: Vector | None = None
        for label, entry in zip(self.labels, self.rewards, strict=True):
            given = replace(group, memory=memory[label]) if memory and label in memory else group
            parts[label] = reward = self._reward(entry.reward, given)
            weighted = entry.weight * reward
            total = weighted if total is None else total + weighted
        assert total is not None
        kept = call("filter", self.filter, of_group_words(group), group, total)
        kept = checked_array("filter", self.filter, kept, total.shape, of_group_words(group), bool)
        return GroupScore(total, parts, kept)

    def advantages(
        self,
        rewards: Matrix,
        kept: NDArray[np.bool_],
        parts: NDArray[np.float64] | None = None,
        length: Matrix | None = None,
    ) -> Matrix:
        """Advantages of a batch's responses: 0 where one is not learned from.

        Args:
            rewards: [G, K].
            kept: [G, K].
            parts: [R, G, K], each of R rewards by itself; None where the advantage needs none.
            length: [G, K] tokens of the whole responses; likewise.

        Raises:
            InputError: a class of the user's own fails, or gives back what it must not.
        """
        given = {"rewards": rewards, "parts": parts, "length": length}
        counts = set(kept.sum(axis=1).tolist())
        if getattr(self.filter, "baseline_of_kept", False) and counts != {kept.shape[1]}:
            if len(counts) != 1:
                name = registry.name_of("filter", self.filter)
                raise InputError(
                    f"filter {name} keeps {', '.join(map(str, sorted(counts)))} responses of "
                    f"groups; expected the same number of each"
                )
            shape = (len(kept), counts.pop())
            given = {n: v if v is None else only_kept(v, kept, shape) for n, v in given.items()}
            compact = self._advantages(given)
            result = np.zeros(rewards.shape)
            result[kept] = compact.ravel()
            return result
        advantages = self._advantages(given)
        return advantages if kept.all() else np.where(kept, advantages, 0.0)

    def advantages_of(self, scores: Sequence[GroupScore], lengths: Sequence[ArrayLike]) -> Matrix:
        """Advantages [G, K] of a batch of scored groups; `lengths` are the tokens [K] of each.

        Raises:
            InputError: as `advantages`.
        """
        return self.advantages(
            np.stack([score.rewards for score in scores]),
            np.stack([score.kept for score in scores]),
            np.stack([[score.parts[label] for score in scores] for label in self.labels]),
            np.array(lengths, np.float64),
        )

    def _advantages(self, given: Mapping[str, Any]) -> Matrix:
        given = {**given, "weights": np.array([entry.weight for entry in self.rewards])}
        kind = type(self.advantage)
        name = registry.class_label(kind)
        arguments = [given[a] for a in registry.arguments_of("advantage", kind, name)]
        advantages = call("advantage", self.advantage, "", *arguments)
        shape = given["rewards"].shape
        return checked_array("advantage", self.advantage, advantages, shape, "", float)

    def compute_loss(self, batch: LossBatch) -> LossOutput:
        """A micro-batch's share of the loss, and its metrics.

        Raises:
            InputError: a class of the user's own fails, or gives back what it must not.
        """
        output = call("loss", self.loss, "", batch)
        if wrong := wrong_output(output, batch):
            name = registry.name_of("loss", self.loss)
            raise InputError(f"loss {name} returned {wrong}")
        assert isinstance(output, LossOutput)
        return output

    def _reward(self, reward: Reward, group: Group) -> Vector:
        of_group = of_group_words(group)
        found = call("reward", reward, of_group, group)
        shape = np.shape(group.correct)
        return checked_array("reward", reward, found, shape, of_group, float)

    def _remembering(self) -> Iterator[tuple[str, Any]]:
        for label, entry in zip(self.labels, self.rewards, strict=True):
            if isinstance(entry.reward, Remembers):
                yield label, entry.reward

    def _loss_needs(self) -> frozenset[str]:
        # A loss that does not say may compare with the old policy.
        return frozenset(getattr(self.loss, "needs", {"old"}))

    def _components(self) -> Iterator[tuple[str, str, Any]]:
        for where, entry in zip(_reward_fields(len(self.rewards)), self.rewards, strict=True):
            yield where, "reward", entry.reward
        yield "algorithm.advantage", "advantage", self.advantage
        yield "algorithm.filter", "filter", self.filter
        yield "algorithm.loss", "loss", self.loss


def describe_fields() -> Iterator[FieldDescription]:
    """All fields of algorithms, and of every component that comes with megaprune."""
    doc = "; ".join(f"{name}: {preset.doc}" for name, preset in PRESETS.items())
    yield FieldDescription("algorithm", "a preset", DEFAULT, doc, "")
    yield FieldDescription(
        "algorithm.rewards",
        "a list",
        None,
        "several rewards, which are added up: [{name: truncate}, {name: my.py:Brevity, weight: "
        "0.2}]; algorithm.reward is a list of one",
        "",
    )
    yield FieldDescription("algorithm.reward.weight", "a number", 1.0, "of the reward", "")
    yield FieldDescription(
        "algorithm.num_minibatches",
        "a whole number",
        1,
        "optimizer steps on the responses of a step, each on a part of them",
        "1 or more",
    )
    yield FieldDescription(
        "algorithm.length",
        f"one of {', '.join(LENGTHS)}",
        "response",
        "what rewards and filters measure in tokens: the whole response, or its thought up to the "
        "mark that closes it (all of the response if nothing does; see grading.thought)",
        "",
    )
    yield from registry.describe_components()


def reward_metrics(algorithm: Algorithm, scores: Sequence[GroupScore]) -> dict[str, float]:
    """The mean of each reward by itself, `reward/LABEL`, and times its weight, `/weighted`."""
    metrics: dict[str, float] = {}
    for label, weight in algorithm.weights.items():
        mean = float(np.mean([score.parts[label] for score in scores]))
        metrics[schema.REWARD_PART.replace("<name>", label)] = mean
        metrics[schema.REWARD_PART_WEIGHTED.replace("<name>", label)] = weight * mean
    return metrics


def _reward_fields(count: int) -> list[str]:
    """Dotted names of the entries of `algorithm.rewards`; a single one has a name of its own."""
    if count == 1:
        return ["algorithm.reward"]
    return [f"algorithm.rewards[{number}]" for number in range(count)]


def only_kept(
    values: NDArray[np.float64], kept: NDArray[np.bool_], shape: tuple[int, int]
) -> NDArray[np.float64]:
    """[..., G, K] -> [..., G, k]: what is kept, as many of each group."""
    return values[..., kept].reshape(*values.shape[:-2], *shape)
