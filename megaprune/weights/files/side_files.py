"""What lies beside the weights of a Hugging Face model: which files go along, and what is said.

A file goes along with what it needs: code that a tokenizer names goes with it, and what describes
other weights than those that are converted (an adapter, a quantization) stays behind.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megaprune.errors import InputError
from megaprune.weights.untrusted import (
    leads_out,
    named,
    plain_name,
    read_bytes,
    read_json_object,
    shown,
)

WEIGHT_ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".index.json", ".h5", ".msgpack")
CHAT_TEMPLATES = "additional_chat_templates"

_BESIDE_WEIGHTS = (".json", ".txt", ".jinja", ".model", ".tiktoken")
_LICENCES = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY")
_LARGEST = 1 << 30  # bytes of a file
_POINTER = b"version https://git-lfs.github.com/spec/"

_WITH_CODE = ("tokenizer_config.json", "processor_config.json", "preprocessor_config.json")
"""Files whose `auto_map` may name code beside them. That of config.json is refused with its model:
what its code computes is not known (`families.config_problems`)."""

_CODE_BYTES = 1 << 20
_IMPORT = re.compile(rb"^\s*(?:from\s+\.(\w+)\s+import|from\s+\.\s+import\s+(\w+))", re.MULTILINE)

_TOKENIZERS = (
    ("tokenizer.json",),
    ("tokenizer.model",),
    ("vocab.json", "merges.txt"),
    ("spiece.model",),
)

QUANTIZATION_KEYS = ("quantization_config", "compression_config")
"""Keys of config.json that describe a quantization."""

QUANTIZATION_FILE = "hf_quant_config.json"
"""What ModelOpt wrote beside config.json, and vLLM reads in place of such a key."""

_QUANTIZATION = "it describes a quantization, and the weights are plain"
_OF_OTHER_WEIGHTS = {
    "adapter_config.json": "it is of a PEFT adapter, which is not part of the model: if it should "
    "be, merge it first (merge_and_unload)",
    QUANTIZATION_FILE: _QUANTIZATION,
    "quant_config.json": _QUANTIZATION,
    "quantize_config.json": _QUANTIZATION,
}


def side_files(folder: Path) -> dict[str, Path]:
    """Return configuration, tokenizer and licence files of a folder, by relative name.

    Raises:
        InputError: one of them names code that is not there.
    """
    files = {name: path for name, path in _beside(folder).items() if not _left_out(path, folder)}
    return files | _code(folder, files)


def side_file_notes(folder: Path) -> list[str]:
    """Say which of such files are left behind, and why, and which are not there."""
    beside, files = _beside(folder), side_files(folder)
    notes = [
        f"{named(name)} is not copied: {reason}"
        for name, path in beside.items()
        if (reason := _left_out(path, folder))
    ]
    code = sorted(name for name in files if name not in beside)
    if code:
        notes.append(
            f"{', '.join(map(named, code))} is copied, since a tokenizer names it: it is code, and "
            f"is run by who loads the tokenizer with trust_remote_code alone"
        )
    if others := sorted(named(p.name) for p in folder.glob("*.py") if p.name not in files):
        notes.append(
            f"{', '.join(others)} {'is' if len(others) == 1 else 'are'} not copied: it is code, "
            f"and no tokenizer names it"
        )
    tokenizers = (*_TOKENIZERS, *((name,) for name in files if name.endswith(".tiktoken")))
    if not code and not any(all(part in files for part in parts) for parts in tokenizers):
        notes.append(
            f"there is no tokenizer in {folder} (no tokenizer.json, tokenizer.model, or vocab.json "
            f"with merges.txt): whoever generates with the model needs that of its original folder"
        )
    return notes


def copy_side_files(files: dict[str, Path], folder: Path) -> None:
    """Copy the files that `side_files` lists into a folder."""
    for name, path in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        with path.open("rb") as source, (folder / name).open("xb") as target:
            shutil.copyfileobj(source, target)


def without_quantization(config: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return a config.json's content without its quantization, and which method that is, if any."""
    kept = {key: value for key, value in config.items() if key not in QUANTIZATION_KEYS}
    methods = [_method(config[key]) for key in QUANTIZATION_KEYS if config.get(key) is not None]
    return kept, ", ".join(methods)


def _method(quantization: Any) -> str:
    fields = quantization if isinstance(quantization, dict) else {}
    method = fields.get("quant_method") or fields.get("quant_algo")
    return named(method) if isinstance(method, str) else shown(quantization)


def _beside(folder: Path) -> dict[str, Path]:
    return {
        str(path.relative_to(folder)): path
        for path in sorted([*folder.iterdir(), *folder.glob(f"{CHAT_TEMPLATES}/*")])
        if not path.is_dir()
        and not path.name.startswith((".", "megaprune_"))
        and not path.name.endswith(WEIGHT_ENDINGS)
        and (path.suffix in _BESIDE_WEIGHTS or path.name.startswith(_LICENCES))
    }


def _left_out(path: Path, folder: Path) -> str:
    """Say why a file is not taken along; nothing if it is."""
    if leads_out(path, folder):
        return f"it is a link that leads out of {folder}"
    if not path.is_file():
        return "it is not a file"
    if not path.name.isprintable() or "\\" in path.name:
        return "its name is not plain"
    if path.stat().st_size > _LARGEST:
        return f"it has more than {_LARGEST} bytes"
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            return "it is a pointer of Git LFS; fetch the file itself (git lfs pull)"
    return _OF_OTHER_WEIGHTS.get(path.name, "")


def _code(folder: Path, files: dict[str, Path]) -> dict[str, Path]:
    """Return the Python files that side files name in `auto_map`, and those that these import."""
    code: dict[str, Path] = {}
    waiting = [
        (module, name)
        for name in _WITH_CODE
        if name in files
        for module in _modules(read_json_object(files[name]).get("auto_map"))
    ]
    while waiting:
        module, by = waiting.pop()
        name = plain_name(f"{module}.py", f"{folder / by}")
        path = folder / name
        if name in code:
            continue
        if not path.is_file() or leads_out(path, folder):
            raise InputError(
                f"{folder / by} needs the code in {named(name)}, which is not in {folder}: fetch "
                f"it too, or take auto_map out of {named(by)} if the tokenizer loads without it"
            )
        code[name] = path
        imports = _IMPORT.findall(read_bytes(path, _CODE_BYTES))
        waiting += [((a or b).decode(), name) for a, b in imports]
    return code


def _modules(auto_map: Any) -> Iterator[str]:
    """Yield the modules beside a file that its `auto_map` names; those on the hub stay there."""
    values = list(auto_map.values()) if isinstance(auto_map, dict) else [auto_map]
    for value in values:
        for reference in value if isinstance(value, list) else [value]:
            if isinstance(reference, str) and "--" not in reference:
                yield reference.rpartition(".")[0] or reference
