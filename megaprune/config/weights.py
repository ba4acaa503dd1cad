"""The configuration of `megaprune harmonize --weights`."""

from __future__ import annotations

from pydantic import InstanceOf

from megaprune.algorithms.sample_weights import SampleWeights
from megaprune.config.fields import field, section


@section()
class WeightsConfig:
    """Weights of pre-sampled responses (O1-Pruner, 2501.12570)."""

    harmonize: InstanceOf[SampleWeights] = field(
        default=SampleWeights(),
        doc="How responses of the reference model are weighed by their length and their "
        "correctness: a preset, or fields.",
    )
