"""What a config.json may ask of a model that is computed here; the rest is refused, never ignored.

A conversion takes any model whose weights a family's table knows. Training and generating go
further: what the weights mean must be what is built. So each key that could change the computation
is looked at here, and a key that nobody knows is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megaprune.errors import InputError

_LOOKED_AT = {
    # By `weights.model`, or below.
    "architectures", "hidden_size", "intermediate_size", "num_hidden_layers",
    "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size", "tie_word_embeddings",
    "rms_norm_eps", "hidden_act", "attention_bias", "mlp_bias", "max_position_embeddings",
    "rope_theta", "rope_scaling", "rope_parameters", "use_sliding_window", "sliding_window",
    "max_window_layers", "layer_types",
}  # fmt: skip
_HARMLESS = {
    # They say how a file was made, how the model was trained, or how text is cut into tokens.
    "_name_or_path", "_attn_implementation_autoset", "attention_dropout", "bos_token_id", "dtype",
    "eos_token_id", "id2label", "initializer_range", "label2id", "model_type", "pad_token_id",
    "pretraining_tp", "return_dict", "torch_dtype", "transformers_version", "use_cache",
}  # fmt: skip
_LLAMA3 = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
"""What Megatron-core has built in of Llama 3's rotation; the factor is free."""


def check_supported(config: Mapping[str, Any]) -> None:
    """Raise an InputError if a config.json asks for what is not built here.

    Args:
        config: its content.
    """
    rotary(config)
    if config.get("hidden_act", "silu") != "silu":
        raise InputError(f"hidden_act {config['hidden_act']!r} is not supported; expected silu")
    _check_window(config)
    for key in sorted(config.keys() - _LOOKED_AT - _HARMLESS):
        if config[key]:
            raise InputError(
                f"config.json has {key}={config[key]!r}, which is not known here and may change "
                f"what the model computes; expected only keys of {_architecture(config)} that are "
                f"supported (if it changes nothing, remove it)"
            )


def rotary(config: Mapping[str, Any]) -> dict[str, Any]:
    """Megatron-core's arguments for the rotation that a config.json asks for.

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
            f"rope_scaling type {kind!r} is not supported; supported are default and llama3"
        )
    if unknown := {key for key, value in rope.items() if value is not None} - known:
        raise InputError(
            f"rope_scaling of type {kind} has {', '.join(sorted(unknown))}, which is not supported"
        )
    base = parameters.get("rope_theta", config.get("rope_theta", 10000))
    if base != int(base):
        raise InputError(f"rope_theta={base} is not supported; expected a whole number")
    return {
        "rotary_base": int(base),
        "rope_scaling": kind == "llama3",
        "rope_scaling_factor": float(rope.get("factor", 8.0)),
    }


def _check_window(config: Mapping[str, Any]) -> None:
    """Refuse attention to a window; Qwen has a size of one in its files and does not use it."""
    unused = _architecture(config).startswith("Qwen")
    if config.get("use_sliding_window", not unused) and (
        config.get("sliding_window") or config.get("use_sliding_window")
    ):
        raise InputError(
            f"config.json asks for a sliding window (use_sliding_window="
            f"{config.get('use_sliding_window')}, sliding_window={config.get('sliding_window')}), "
            f"which is not supported; expected full attention"
        )
    others = {str(kind) for kind in config.get("layer_types") or ()} - {"full_attention"}
    if others:
        raise InputError(
            f"config.json has layer_types {', '.join(sorted(others))}, which are not supported; "
            f"expected full_attention"
        )


def _architecture(config: Mapping[str, Any]) -> str:
    return str((config.get("architectures") or ["(none)"])[0])
