"""Rotations as config.json spells them, and what transformers makes of them."""

import copy
import random
from functools import cache

import torch

SHAPE = {
    "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_hidden_layers": 2, "vocab_size": 300, "max_position_embeddings": 128,
}  # fmt: skip

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip

BUILT = {
    "nothing said": {},
    "a base beside": {"rope_theta": 1e6},
    "a whole base": {"rope_theta": 500000},
    "a base with a fraction": {"rope_theta": 10000.5},
    "a large base with a fraction": {"rope_theta": 123456789.123},
    "a base inside": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    "a base beside and inside": {"rope_theta": 7.0, "rope_parameters": {"rope_theta": 1e6}},
    "an empty scaling": {"rope_scaling": {}, "rope_parameters": {"rope_theta": 1e6}},
    "nulls": {"rope_scaling": None, "rope_parameters": None, "rope_theta": 5},
    "the old default": {"rope_scaling": {"type": "default"}, "rope_theta": 1e5},
    "linear": {"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_theta": 1e6},
    "linear by a whole number": {"rope_scaling": {"type": "linear", "factor": 2}},
    "linear, a base inside": {
        "rope_scaling": {"rope_type": "linear", "factor": 3.0, "rope_theta": 5e5}, "rope_theta": 7
    },
    "scaling, and the base only in parameters": {
        "rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_theta": 1e6}
    },
    "scaling and other parameters": {
        "rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": YARN, "rope_theta": 50
    },
    "yarn": {"rope_scaling": YARN, "rope_theta": 1e6},
    "yarn, new": {"rope_parameters": {**YARN, "rope_theta": 1e6}},
    "yarn, the base beside": {"rope_parameters": YARN, "rope_theta": 1e6},
    "yarn, old": {"rope_scaling": {"type": "yarn", "factor": 4}},
    "yarn, the original length beside": {
        "rope_scaling": YARN, "original_max_position_embeddings": 64
    },
    "yarn, no factor": {
        "rope_scaling": {"type": "yarn", "factor": None, "original_max_position_embeddings": 32}
    },
    "yarn, nulls": {
        "rope_scaling": {**YARN, "attention_factor": None, "beta_fast": None, "beta_slow": None,
                         "truncate": None, "mscale": None, "finetuned": True}
    },
    "yarn, an attention factor": {"rope_scaling": {**YARN, "attention_factor": 0.9}},
    "yarn, mscales": {"rope_scaling": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3}},
    "yarn, one mscale": {"rope_scaling": {**YARN, "mscale": 0.7}},
    "yarn, betas": {"rope_scaling": {**YARN, "beta_fast": 16, "beta_slow": 2, "truncate": False}},
    "yarn, factor 1": {"rope_scaling": {**YARN, "factor": 1.0}},
    "llama3": {"rope_scaling": LLAMA3, "rope_theta": 500000.0},
    "llama3, new": {"rope_parameters": {**LLAMA3, "rope_theta": 500000.0}},
    "llama3, other factors": {
        "rope_scaling": {"rope_type": "llama3", "factor": 32, "low_freq_factor": 2,
                         "high_freq_factor": 5}
    },
    "all of it": {"rope_parameters": {"rope_theta": 1e6, "partial_rotary_factor": 1.0}},
}  # fmt: skip
"""Spellings of rotations that are built: fields of config.json."""


def named_config(fields, family="Qwen2"):
    """A small config.json of a family with these fields."""
    return {
        "architectures": [f"{family}ForCausalLM"], "model_type": family.lower(), **SHAPE, **fields
    }  # fmt: skip


@cache
def _family(name):
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    transformers.logging.set_verbosity_error()  # it warns of keys that a type does not read
    config = getattr(transformers, f"{name}Config")
    module = __import__(MODEL_MAPPING[config].__module__, fromlist=["_"])
    return config, getattr(module, f"{name}RotaryEmbedding")


def transformers_rotation(config, length=None):
    """transformers' inverse frequencies and attention factor for a config.json.

    Args:
        length: of a sequence, for types that depend on it; None for a short one.
    """
    name = config["architectures"][0].removesuffix("ForCausalLM")
    make, rotary = _family(name)
    module = rotary(make.from_dict(copy.deepcopy(config)))
    if length is not None:
        module(torch.zeros(()), torch.tensor([[length - 1]]))
    return module.inv_freq, module.attention_scaling


def random_fields(rng: random.Random):
    """A spelling of some rotation, out of few values, so that two may mean the same."""

    def maybe(**values):
        return {key: value for key, value in values.items() if rng.random() < 0.5}

    def inside(kind):
        name = rng.choice(["type", "rope_type"])
        rope = {name: kind} if kind != "default" or rng.random() < 0.5 else {}
        if kind in ("linear", "dynamic", "llama3", "yarn"):
            rope["factor"] = rng.choice([2, 2.0, 4.0])
        if kind in ("llama3", "yarn"):
            rope |= maybe(original_max_position_embeddings=rng.choice([32, 128]))
        if kind == "llama3":
            rope |= {"low_freq_factor": 1, "high_freq_factor": rng.choice([4, 8.0])}
        if kind == "yarn":
            rope |= maybe(
                attention_factor=rng.choice([None, 1.0]), beta_fast=rng.choice([None, 32, 20]),
                beta_slow=rng.choice([1, 2]), truncate=rng.choice([True, False]),
                mscale=rng.choice([1.0, 0.5]), mscale_all_dim=1.0,
            )  # fmt: skip
        return rope | maybe(rope_theta=rng.choice([1e4, 1e6]))

    kinds = ["default", "linear", "dynamic", "llama3", "yarn"]
    fields = maybe(rope_theta=rng.choice([10000, 1e4, 1e6]))
    for key in ("rope_scaling", "rope_parameters"):
        if rng.random() < 0.5:
            fields[key] = rng.choice([None, {}, *(inside(rng.choice(kinds)) for _ in range(4))])
    return fields
