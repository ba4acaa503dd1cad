"""Another reward, where a group asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import Field

from megaprune.algorithms.component_fields import check_fields
from megaprune.algorithms.records import Group, Vector
from megaprune.algorithms.rewards.common import correctness, lengths
from megaprune.algorithms.rewards.history import Memory, Remembers


@dataclass(frozen=True)
class Gate:
    """Another reward for groups that are right often enough and long enough, else correctness.

    Pruning begins where it can: with a `min_pass_rate` only problems that the model can already
    solve are pruned (GRPO-lambda, 2505.18086), with a `min_mean_length` only those whose responses
    are longer than they are meant to be. Both must hold.
    """

    name: ClassVar[str] = "gate"

    of: Annotated[
        dict[str, Any], Field(description="the other reward: its name and fields, as a mapping")
    ] = field(default_factory=lambda: {"name": "group_relative"})
    min_pass_rate: Annotated[
        float, Field(ge=0, le=1, description="share of right answers from which it is given")
    ] = 0.75
    min_mean_length: Annotated[
        int, Field(ge=0, description="mean tokens of the group from which it is given")
    ] = 0

    def __post_init__(self) -> None:
        from megaprune.algorithms import registry

        check_fields(self)
        reward = registry.build("reward", self.of, "of")
        object.__setattr__(self, "_reward", reward)

    def start(self) -> Memory:
        """What the other reward remembers."""
        return self._inner.start() if isinstance(self._inner, Remembers) else {}

    def observe(self, memory: Memory, groups: Sequence[Group], /) -> Memory:
        """What the other reward remembers, of all groups."""
        return self._inner.observe(memory, groups) if isinstance(self._inner, Remembers) else memory

    def __call__(self, group: Group, /) -> Vector:
        """[K] rewards: of the other, or 0 and 1."""
        if not len(group.correct):
            return correctness(group)
        right_enough = group.correct.mean() >= self.min_pass_rate
        long_enough = lengths(group).mean() >= self.min_mean_length
        return self._inner(group) if right_enough and long_enough else correctness(group)

    @property
    def needs_reference(self) -> bool:
        """Whether the other reward compares with responses of the reference model."""
        return bool(getattr(self._inner, "needs_reference", False))

    @property
    def smooth(self) -> bool:
        """Whether right answers of different lengths are worth different amounts."""
        return bool(getattr(self._inner, "smooth", False))

    @property
    def _inner(self) -> Any:
        return self.__dict__["_reward"]
