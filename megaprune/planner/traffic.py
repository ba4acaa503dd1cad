"""What moves in a weight sync, counted from the plan that a run carries out."""

from __future__ import annotations

from dataclasses import dataclass

from megaprune.parallelism import engine_layout
from megaprune.planner.machine import ELEMENT_BYTES, GB, TRANSFER_BUFFER_BYTES, Machine
from megaprune.planner.subject import PlanConfig, Shape
from megaprune.rules import actor_layout
from megaprune.weights.copy_plan import plan


@dataclass(frozen=True)
class Traffic:
    """Of one sync.

    Args:
        received: bytes that each GPU gets from others.
        sent: bytes that each GPU gives to others.
        lower_bound: bytes that each GPU needs and does not hold.
        pairs: of GPUs between which anything travels.
        rounds: of messages, so that no GPU has more than 240 MiB under way.
        permuting: transfers of a parameter that are not plain copies of memory.
        seconds: at the bandwidth that was given.
    """

    received: list[int]
    sent: list[int]
    lower_bound: list[int]
    pairs: int
    rounds: int
    permuting: int
    seconds: float

    @property
    def mean(self) -> float:
        """Bytes that a GPU gets, on average."""
        return sum(self.received) / len(self.received)


def traffic_of(config: PlanConfig, shape: Shape, machine: Machine) -> Traffic:
    """Count a sync.

    Seconds: the most that a GPU sends or receives / bandwidth, and what each rank of an engine
    holds read and written once / memory bandwidth (local copies; all of it, at the most).

    Raises:
        InputError: the model or the ranks cannot be divided so.
    """
    size = ELEMENT_BYTES[config.dtype]
    made = plan(
        actor_layout(config, shape.model, machine.gpus),
        engine_layout(shape.model, config.rollout.tp, machine.gpus),
    )
    received, sent, bound = (
        [elements * size for elements in side]
        for side in (made.received(), made.sent(), made.lower_bound())
    )
    degree: dict[int, int] = {}
    for pair in made.traffic:
        for rank in pair:
            degree[rank] = degree.get(rank, 0) + 1
    limit = TRANSFER_BUFFER_BYTES // size // max(degree.values(), default=1)
    rounds = max((-(-elements // limit) for elements in made.traffic.values()), default=0)
    local = 2 * size * sum(p.size for p in made.target.ranks[0])
    return Traffic(
        received=received,
        sent=sent,
        lower_bound=bound,
        pairs=made.messages(),
        rounds=rounds,
        permuting=made.permuting(),
        seconds=max(*received, *sent) / (machine.bandwidth * GB)
        + local / (machine.memory_bandwidth * 1e12),
    )
