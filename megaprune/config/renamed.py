"""Fields whose names were others before: refused with the new name wherever one is given."""

from __future__ import annotations

from collections.abc import Collection

RENAMED = {
    "data.prompts": "data.train_batch_size",
    "data.max_prompt": "data.max_prompt_length",
    "rollout.limit": "rollout.max_response_length",
    "rollout.gpu_share": "rollout.gpu_memory_utilization",
    "rollout.max_sequences": "rollout.max_num_seqs",
    "rollout.eager": "rollout.enforce_eager",
    "rollout.kv_cache_bytes": "rollout.kv_cache_memory_bytes",
    "validation.limit": "validation.max_response_length",
    "actor.sequence": "actor.sequence_parallel",
    "actor.first": "actor.num_layers_in_first_pipeline_stage",
    "actor.last": "actor.num_layers_in_last_pipeline_stage",
    "optimizer.warmup": "optimizer.warmup_steps",
    "limit": "max_response_length",
    "max_prompt": "max_prompt_length",
}
"""Old names and new ones. A name counts as renamed only where the new one is a field."""


def new_name(key: str, known: Collection[str]) -> str | None:
    """The name that a renamed field has among those that are known; None if it was not renamed."""
    name = RENAMED.get(key)
    return name if name in known else None
