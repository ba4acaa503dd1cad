"""Shapes of released models, so that plans can be made without their weights.

The fields are those of each model's published config.json that fix the shape of its weights.
"""

from __future__ import annotations

from typing import Any

from megaprune.weights.model import Model

_QWEN2_32B: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 5120,
    "intermediate_size": 27648,
    "num_hidden_layers": 64,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
}

_QWEN2_7B: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
}

_QWEN2_1_5B: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": False,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "QwQ-32B": _QWEN2_32B,
    "DeepSeek-R1-Distill-Qwen-32B": _QWEN2_32B,
    "QwQ-32B-Preview": _QWEN2_32B,
    "DeepSeek-R1-Distill-Qwen-7B": _QWEN2_7B,
    "Marco-o1": _QWEN2_7B,
    "DeepSeek-R1-Distill-Qwen-1.5B": _QWEN2_1_5B,
    "DeepScaleR-1.5B-Preview": _QWEN2_1_5B,
    "Qwen3-8B": {
        "architectures": ["Qwen3ForCausalLM"],
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "tie_word_embeddings": False,
    },
    "Qwen3-32B": {
        "architectures": ["Qwen3ForCausalLM"],
        "hidden_size": 5120,
        "intermediate_size": 25600,
        "num_hidden_layers": 64,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "tie_word_embeddings": False,
    },
    "DeepSeek-R1-Distill-Llama-8B": {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "tie_word_embeddings": False,
    },
}


def shape_of(name: str) -> Model:
    """Return the shape of a released model; a KeyError lists the known ones."""
    if name not in CONFIGS:
        raise KeyError(f"{name} is not known; known are {', '.join(CONFIGS)}")
    return Model.from_config(CONFIGS[name], name)
