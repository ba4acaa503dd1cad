"""Random Qwen2 models, written as Hugging Face folders, and samples to train them on."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from megaprune.actor.packing import Sample
from megaprune.distributed import device
from megaprune.weights.model import Model

QWQ_LAYER = {
    "hidden_size": 5120,
    "intermediate_size": 27648,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
}
"""The shape of QwQ-32B's layers, of which it has 64."""

QWQ_VOCAB = 152064
TINY_LAYER = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def write_model(out: Path, seed: int = 0, **fields: Any) -> Path:
    """Write a random bfloat16 model, made on the device.

    Projections keep the size of what goes through them, so that no layer drowns the others, and
    logits differ by about 2: a distribution that is neither flat nor a spike.

    Args:
        fields: of config.json.
    """
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
        **fields,
    }
    generator = torch.Generator(device.device()).manual_seed(seed)
    tensors = {}
    for name, shape in Model.from_config(config).tensors().items():
        values = torch.randn(shape, device=device.device(), generator=generator)
        if name.endswith("norm.weight"):
            values.mul_(0.1).add_(1.0)
        elif name.endswith("bias"):
            values.mul_(0.1)
        elif name.startswith("lm_head"):
            values.mul_(2 * shape[1] ** -0.5)
        elif "embed_tokens" not in name:
            values.mul_(shape[1] ** -0.5)
        tensors[name] = values.bfloat16().cpu()
    out.mkdir(parents=True)
    (out / "config.json").write_text(json.dumps(config))
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


def samples_of(lengths: tuple[int, ...], vocab: int, prompt: int = 16) -> list[Sample]:
    """Random sequences of these lengths, with an advantage "w" of each scored token."""
    rng = np.random.default_rng(1)
    samples = []
    for length in lengths:
        start = min(prompt, (length + 1) // 2)
        values = {"w": rng.normal(1.0, 0.5, length - start).astype(np.float32)}
        samples.append(Sample(rng.integers(0, vocab, length), start, values))
    return samples


def parameters_of(model: Model) -> int:
    """How many, all tensors together."""
    return sum(map(prod, model.tensors().values()))
