"""The arguments that Megatron-LM stores beside the weights, in config.json's terms."""

from __future__ import annotations

import argparse
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from megaprune.errors import InputError


def training_arguments(common: Path) -> argparse.Namespace | None:
    """Read the `args` that Megatron-LM keeps in common.pt, if it does."""
    if not common.is_file():
        return None
    if not zipfile.is_zipfile(common):
        raise InputError(
            f"{common} cannot be read: it is damaged, or was saved by a torch before 1.6"
        )
    try:
        state = torch.load(
            common, map_location="cpu", weights_only=False, pickle_module=_InertPickle
        )
    except Exception as error:  # unpickling a damaged file can raise anything
        raise InputError(f"{common} cannot be read: {error!r}") from error
    args = state.get("args") if isinstance(state, dict) else None
    return args if isinstance(args, argparse.Namespace) else None


class _Inert:
    """Stands for an object of a class that is not needed: it takes anything and does nothing."""

    def __init__(self, *_: Any, **__: Any):
        pass

    def _ignore(self, *_: Any) -> None:
        pass

    __setstate__ = __setitem__ = append = extend = add = _ignore


class _InertPickle:
    """A pickle module that makes namespaces and dictionaries and runs no code of the file's choice.

    What a trainer pickles beside them (enums and classes of its own) need not be importable here.
    """

    class Unpickler(pickle.Unpickler):
        """Knows a few harmless classes by name."""

        def find_class(self, module: str, name: str) -> Any:
            """Return the class if it is harmless, else a class that stands for it."""
            if (module, name) in {
                ("argparse", "Namespace"),
                ("types", "SimpleNamespace"),
                ("collections", "OrderedDict"),
            }:
                return super().find_class(module, name)
            return type(name, (_Inert,), {})


def as_config(args: argparse.Namespace, config: dict[str, Any]) -> dict[str, Any]:
    """Write Megatron-LM's arguments in config.json's terms; what they do not say stays as it is."""
    spelled = {
        "num_hidden_layers": getattr(args, "num_layers", None),
        "hidden_size": getattr(args, "hidden_size", None),
        "intermediate_size": getattr(args, "ffn_hidden_size", None),
        "num_attention_heads": getattr(args, "num_attention_heads", None),
        "head_dim": getattr(args, "kv_channels", None),
        "rms_norm_eps": getattr(args, "norm_epsilon", None),
    }
    if getattr(args, "group_query_attention", False):
        spelled["num_key_value_heads"] = getattr(args, "num_query_groups", None)
    if hasattr(args, "untie_embeddings_and_output_weights"):
        spelled["tie_word_embeddings"] = not args.untie_embeddings_and_output_weights
    base = getattr(args, "rotary_base", None)
    result = {**config, **{k: v for k, v in spelled.items() if v is not None}}
    if base is not None:
        result["rope_parameters"] = {**(config.get("rope_parameters") or {}), "rope_theta": base}
    return result
