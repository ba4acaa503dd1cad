"""Which rotations of queries and keys are built here; others are refused, never ignored.

A conversion takes any rotation that its family's keys can describe (`families.config_problems`):
config.json goes along. Training and generating go further: what it describes must be what is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megaprune.errors import InputError
from megaprune.weights.untrusted import named, shown

_LLAMA3 = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
"""What Megatron-core has built in of Llama 3's rotation; the factor is free."""


def check_supported(config: Mapping[str, Any]) -> None:
    """Raise an InputError if a config.json, whose keys its family knows, asks for another rotation.

    Args:
        config: its content.
    """
    rotary(config)


def rotary(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return Megatron-core's arguments for the rotation that a config.json asks for.

    Raises:
        InputError: it is not built here.
    """
    parameters = config.get("rope_parameters") or {}
    rope = config.get("rope_scaling") or parameters  # as in transformers, where both are given
    kind = rope.get("rope_type", rope.get("type", "default"))
    known = {"rope_type", "type", "rope_theta"}
    if kind == "llama3":
        known |= {"factor", *_LLAMA3}
        other = {k: rope[k] for k in _LLAMA3 if k in rope and rope[k] != _LLAMA3[k]}
        if other:
            raise InputError(
                f"rope_scaling {other} is not what Megatron-core has built in; expected {_LLAMA3}"
            )
    elif kind != "default":
        raise InputError(
            f"rope_scaling type {shown(kind)} is not supported; supported are default and llama3"
        )
    if unknown := {key for key, value in rope.items() if value is not None} - known:
        names = ", ".join(map(named, sorted(unknown)))
        raise InputError(f"rope_scaling of type {kind} has {names}, which is not supported")
    base = parameters.get("rope_theta") or config.get("rope_theta") or 10000
    if base != int(base):
        raise InputError(f"rope_theta={base} is not supported; expected a whole number")
    return {
        "rotary_base": int(base),
        "rope_scaling": kind == "llama3",
        "rope_scaling_factor": float(rope.get("factor") or 8.0),
    }
