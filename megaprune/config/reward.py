"""The configuration of `megaprune reward`."""

from __future__ import annotations

from pydantic import InstanceOf

from megaprune.algorithms.algorithm import Algorithm
from megaprune.algorithms.presets import DEFAULT
from megaprune.config.fields import field, section


@section()
class RewardConfig:
    """An algorithm to try on groups of responses."""

    algorithm: InstanceOf[Algorithm] = field(
        default=Algorithm.from_spec(DEFAULT), doc="What rewards responses: see `megaprune train`."
    )
