"""A pruning as typed fields: those of a run, and its rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from megaprune.config.fields import check_rules, not_negative, read_fields
from megaprune.config.run import MAY_CHANGE as MAY_CHANGE_IN_A_RUN
from megaprune.config.run import Config, check_config
from megaprune.errors import InputError


@dataclass
class PruneConfig(Config):
    """Rounds of runs; all fields of a run are those of each round.

    The seed of a round is `seed` + its number - 1. `validation.max_response_length` should be long:
    with null, each round is measured under its own limit, and the model that it began with
    looks worse.

    Args:
        limits: tokens of a response, a round for each; they fall.
        max_drop: points (of 100) of accuracy that may be lost in all; a round that loses more is
            the last, and the model is that of the round before.
    """

    limits: list[int] = field(default_factory=list)
    max_drop: float = 3.0


MAY_CHANGE = (
    *(name for name in MAY_CHANGE_IN_A_RUN if name not in ("steps", "validation.every")),
    "limits",
    "max_drop",
)
"""What may differ when a pruning goes on; limits of rounds that have ended may not."""


def read_prune_config(arguments: Sequence[str]) -> PruneConfig:
    """A pruning's fields, as `fields.read_fields` reads them.

    Raises:
        InputError: as it does, and if the limits do not fall or nothing can be chosen by.
    """
    if any(argument.startswith("rollout.max_response_length=") for argument in arguments):
        raise InputError(
            "rollout.max_response_length is each round's own; give limits=4000,3000,2000"
        )
    config = read_fields(PruneConfig, arguments)
    check_config(config)
    limits = config.limits
    if (
        not limits
        or limits[-1] < 1
        or any(a <= b for a, b in zip(limits, limits[1:], strict=False))
    ):
        raise InputError(
            f"limits={limits}; expected numbers of tokens that fall, as in limits=4000,3000,2000"
        )
    check_rules(config, [not_negative("max_drop")])
    if config.data.validation is None or not config.validation.every:
        raise InputError(
            "each round's model is chosen by validation; give data.validation=FILE.parquet (not "
            "what the model will be tested on) and validation.every=STEPS"
        )
    if not config.checkpoint.keep_best:
        raise InputError("each round's best model is taken; leave checkpoint.keep_best=true")
    return config
