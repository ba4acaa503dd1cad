"""The arguments that Megatron-LM stores beside the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megaprune.errors import InputError
from megaprune.weights.files.archive import Archive, FilePart, storage_type
from megaprune.weights.files.checkpoint_metadata import StoredPart, known_in_metadata
from megaprune.weights.files.pickled import Made, Name
from megaprune.weights.untrusted import shown

_COMMON_BYTES = 64 << 20
"""How long that state may be: it has settings and counters, no weights."""

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
    "torch.nn.functional": {"gelu", "relu", "silu"},
    "torch._C._nn": {"gelu", "silu"},
    "torch.storage": {"UntypedStorage"},
    "torch._utils": {"_rebuild_parameter", "_rebuild_tensor_v2", "_rebuild_tensor_v3"},
    **dict.fromkeys(
        ("builtins", "__builtin__"),
        {"bytearray", "complex", "dict", "float", "frozenset", "int", "list", "range", "set",
         "slice", "tuple"},
    ),
}  # fmt: skip
"""What torch and Megatron-core pickle there, besides classes of Megatron's own."""

_NAMESPACES = {Name("argparse", "Namespace"), Name("types", "SimpleNamespace")}


def training_arguments(file: Path, part: StoredPart, trust: bool = False) -> dict[str, Any]:
    """Read the `args` that Megatron-LM keeps with what is not divided among ranks.

    Args:
        file: common.pt, or one with tensors.
        part: where in it the state is, as `torch.save` wrote it.
        trust: pass over objects of classes that neither Megatron-core nor torch write there,
            instead of refusing them. They are not made or run either way.

    Returns:
        Values by name; functions and types are there by their own names, and what is grouped (as
        Megatron-LM's YAML files do) is there without its groups. Empty if none are stored.

    Raises:
        InputError: the file is damaged, names what is not known, or has arguments of a kind that
            cannot be read.
    """
    if part.length > _COMMON_BYTES:
        raise InputError(f"{file} has {part.length} bytes; expected at most {_COMMON_BYTES}")
    with FilePart(file, part.offset, part.length, budget=2 * _COMMON_BYTES) as stream:
        state = Archive(stream, str(file)).content((lambda _: True) if trust else _known)
    if isinstance(state, list) and len(state) == 1:  # so objects beside tensors are stored
        (state,) = state
    args = state.get("args") if isinstance(state, dict) else None
    if args is None:
        return {}
    fields = _fields(args)
    if fields is None and trust:
        return {}
    if fields is None:
        raise InputError(
            f"{file} has args of a kind that is not known, {shown(args)}; expected the Namespace "
            f"that Megatron-LM stores. What it says of the model cannot be compared"
        )
    plain: dict[str, Any] = {}
    for name, value in fields.items():
        group = _fields(value) if isinstance(value, Made) else None
        plain |= {name: value} if group is None else group
    return {name: str(value) if isinstance(value, Name) else value for name, value in plain.items()}


def _fields(args: Any) -> dict[str, Any] | None:
    """Return the fields of a namespace or dictionary; None if it is neither."""
    if isinstance(args, Made) and args.maker in _NAMESPACES:
        args = args.state if args.state is not None else {}
    if not isinstance(args, dict) or not all(isinstance(name, str) for name in args):
        return None
    return args


def _known(name: Name) -> bool:
    """Say whether torch or Megatron write the name there."""
    return (
        name.name in _CLASSES.get(name.module, ())
        or name.module.partition(".")[0] == "megatron"
        or known_in_metadata(name)
        or storage_type(name) is not None
    )
