"""Tiny random models of each supported family, to try the tools on.

They have every kind of tensor that the released models have (grouped key and value heads, biases,
norms over heads, tied and untied embeddings, a vocabulary that no tensor-parallel size divides) and
no trained weights. Needs transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megaprune.weights.families import FAMILIES as _FAMILIES

FAMILIES = tuple(sorted(family.model_type for family in _FAMILIES.values()))


def make_tiny(
    out: Path, family: str = "qwen2", *, dtype: str = "float32", seed: int = 0, **config: Any
) -> Path:
    """Write a tiny model with tokenizer and generation config, as save_pretrained does.

    Args:
        out: the folder to write.
        family: one of `FAMILIES`.
        dtype: element type of the weights.
        seed: seeds the random weights.
        config: fields of the Hugging Face config to set otherwise.
    """
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    fields = {
        "vocab_size": 509,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    if family == "qwen3":
        fields["head_dim"] = 32  # not hidden_size / num_attention_heads: Qwen3 sets it apart
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**{**fields, **config}))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                # transformers starts biases at 0 and norms at 1, which would hide mistakes.
                if name.endswith("bias"):
                    parameter.normal_(0.0, 0.1)
                elif "norm" in name:
                    parameter.normal_(1.0, 0.1)
    model.to(getattr(torch, dtype)).save_pretrained(out)
    _save_tokenizer(out, model.config.vocab_size)
    return out


def _save_tokenizer(out: Path, vocab_size: int) -> None:
    """Save a tokenizer with a token for each byte, and invented words for the rest."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<|endoftext|>", *alphabet]
    words += [f"<|unused_{i}|>" for i in range(vocab_size - len(words))]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(
        out
    )
