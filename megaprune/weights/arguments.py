"""What Megatron-LM's training arguments say of a model, compared with what its config.json says.

Megatron-LM stores its arguments in a checkpoint, and shapes show little of what they say. Every
argument is one of three: it says a part of what the model computes (a `Fact`), it changes nothing
(`argument_names`), or it is not known. One that is not known and is on is a reason to refuse the
checkpoint, since what it changes would be lost without a word.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from megaprune.weights.argument_names import ROUNDING, changes_nothing
from megaprune.weights.model import Model
from megaprune.weights.rope import rope_parameters
from megaprune.weights.untrusted import named, shown


@dataclass(frozen=True)
class Fact:
    """A part of what a model computes, and the arguments that say it.

    Args:
        key: the key of config.json that says it. Where config.json has no word for it, since every
            model of the family has it: the argument.
        value: what it is in this model.
        arguments: for each argument that says it, the values with which it says the same.
        trusted: whether it is taken on trust where none of these arguments is stored: neither do
            tensors show it, nor is it something that Megatron-LM has not had for long.
    """

    key: str
    value: Any
    arguments: Mapping[str, Collection[Any]]
    trusted: bool = True


@dataclass(frozen=True)
class Comparison:
    """What the arguments were found to say.

    Args:
        differences: a line for each argument that says another model than config.json.
        unknown: "name=value" of each argument that is on and is not known.
        unknown_off: names of those that are not known, and are off.
        trusted: what config.json or its family says, and neither arguments nor tensors show.
        rounding: "name=value" of number formats that training computed in.
    """

    differences: list[str]
    unknown: list[str]
    unknown_off: list[str]
    trusted: list[str]
    rounding: list[str]


def compare_arguments(
    args: Mapping[str, Any],
    config: Mapping[str, Any],
    model: Model,
    rows: int,
    ignored: Collection[str] = (),
) -> Comparison:
    """Compare stored arguments with a config.json and the family that it names.

    Args:
        args: values by name; functions and types are there by their names.
        config: content of the config.json that `model` was made from.
        rows: how many rows the stored embedding has, padding included.
        ignored: arguments that are not known here, and of which the user says that they change
            nothing.
    """
    facts = [*_sizes(args, model, rows), *_layers(args, config, model), *_rotation(args, config)]
    compared = {name for fact in facts for name in fact.arguments} | {*ignored, *ROUNDING}
    unknown = [name for name in sorted(args) if name not in compared and not changes_nothing(name)]
    return Comparison(
        differences=[
            _difference(fact, name, args[name], model)
            for fact in facts
            for name, values in fact.arguments.items()
            if name in args and not any(_same(args[name], value) for value in values)
        ],
        unknown=[f"{named(n)}={shown(args[n])}" for n in unknown if not _is_off(args[n])],
        unknown_off=[named(n) for n in unknown if _is_off(args[n])],
        trusted=[
            fact.key
            for fact in facts
            if fact.trusted and not any(name in args for name in fact.arguments)
        ],
        rounding=[f"{n}={shown(args[n])}" for n in ROUNDING if not _is_off(args.get(n))],
    )


def _difference(fact: Fact, name: str, value: Any, model: Model) -> str:
    if fact.key == name:
        built = f"a {model.family.architecture} with this config.json has {shown(fact.value)}"
        return f"{name}={shown(value)}, where {built}"
    return f"{fact.key}: {shown(fact.value)} against {name}={shown(value)}"


def _same(first: Any, second: Any) -> bool:
    first, second = (tuple(v) if isinstance(v, list) else v for v in (first, second))
    return bool(first == second)


def _is_off(value: Any) -> bool:
    """Say whether a value is one with which a program switches something off."""
    plain = isinstance(value, bool | int | float | str | list | tuple | dict)
    return value is None or (plain and not value)


def _sizes(args: Mapping[str, Any], model: Model, rows: int) -> Iterator[Fact]:
    layers, maybe = (model.layers,), (model.layers, None)
    counts = {"num_layers": layers, "encoder_num_layers": maybe, "decoder_num_layers": maybe}
    yield Fact("num_hidden_layers", model.layers, counts, trusted=False)
    yield Fact("hidden_size", model.hidden, {"hidden_size": (model.hidden,)}, trusted=False)
    yield Fact("intermediate_size", model.ffn, {"ffn_hidden_size": (model.ffn,)}, trusted=False)
    yield Fact("num_attention_heads", model.heads, {"num_attention_heads": (model.heads,)})
    derived = (None,) if model.head_dim * model.heads == model.hidden else ()
    yield Fact("head_dim", model.head_dim, {"kv_channels": (model.head_dim, *derived)})
    # Megatron-LM reads the number of groups only where it groups.
    grouped = model.kv_heads < model.heads
    groups: dict[str, Collection[Any]] = {"group_query_attention": {True, grouped}}
    if args.get("group_query_attention") is not False:
        groups["num_query_groups"] = (model.kv_heads, model.kv_heads if grouped else None)
    yield Fact("num_key_value_heads", model.kv_heads, groups)
    tied = {
        "untie_embeddings_and_output_weights": (not model.tied,),
        "share_embeddings_and_output_weights": (model.tied,),
    }
    yield Fact("tie_word_embeddings", model.tied, tied, trusted=False)
    # A vocabulary that ends within these rows is looked at together with the rows (`Vocabulary`).
    size = args.get("vocab_size")
    within = size if isinstance(size, int) and size <= rows else None
    padded = {"padded_vocab_size": (rows, None), "vocab_size": (within, None)}
    yield Fact("rows of the embedding", rows, padded, trusted=False)


_SILU = ("silu", "torch.nn.functional.silu", "torch._C._nn.silu")

_NO_WINDOW = (None, (), (-1, -1), (-1, 0))  # Transformer Engine's word for no window is -1

_ACTIVATION: Mapping[str, Collection[Any]] = {
    "swiglu": (True,),
    "gated_linear_unit": (True,),
    "activation_func": _SILU,
    "squared_relu": (False,),
    "quick_geglu": (False,),
    "openai_gelu": (False,),
}

_NEVER: Mapping[str, Collection[Any]] = {
    "activation_func_clamp_value": (None,),
    "apply_residual_connection_post_layernorm": (False,),
    "attention_output_gate": (False,),
    "experimental_attention_variant": (None,),
    "glu_linear_offset": (0, None),
    "heterogeneous_block_specs": (False,),
    "heterogeneous_layers_config_encoded_json": (None,),
    "heterogeneous_layers_config_path": (None,),
    "hybrid_attention_ratio": (0, None),
    "hybrid_layer_pattern": (None,),
    "hybrid_mlp_ratio": (0, None),
    "hybrid_override_pattern": (None,),
    "is_hybrid_model": (False,),
    "linear_attention_freq": (None,),
    "mrope_section": (None, ()),
    "mtp_num_layers": (None, 0),
    "multi_latent_attention": (False,),
    "num_experts": (None, 0),
    "num_moe_experts": (None, 0),
    "qk_l2_norm": (False,),
    "retro_add_retriever": (False,),
    "softmax_type": ("vanilla",),
    "use_legacy_models": (False,),
    "use_mup": (False,),
}
"""What no family has: each argument, and the values with which it is off."""


def _layers(args: Mapping[str, Any], config: Mapping[str, Any], model: Model) -> Iterator[Fact]:
    epsilon = config.get("rms_norm_eps") or 1e-6
    epsilons = {"norm_epsilon": (epsilon,), "layernorm_epsilon": (epsilon,)}
    yield Fact("rms_norm_eps", epsilon, epsilons)
    yield Fact("normalization", "RMSNorm", {"normalization": ("RMSNorm",)})
    centered = {"apply_layernorm_1p": (False,), "layernorm_zero_centered_gamma": (False,)}
    yield Fact("apply_layernorm_1p", False, centered)
    yield Fact("hidden_act", "silu", _ACTIVATION)
    yield Fact("use_sliding_window", False, {"window_size": _NO_WINDOW})
    tensors = {row.megatron for row in model.family.layer}
    bias = "self_attention.linear_qkv.bias" in tensors
    yield Fact("attention_bias", bias, {"add_qkv_bias": (bias,)}, trusted=False)
    yield Fact("mlp_bias", False, {"add_bias_linear": (False,)}, trusted=False)
    norm = "self_attention.q_layernorm.weight" in tensors
    yield Fact("qk_layernorm", norm, {"qk_layernorm": (norm,)}, trusted=False)
    scale = 1 / math.sqrt(model.head_dim)
    yield Fact("softmax_scale", scale, {"softmax_scale": (None, scale)}, trusted=False)
    everywhere = {"no_rope_freq": (None, (0,) * model.layers)}
    yield Fact("no_rope_freq", None, everywhere, trusted=False)
    spec = args.get("spec")
    own = isinstance(spec, list) and spec[:1] == ["megatron.core.models.gpt.gpt_layer_specs"]
    specs = (None, (), ("local",), spec if own else None)
    yield Fact("spec", None, {"spec": specs}, trusted=False)
    for name, values in _NEVER.items():
        yield Fact(name, next(iter(values)), {name: values}, trusted=False)


_LLAMA3 = {"low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 8192}
"""What Megatron-core has built in of Llama 3's rotation; its factor is an argument."""


