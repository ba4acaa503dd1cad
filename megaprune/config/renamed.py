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
    "algorithm.objective": "algorithm.reward.name",
    "algorithm.estimator": "algorithm.advantage.name",
    "algorithm.refills": "algorithm.filter.max_resample_rounds",
    "algorithm.updates": "algorithm.num_minibatches",
    "algorithm.clip_low": "algorithm.loss.clip_ratio_low",
    "algorithm.clip_high": "algorithm.loss.clip_ratio_high",
    "algorithm.kl": "algorithm.loss.kl_coef",
    "algorithm.entropy": "algorithm.loss.entropy_coef",
    "algorithm.importance_cap": "algorithm.loss.importance_cap",
    "limit": "max_response_length",
    "max_prompt": "max_prompt_length",
    "force": "exit_at",
}
"""Old names and new ones. A name counts as renamed only where the new one is a field."""


def new_name(key: str, known: Collection[str]) -> str | None:
    """The name that a renamed field has among those that are known; None if it was not renamed.

    Args:
        known: names of fields, with or without what is inside of them: algorithm.reward.name is
            known where algorithm is.
    """
    name = RENAMED.get(key)
    if name is None:
        return None
    return name if {name, name.partition(".")[0]} & set(known) else None
