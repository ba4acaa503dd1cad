"""The rotation of queries and keys (RoPE) that a config.json asks for, as transformers reads it.

There are two spellings: `rope_scaling` beside `rope_theta`, and `rope_parameters` with all of it.
`rope_parameters` here turns both into the second, with every default filled in. Conversions compare
its result, the actor computes its angles from it, and vLLM is given it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from megaprune.errors import InputError
from megaprune.weights.untrusted import named, shown

SPELLINGS = ("rope_scaling", "rope_parameters")
"""The keys of config.json that hold a rotation; transformers takes the first that is not empty."""

CONFIG_KEYS = frozenset({*SPELLINGS, "rope_theta", "original_max_position_embeddings"})
"""The keys of config.json that are read here alone."""

DEFAULT_CONTEXT = {
    "LlamaForCausalLM": 2048,
    "Qwen2ForCausalLM": 32768,
    "Qwen3ForCausalLM": 32768,
}
"""max_position_embeddings of a config.json that leaves it out, by architecture."""

_DEFAULT_THETA = 10000.0
_POSITIONS = "max_position_embeddings"
_ORIGINAL = f"original_{_POSITIONS}"

_READ = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor", _POSITIONS),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", _ORIGINAL),
    "yarn": ("factor", _ORIGINAL, "attention_factor", "beta_fast", "beta_slow", "truncate"),
    "longrope": ("factor", "short_factor", "long_factor", _ORIGINAL, "attention_factor"),
}
"""What each type of rotation reads besides rope_theta."""

_MSCALES = ("mscale", "mscale_all_dim")
"""What YaRN computes attention_factor from, where that is not given."""

_BUILT = ("default", "linear", "llama3", "yarn")
_NOT_BUILT = {
    "dynamic": "its angles depend on how long a sequence is",
    "longrope": "its angles depend on how long a sequence is",
}

_TYPES = ("rope_type", "type")
KEYS = frozenset(
    {*_TYPES, "rope_theta", "attn_factor", "finetuned", *_MSCALES}.union(*_READ.values())
)
"""All that is known inside of rope_scaling and rope_parameters."""

_LARGEST = {
    **dict.fromkeys(
        ("attention_factor", "attn_factor", "beta_fast", "beta_slow", "factor", *_MSCALES), 1e6
    ),
    **dict.fromkeys(("high_freq_factor", "low_freq_factor"), 1e6),
    _ORIGINAL: 1e12,
    "rope_theta": 1e15,
}
"""Numbers that are computed with: each is above zero and at most this."""

_ZERO_IS_DEFAULT = ("beta_fast", "beta_slow", *_MSCALES)


def rope_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rotation that transformers makes of a config.json, in its newer spelling.

    Args:
        config: its content. What `rope_value_problems` calls wrong is left as it is.

    Returns:
        rope_type, rope_theta, and what the type reads (for one that is not known: all that is
        given). What is missing and has no default is None.
    """
    given: Mapping[str, Any] = next((config[key] for key in SPELLINGS if config.get(key)), {})
    kind = given.get("rope_type", given.get("type", "default"))
    theta = given.get("rope_theta", config.get("rope_theta", _DEFAULT_THETA))
    rope = {"rope_type": kind, "rope_theta": _real(theta)}
    if not isinstance(kind, str) or kind not in _READ:
        return {**given, **rope, "type": None}
    rope |= {key: _real(given.get(key)) for key in _READ[kind]}
    if kind == "dynamic":
        rope[_POSITIONS] = _positions(config)
    if _ORIGINAL in rope:
        # Beside the rotation it wins over the one inside.
        rope[_ORIGINAL] = config.get(_ORIGINAL) or given.get(_ORIGINAL, _positions(config))
    return _yarn(rope, given, config) if kind == "yarn" else rope


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1e15


def _real(value: Any) -> Any:
    """Return numbers as floats: of vLLM's linear rotation, any other factor is a list of them."""
    return float(value) if _is_number(value) else value


def _positions(config: Mapping[str, Any]) -> int | None:
    """Return max_position_embeddings as transformers has it; None for an unknown architecture."""
    names = config.get("architectures")
    name = str(names[0]) if isinstance(names, list) and names else ""
    return config.get(_POSITIONS) or DEFAULT_CONTEXT.get(name)


def _yarn(
    rope: dict[str, Any], given: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, Any]:
    """Fill in YaRN's defaults (arXiv 2309.00071), as transformers does."""
    original, positions = rope[_ORIGINAL], _positions(config)
    if "factor" in given and given["factor"] is None and original and positions:
        numbers = _is_number(original) and _is_number(positions)
        rope["factor"] = positions / original if numbers else None
    rope["beta_fast"] = rope["beta_fast"] or 32.0
    rope["beta_slow"] = rope["beta_slow"] or 1.0
    rope["truncate"] = bool(given.get("truncate", True))
    up, down = (given.get(key) for key in _MSCALES)
    if not (up and down):
        up, down = 1.0, 0.0
    if rope["attention_factor"] is None and all(map(_is_number, (rope["factor"], up, down))):
        rope["attention_factor"] = _mscale(rope["factor"], up) / _mscale(rope["factor"], down)
    return rope


