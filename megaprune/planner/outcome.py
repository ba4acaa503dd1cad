"""A whole plan: figures, problems, what would do instead; as an object for programs too."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from megaprune.errors import InputError
from megaprune.parallelism import Parallel
from megaprune.planner.machine import ELEMENT_BYTES, GB, Machine
from megaprune.planner.memory import Engine, Gpu, engine_of, gpu_of, host_of
from megaprune.planner.nearest import Nearest, nearest_of, nearest_with_more, problems_of
from megaprune.planner.subject import PlanConfig, Shape, find_shape
from megaprune.planner.timing import Round, round_of
from megaprune.planner.traffic import Traffic, traffic_of
from megaprune.rules import parallelism_problems


@dataclass(frozen=True)
class Outcome:
    """What a run will need. Figures are None where the ranks cannot be divided so.

    Args:
        problems: that keep it from these GPUs; none if it fits.
        notes: what is possible and wastes something.
        host: bytes of the fullest host, by part.
        nearest: a division that fits, if this one does not and there is one.
    """

    config: PlanConfig
    shape: Shape
    machine: Machine
    problems: list[str]
    notes: list[str]
    gpu: Gpu | None
    engine: Engine | None
    host: dict[str, int] | None
    traffic: Traffic | None
    rounds: list[Round]
    nearest: Nearest | None

    @property
    def fits(self) -> bool:
        """Whether it can be run so."""
        return not self.problems

    @property
    def gpu_hours(self) -> float:
        """Of all rounds with their validations: GPUs x seconds / 3600."""
        return self.machine.gpus * sum(r.total_seconds for r in self.rounds) / 3600


def outcome_of(config: PlanConfig, machine: Machine) -> Outcome:
    """Plan.

    Raises:
        InputError: the model is not known.
    """
    shape = find_shape(config.model)
    problems = problems_of(config, shape, machine)
    nearest = None
    if problems:
        nearest = nearest_of(config, shape, machine) or nearest_with_more(config, shape, machine)
    figures: dict[str, Any] = dict.fromkeys(("gpu", "engine", "host", "traffic"))
    rounds: list[Round] = []
    if not list(parallelism_problems(config, shape.model, machine.gpus)):
        try:
            traffic = traffic_of(config, shape, machine)
            figures = {
                "gpu": gpu_of(config, shape, machine),
                "engine": engine_of(config, shape, machine),
                "host": host_of(config, shape, machine),
                "traffic": traffic,
            }
            rounds = [
                round_of(config, shape, machine, number, traffic.seconds)
                for number in range(len(config.rounds))
            ]
        except (InputError, ValueError) as error:
            problems.append(str(error))
    return Outcome(
        config, shape, machine, problems, notes(config, machine), **figures, rounds=rounds,
        nearest=nearest,
    )  # fmt: skip


def notes(config: PlanConfig, machine: Machine) -> list[str]:
    """What is possible and wastes something."""
    found = []
    if machine.gpus % machine.on_a_node:
        found.append(f"{machine.gpus} GPUs are not whole nodes of {machine.gpus_per_node}")
    if config.actor.tp > machine.on_a_node:
        found.append(f"actor.tp={config.actor.tp} crosses nodes, and will be slow")
    engines = machine.gpus // config.rollout.tp
    if engines and config.data.train_batch_size % engines:
        found.append(
            f"{config.data.train_batch_size} prompts over {engines} engines: some have one "
            f"more than others"
        )
    samples = config.data.train_batch_size * config.rollout.n // config.algorithm.updates
    size = config.actor.tp * config.actor.pp
    if machine.gpus % size == 0 and samples % (machine.gpus // size):
        found.append(
            f"{samples} samples of an update over {machine.gpus // size} replicas: some have more "
            f"than others"
        )
    if config.algorithm.refills:
        found.append(
            f"algorithm.refills={config.algorithm.refills}: what is drawn again takes more time "
            f"than is said here, up to {1 + config.algorithm.refills} times that to generate"
        )
    return found


def as_json(outcome: Outcome) -> dict[str, Any]:
    """All figures, in bytes and seconds, and what they were computed from."""
    config, shape, machine = outcome.config, outcome.shape, outcome.machine
    size = config.actor.tp * config.actor.pp
    parallel = Parallel.of(config.actor)
    weights = shape.parameters * ELEMENT_BYTES[config.dtype]
    nearest = outcome.nearest
    return {
        "fits": outcome.fits,
        "problems": outcome.problems,
        "notes": outcome.notes,
        "model": {"name": shape.name, "parameters": shape.parameters, "bytes": weights}
        | {k: v for k, v in vars(shape.model).items() if k != "family"}
        | {"family": shape.model.family.architecture},
        "division": {
            "gpus": machine.gpus,
            "tp": config.actor.tp,
            "pp": config.actor.pp,
            "dp": parallel.dp(machine.gpus) if machine.gpus % size == 0 else None,
            "engines": machine.gpus // config.rollout.tp,
            "engine_tp": config.rollout.tp,
        },
        "gpu": None if outcome.gpu is None else _gpu(outcome.gpu, machine),
        "engine": outcome.engine
        and {**vars(outcome.engine), "cache_tokens": outcome.engine.cache_tokens},
        "host": outcome.host and {**outcome.host, "total": sum(outcome.host.values())},
        "sync": outcome.traffic and _traffic(outcome.traffic),
        "rounds": [
            {**vars(r), "step_seconds": r.step_seconds, "total_seconds": r.total_seconds}
            for r in outcome.rounds
        ],
        "gpu_hours": outcome.gpu_hours if outcome.rounds else None,
        "nearest": nearest
        and {"gpus": nearest.gpus, "changes": nearest.changes, "words": nearest.words,
             "peak_bytes": nearest.peak},
        "assumed": asdict(machine),
        "fields": asdict(config),
    }  # fmt: skip


def _gpu(gpu: Gpu, machine: Machine) -> dict[str, Any]:
    return {
        "stage": gpu.stage,
        "phases": gpu.phases,
        "totals": gpu.totals,
        "peak": gpu.peak,
        "usable": machine.usable,
        "memory": machine.gpu_memory * GB,
    }


def _traffic(traffic: Traffic) -> dict[str, Any]:
    received = traffic.received
    return {
        "received_mean": traffic.mean,
        "received_max": max(received),
        "received_min": min(received),
        "sent_max": max(traffic.sent),
        "equals_lower_bound": received == traffic.lower_bound,
        "messages": traffic.pairs,
        "rounds": traffic.rounds,
        "permuting": traffic.permuting,
        "seconds": traffic.seconds,
    }
