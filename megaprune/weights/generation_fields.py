"""What a Hugging Face folder says of generating: apart from what its model computes.

Programs take it from generation_config.json where that has a field, else from config.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megaprune.errors import InputError
from megaprune.weights.families import GENERATION_KEYS
from megaprune.weights.untrusted import named, read_json_object, shown

_FILE = "generation_config.json"

_NOT_COMPARED = {
    # What made the file, and what is given back beside the tokens.
    "_from_model_config",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "return_dict_in_generate",
    "transformers_version",
    "use_cache",
}

Described = tuple[Mapping[str, Any], Path]
"""The content of a config.json, and the folder (or the file) that it is from."""


def generation_differences(first: Described, second: Described) -> list[str]:
    """List the fields of generation that differ, as "field: in `first`, in `second`"."""
    try:
        a, b = _fields(*first), _fields(*second)
    except InputError as error:
        return [str(error)]
    return [
        f"{named(key)}: {_shown(a.get(key))} against {_shown(b.get(key))}"
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key)
    ]


def _fields(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    path = (folder if folder.is_dir() else folder.parent) / _FILE
    fields = {key: config[key] for key in GENERATION_KEYS if key in config}
    fields.update(read_json_object(path) if path.is_file() else {})
    return {
        key: _normalised(value)
        for key, value in fields.items()
        if value is not None and key not in _NOT_COMPARED
    }


def _normalised(value: Any) -> Any:
    """Several tokens that end a response are a set, and one is a set of one."""
    if isinstance(value, list) and all(isinstance(v, int) for v in value):
        value = sorted(set(value))
        return value[0] if len(value) == 1 else value
    return value


def _shown(value: Any) -> str:
    return "nothing" if value is None else shown(value)