def _mscale(factor: float, weight: float) -> float:
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def rope_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """List what differs in the rotations of two config.json, as "field: in `first`, in `second`".

    Where the types differ, what they read is not listed.
    """
    a, b = rope_parameters(first), rope_parameters(second)
    fields = ["rope_theta", "rope_type"]
    if a["rope_type"] == b["rope_type"]:
        fields += sorted((a.keys() | b.keys()) - {*fields})
    return [
        f"{named(field)}: {shown(a.get(field))} against {shown(b.get(field))}"
        for field in fields
        if a.get(field) != b.get(field)
    ]


def context_of(config: Mapping[str, Any]) -> int:
    """Return how many tokens a model can take, as its config.json says; 0 if it does not.

    Types "linear" and "dynamic" extend max_position_embeddings by their factor. "yarn" extends
    original_max_position_embeddings, whatever the other says: vLLM has no angles beyond.
    """
    rope = rope_parameters(config)
    length: float = _positions(config) or 0
    if rope["rope_type"] == "yarn":
        length = rope[_ORIGINAL] or 0
    if rope["rope_type"] in ("linear", "dynamic", "yarn"):
        length *= rope["factor"] or 1
    return int(length)


def engine_overrides(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what vLLM is to read instead of config.json: the rotation, with nothing left open.

    A rotation that is not built here is left to vLLM, which may know it.
    """
    rope = rope_parameters(config)
    if rope["rope_type"] not in _BUILT:
        return {}
    overrides: dict[str, Any] = {"rope_parameters": rope}
    if rope["rope_type"] == "yarn":  # vLLM takes max_position_embeddings for the extended length
        overrides[_POSITIONS] = context_of(config)
    return overrides


def rope_value_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Say which values of a config.json's rotation are not of the kind that their keys have."""
    for where in ("", *SPELLINGS):
        values = (config.get(where) or {}) if where else config
        for key, largest in _LARGEST.items():
            value = values.get(key)
            if value is None or (value == 0 and key in _ZERO_IS_DEFAULT):
                continue
            if not _is_number(value) or not 0 < value <= largest:
                yield f"{key}={shown(value)}; expected a number above 0, {largest:g} at the most"
    for where in SPELLINGS:
        values = config.get(where) or {}
        for key in _TYPES:
            if not isinstance(values.get(key), str | None):
                yield f"{key}={shown(values[key])}; expected a word"
        if not isinstance(values.get("truncate"), bool | None):
            yield f"truncate={shown(values['truncate'])}; expected true or false"


def check_supported(config: Mapping[str, Any], trained: bool = True) -> None:
    """Raise an InputError if a model's rotation is not built here, in the actor as in vLLM.

    A conversion takes any rotation that is known, since config.json goes along. In training, what
    config.json describes must be what is built.

    Args:
        config: content of a config.json that `Model.from_config` takes.
        trained: whether the actor must know it; else types that vLLM alone knows are taken.
    """
    if not trained and rope_parameters(config)["rope_type"] in _NOT_BUILT:
        return
    if problems := "; ".join(_unbuilt(config)):
        raise InputError(problems)


def _unbuilt(config: Mapping[str, Any]) -> Iterator[str]:
    where = next((key for key in SPELLINGS if config.get(key)), "rope_parameters")
    given, rope = config.get(where) or {}, rope_parameters(config)
    kind = rope["rope_type"]
    if kind not in _BUILT:
        reason = _NOT_BUILT.get(kind, "it is not known") if kind else "no type"
        yield (
            f"{where} of type {shown(kind)} is not supported ({reason}); supported are "
            f"{', '.join(_BUILT)}"
        )
        return
    if given.get("type") not in (None, kind):
        yield (
            f"{where} has rope_type={shown(kind)} and type={shown(given['type'])}; remove the one "
            f"that is wrong"
        )
    for key, value in rope.items():
        if value is None:
            yield f"{where} of type {kind} has no {key}, which it needs"
    known = {*_TYPES, "rope_theta", "finetuned", *_READ[kind], *(_MSCALES * (kind == "yarn"))}
    for key, value in given.items():
        if value is None or key in known or (key == "partial_rotary_factor" and value == 1):
            continue
        if key == "attn_factor":
            yield (
                f"{where} has attn_factor={shown(value)}, which some releases of vLLM read and "
                f"transformers does not; say what is meant as attention_factor (those releases "
                f"computed attn_factor * (0.1 * ln(factor) + 1))"
            )
        else:
            yield f"{where} of type {kind} has {named(key)}, which it does not read; remove it"
    low, high = rope.get("low_freq_factor") or 0, rope.get("high_freq_factor") or 1
    if low >= high:  # engines differ in what they make of it
        yield f"{where} has low_freq_factor={low}; expected less than high_freq_factor={high}"
    if kind == "yarn" and (rope["rope_theta"] or 2) <= 1:
        yield f"rope_theta={rope['rope_theta']} with type yarn; expected a number above 1"
