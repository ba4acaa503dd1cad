"""The arguments that Megatron-LM stores beside the weights, in config.json's terms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megaprune.errors import InputError
from megaprune.weights.files.archive import Archive, FilePart, storage_type
from megaprune.weights.files.checkpoint_metadata import known_in_metadata
from megaprune.weights.files.pickled import Made, Name
from megaprune.weights.rope import with_theta
from megaprune.weights.untrusted import shown

_COMMON_BYTES = 64 << 20
"""How long common.pt may be: it has settings and counters, no weights."""

_CLASSES = {
    "argparse": {"Namespace"},
    "types": {"SimpleNamespace"},
    "collections": {"OrderedDict", "Counter", "defaultdict", "deque"},
    "datetime": {"datetime", "timedelta"},
    "signal": {"Signals"},
    "_codecs": {"encode"},
    "numpy": {"dtype", "ndarray"},
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.numeric": {"_frombuffer"},
    "numpy.core.numeric": {"_frombuffer"},
    "torch": {"device"},
    "torch.storage": {"UntypedStorage"},
    "torch._utils": {"_rebuild_parameter", "_rebuild_tensor_v2", "_rebuild_tensor_v3"},
    **dict.fromkeys(
        ("builtins", "__builtin__"),
        {"bytearray", "complex", "dict", "float", "frozenset", "int", "list", "range", "set",
         "slice", "tuple"},
    ),
}  # fmt: skip
"""What torch and Megatron-core pickle there, besides classes of Megatron's own."""

_NAMESPACES = {Name("argparse", "Namespace")}


def training_arguments(common: Path, trust: bool = False) -> dict[str, Any] | None:
    """Read the `args` that Megatron-LM keeps in common.pt, if it does.

    Args:
        trust: pass over objects of classes that neither Megatron-core nor torch write there,
            instead of refusing them. They are not made or run either way.

    Raises:
        InputError: the file is damaged, or names what is not known.
    """
    if not common.is_file():
        return None
    size = common.stat().st_size
    if size > _COMMON_BYTES:
        raise InputError(f"{common} has {size} bytes; expected at most {_COMMON_BYTES}")
    with FilePart(common, 0, size, budget=2 * _COMMON_BYTES) as file:
        state = Archive(file, str(common)).content((lambda _: True) if trust else _known)
    args = state.get("args") if isinstance(state, dict) else None
    if not isinstance(args, Made) or args.maker not in _NAMESPACES:
        return None
    if not isinstance(args.state, dict):
        raise InputError(f"{common} cannot be read: its args are {shown(args.state)}")
    return args.state


def _known(name: Name) -> bool:
    """Say whether torch or Megatron write the name into common.pt."""
    return (
        name.name in _CLASSES.get(name.module, ())
        or name.module.partition(".")[0] == "megatron"
        or known_in_metadata(name)
        or storage_type(name) is not None
    )


def as_config(args: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Write Megatron-LM's arguments in config.json's terms; what they do not say stays as it is."""
    plain = {
        name: value for name, value in args.items() if isinstance(value, bool | int | float | str)
    }
    spelled = {
        "num_hidden_layers": plain.get("num_layers"),
        "hidden_size": plain.get("hidden_size"),
        "intermediate_size": plain.get("ffn_hidden_size"),
        "num_attention_heads": plain.get("num_attention_heads"),
        "head_dim": plain.get("kv_channels"),
        "rms_norm_eps": plain.get("norm_epsilon"),
    }
    if plain.get("group_query_attention", False):
        spelled["num_key_value_heads"] = plain.get("num_query_groups")
    if "untie_embeddings_and_output_weights" in plain:
        spelled["tie_word_embeddings"] = not plain["untie_embeddings_and_output_weights"]
    base = plain.get("rotary_base")
    result = {**config, **{k: v for k, v in spelled.items() if v is not None}}
    return result if base is None else with_theta(result, base)
