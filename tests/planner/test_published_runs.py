"""The model of time against runs that others have published: each figure within a fifth.

Qwen3-32B, 64 prompts x 32 responses of at most 4096 tokens with their prompts, two passes for
log-probs, on policy. Sources: the performance pages of NeMo-RL v0.4 and v0.5, and its v0.3 blog.
"""

from dataclasses import replace

import pytest

from megaprune.planner.hardware import HardwareSpec
from megaprune.planner.request import ModelShape, read_plan_config
from megaprune.planner.speed import round_time
from megaprune.weights.model import Model

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"], "hidden_size": 5120, "intermediate_size": 25600,
    "num_hidden_layers": 64, "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128,
    "vocab_size": 151936, "tie_word_embeddings": False, "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-6, "hidden_act": "silu", "attention_bias": False,
    "max_position_embeddings": 40960,
}  # fmt: skip
SHAPE = ModelShape("Qwen3-32B", Model.from_config(CONFIG, "Qwen3-32B"))
PROMPT, TOTAL = 128, 4096  # tokens of a prompt, assumed; most of a sequence
REFIT = 7.0  # seconds, as the v0.3 blog has it

RUNS = {
    # GPUs and type, GPUs of a node, TP, PP, TP of engines, mean tokens of a sequence; and of a
    # step, as published: seconds in all, to train, to generate, for log-probs.
    "v0.5": (32, "h100", 8, 4, 4, 4, 3251, {"all": 376}),
    "v0.4": (32, "h100", 8, 4, 4, 4, 3206, {"all": 393}),
    "v0.3": (
        64, "h100", 8, 4, 2, 4, 3283,
        {"all": 213, "train": 68, "generate": 96, "reference and old log-probs": 40},
    ),
    "v0.5 GB200": (16, "b200", 4, 2, 1, 1, 3251, {"all": 381}),
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_a_published_run(name):
    gpus, gpu, on_a_node, tp, pp, engine_tp, mean, published = RUNS[name]
    limit = TOTAL - PROMPT
    config = read_plan_config(
        [
            "model=QwQ-32B", f"actor.tp={tp}", f"actor.pp={pp}", f"rollout.tp={engine_tp}",
            "actor.sequence_parallel=true", "actor.recompute=full", "data.train_batch_size=64",
            "rollout.n=32", f"data.max_prompt_length={PROMPT}", "algorithm.num_minibatches=2",
            "algorithm.loss.kl_coef=0.01",
            f"rollout.max_response_length={limit}", "rollout.gpu_memory_utilization=0.6",
        ]
    )  # fmt: skip
    assert config.algorithm.needs == {"reference", "old"}
    hardware = HardwareSpec.of_type(
        gpu,
        gpus=gpus,
        gpus_per_node=on_a_node,
        mean_prompt=1.0,
        mean_length=(mean - PROMPT) / limit,
    )
    estimate = round_time(config, SHAPE, hardware, 0, REFIT)
    seconds = {**estimate.seconds, "all": estimate.step_seconds}
    off = {phase: seconds[phase] / value - 1 for phase, value in published.items()}
    assert all(abs(share) <= 0.2 for share in off.values()), off
    # And not because nothing matters: half of the GPUs takes about twice as long.
    half = round_time(config, SHAPE, replace(hardware, gpus=gpus // 2), 0, REFIT)
    assert 1.6 < half.step_seconds / estimate.step_seconds < 2.4
