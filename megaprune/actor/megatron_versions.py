"""What differs between the versions of Megatron-core that are used (`engine_versions`)."""

from __future__ import annotations

from inspect import signature

from megatron.core import dist_checkpointing

# Since 0.19, `save` imports it when it is called: too late for the CPU's stand-in (cpu.py).
from megatron.core.dist_checkpointing.strategies import state_dict_saver as _  # noqa: F401

SAVE_OPTIONS: dict[str, str] = (
    {"async_strategy": "mcore"}
    if "async_strategy" in signature(dist_checkpointing.save).parameters
    else {}
)
"""Arguments of `dist_checkpointing.save` that choose Megatron-core's own writer. Since 0.17, its
default is the writer of another package, nvidia-resiliency-ext."""

READS_COMMON_OBJECT = "common_strategy" not in signature(dist_checkpointing.load).parameters
"""Whether checkpoints can be loaded that have no common.pt, as 0.19 saves them."""
