"""The configuration of a pruning: that of a run, and its rounds."""

from __future__ import annotations

from collections.abc import Sequence

from megaprune.config.fields import field, section
from megaprune.config.read import read_fields
from megaprune.config.run import Config
from megaprune.errors import InputError


@section(fixed=["steps", "validation.every"])
class PruneConfig(Config):
    """A pruning in rounds; all fields of a run are those of each round.

    The seed of a round is `seed` + its number - 1. All rounds are measured under one limit, that of
    `validation.max_response_length`.
    """

    limits: list[int] = field(
        default=[],
        unit="tokens",
        may_change=True,
        doc="Length limits of responses, a round for each; they fall. Those of rounds that have "
        "ended stay.",
    )
    max_drop: float = field(
        default=3.0,
        ge=0,
        unit="points of 100",
        may_change=True,
        doc="Accuracy that may be lost in all. A round that loses more is the last, and the model "
        "is that of the round before.",
    )

    def __post_init__(self) -> None:
        """Leave {limit} in the names of files: each round has its own."""


def read_prune_config(arguments: Sequence[str]) -> PruneConfig:
    """Read a pruning's configuration, as `config.read.read_fields` does.

    Raises:
        InputError: as there, and for a field that each round has by itself.
    """
    if any(argument.startswith("rollout.max_response_length=") for argument in arguments):
        raise InputError(
            "rollout.max_response_length is each round's own; give limits=4000,3000,2000"
        )
    return read_fields(PruneConfig, arguments)