def _rotation(args: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[Fact]:
    rope = rope_parameters(config)
    kind, theta, factor = rope["rope_type"], rope["rope_theta"], rope.get("factor")
    yield Fact("rope_theta", theta, {"rotary_base": (theta,)})
    yield Fact("partial_rotary_factor", 1, {"rotary_percent": (1,)})
    yield Fact("rotary_interleaved", False, {"rotary_interleaved": (False,)})
    # Other kinds than these are none of Megatron-core's, and contradict any that it says.
    types = {"default": "rope", "linear": "rope", "llama3": "rope", "yarn": "yarn"}
    position: dict[str, Collection[Any]] = {
        "position_embedding_type": {types[kind]} if kind in types else (),
        # The older word, which the newer one replaces where both are.
        "use_rotary_position_embeddings": {True, "position_embedding_type" not in args},
    }
    if types.get(kind) == "rope":
        yield Fact("position_embedding_type", "rope", position)
    else:
        yield Fact("rope_type", kind, position)
    yield Fact("rope_scaling", kind, {"use_rope_scaling": (kind == "llama3",)})
    interpolation = "rotary_seq_len_interpolation_factor"
    if kind == "linear":
        yield Fact("factor of linear", factor, {interpolation: (factor,)})
    else:
        yield Fact(interpolation, None, {interpolation: (None, 1)})
    if kind == "llama3":
        yield Fact("factor of llama3", factor, {"rope_scaling_factor": (factor,)})
        for key, built_in in _LLAMA3.items():
            same = {"use_rope_scaling": (rope[key] == built_in,)}
            yield Fact(f"{key} of llama3", rope[key], same)
    yield Fact("rope_type", "rope", {"rope_type": (None, types.get(kind))}, trusted=False)
    if kind == "yarn":
        yield from _yarn(args, rope)


_MANY = 1e6

_YARN = {
    "factor": "yarn_rotary_scaling_factor",
    "original_max_position_embeddings": "yarn_original_max_position_embeddings",
    "beta_fast": "yarn_beta_fast",
    "beta_slow": "yarn_beta_slow",
    "truncate": "yarn_correction_range_round_to_int",
}


def _yarn(args: Mapping[str, Any], rope: Mapping[str, Any]) -> Iterator[Fact]:
    for key, name in _YARN.items():
        yield Fact(f"{key} of yarn", rope[key], {name: (rope[key],)})
    # How much queries and keys are scaled, transformers is told or computes of the factor.
    # Megatron-core computes it too, with two weights of its own where both are given.
    names = ("yarn_mscale", "yarn_mscale_all_dim")
    given = [args[name] for name in names if args.get(name) is not None]
    up, down = given if len(given) == 2 else (1, 0)
    numbers = all(isinstance(n, int | float) and abs(n) < _MANY for n in (up, down))
    stretched = 0.1 * math.log(max(rope["factor"] or 1, 1))
    scale = rope["attention_factor"] or 0
    same = numbers and math.isclose(scale * (down * stretched + 1), up * stretched + 1)
    accepted = {name: (args.get(name),) if same else () for name in names}
    yield Fact("attention_factor of yarn", rope["attention_factor"], accepted)
