"""What to say of a folder that is not what a command needs: what it is, and what would do.

Names of files decide, and no file of another program is opened: their weights are pickles. Of the
cache of Hugging Face's hub, the word in `refs/main` is read.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from megaprune import schema
from megaprune.errors import InputError
from megaprune.weights.files.kind import (
    COMMON,
    INDEX,
    METADATA,
    SINGLE,
    TRACKER,
    FolderKind,
    is_checkpoint,
    iterations,
    kind_of,
    sign_of_hugging_face,
)
from megaprune.weights.untrusted import named, read_bytes

_NAMES = 5_000
"""How many names of a folder are looked at."""

_DEPTH, _FOLDERS = 4, 500
"""How deep below a folder, and in how many folders, models are looked for."""


@dataclass(frozen=True)
class KnownFormat:
    """A kind of folder that is not read, and the names that tell it.

    Args:
        what: what it is called.
        signs: patterns, each of which the whole name of something in the folder matches.
        cure: what to do with it; `{path}` is the folder.
    """

    what: str
    signs: tuple[str, ...]
    cure: str


_VERL = "python -m verl.model_merger merge --backend fsdp --local_dir {path} --target_dir MERGED"

KNOWN_FORMATS = (
    KnownFormat(
        "a checkpoint of verl's FSDP trainer, in shards",
        (r"model_world_size_\d+_rank_\d+\.pt",),
        f"Merge it into a Hugging Face folder: {_VERL}",
    ),
    KnownFormat(
        "a checkpoint of verl's Megatron trainer",
        (r"dist_ckpt",),
        "Give the Megatron-core checkpoint in it, {path}/dist_ckpt, with --hf {path}/huggingface; "
        "if that has weights, it is the whole model as a Hugging Face folder",
    ),
    KnownFormat(
        "a checkpoint of DeepSpeed",
        (r"(\w+_)?mp_rank_\d+_(\w+_)?states\.pt",),
        "Make a Hugging Face folder of it with zero_to_fp32.py, which DeepSpeed saved beside it: "
        "python zero_to_fp32.py . OUT --safe_serialization",
    ),
    KnownFormat(
        "a checkpoint in Megatron-LM's old format (--ckpt-format torch)",
        (r"mp_rank_\d+(_\d+)*|model_optim_rng\.pt|model_rng\.pt",),
        "Save it anew in Megatron-LM: the training command with --load, --ckpt-convert-format "
        "torch_dist and --ckpt-convert-save DIR",
    ),
    KnownFormat(
        "a checkpoint of NeMo 2",
        (r"context", r"weights"),
        "Give the Megatron-core checkpoint in it, {path}/weights, with --hf and a Hugging Face "
        "folder of the same model",
    ),
    KnownFormat(
        "an unpacked checkpoint of NeMo 1",
        (r"model_config\.yaml", r"model_weights(\.ckpt)?"),
        "Convert it to a Hugging Face folder or to NeMo 2 with NeMo's own scripts",
    ),
    KnownFormat(
        "Meta's original release of a Llama model",
        (r"consolidated\.\d+\.(pth|safetensors)",),
        "Give the Hugging Face folder of the model, which has config.json",
    ),
    KnownFormat(
        "a PEFT adapter, without the model that it belongs to",
        (r"adapter_config\.json",),
        "Merge it first: AutoPeftModelForCausalLM.from_pretrained({path!r})"
        ".merge_and_unload().save_pretrained(OUT)",
    ),
    KnownFormat(
        "a folder of GGUF weights, which are quantized",
        (r".+\.gguf",),
        "Give the Hugging Face folder that they were made of",
    ),
    KnownFormat(
        "a run's folder, not one of its checkpoints",
        (re.escape(schema.CONFIG_FILE), re.escape(schema.METRICS_FILE)),
        f"Give {{path}}/{schema.CHECKPOINTS_FOLDER} (the latest checkpoint is taken), a checkpoint "
        f"in it, or {{path}}/{schema.MODEL_FOLDER}",
    ),
)  # fmt: skip
"""In the order in which they are looked for."""

_DCP = KnownFormat(
    "a checkpoint of torch.distributed.checkpoint (DCP), not of Megatron-core",
    (r"\.metadata|__\d+_\d+\.distcp",),
    "Make one file of it with python -m torch.distributed.checkpoint.format_utils dcp_to_torch "
    "{path} model.pt, and save a Hugging Face folder with save_pretrained; in Megatron-LM, save "
    "with --ckpt-format torch_dist",
)

_PARTS = {"huggingface", "context"}
"""Folders in which verl and NeMo keep configuration and tokenizer beside the weights."""

_NO_MODEL = (".", "optim")
"""How names of folders begin that are not looked into: hidden ones, and states of optimizers."""

_OF_CACHE = re.compile(r"models--(?P<org>[\w.-]+?)--(?P<name>[\w.-]+)")
_ON_HUB = re.compile(r"\w[\w.-]*/\w[\w.-]*")

EITHER = "a Hugging Face model or a Megatron-core checkpoint"


def check_checkpoint(path: Path) -> None:
    """Raise an InputError unless a folder is a checkpoint, or one of several.

    Others are told what they are, and no pickle of theirs is read.
    """
    if not is_checkpoint(path) or _is_dcp(path):
        refuse(path, FolderKind.CHECKPOINT.value)


def check_hugging_face(path: Path, expected: str = FolderKind.HUGGING_FACE.value) -> None:
    """Raise an InputError that says what a path is unless it is a folder of Hugging Face's kind."""
    if kind_of(path) is not FolderKind.HUGGING_FACE or described(path):
        refuse(path, expected)


def check_described(path: Path) -> None:
    """Raise an InputError that says what a path is unless it is a config.json, or beside one."""
    is_config = path.is_file() and path.name == "config.json"
    if not is_config and not os.path.lexists(path / "config.json"):
        refuse(path, f"{FolderKind.HUGGING_FACE.value} or its config.json")


def refuse(path: Path, expected: str) -> NoReturn:
    """Raise an InputError that says what a path is, and which folder or command would do.

    Args:
        expected: the value of a `FolderKind`, or `EITHER`.
    """
    if not path.is_dir():
        raise InputError(_no_folder(path, expected))
    kind = kind_of(path)
    if description := described(path):
        what, remedy = description
        more = below(path) if any(str(model) not in remedy for model, _ in _models(path)) else ""
        raise InputError(f"{path} is {what}; expected {expected}. {remedy}{more}")
    if kind is FolderKind.HUGGING_FACE:
        raise InputError(
            f"{path} is {kind.value}: it has {sign_of_hugging_face(path)}; expected {expected}. "
            f"`megaprune convert to-megatron --hf {path} --out DIR` makes a checkpoint of it. If a "
            f"checkpoint lies there too, move it to a folder of its own"
        )
    if kind is FolderKind.CHECKPOINTS and not iterations(path):
        raise InputError(
            f"{path} has {TRACKER}, but no checkpoint of Megatron-core; expected {expected}"
            f"{below(path)}"
        )
    if is_checkpoint(path):
        raise InputError(
            f"{path} is {kind.value}; expected {expected}. `megaprune convert to-hf --megatron "
            f"{path} --out DIR` makes a Hugging Face folder of it"
        )
    raise InputError(
        f"{path} is {kind.value}: {path / METADATA} is not there, nor {TRACKER} nor config.json; "
        f"expected {expected}{below(path)}"
    )


def described(path: Path) -> tuple[str, str] | None:
    """Say what a folder is that is not read, with the name that tells it, and what would do.

    Returns None if nothing is known of it, or if it has weights of a Hugging Face model.
    """
    if (path / INDEX).exists() or (path / SINGLE).exists():
        return None
    if cached := _cached(path):
        return cached
    names = _names(path)
    for known in (*KNOWN_FORMATS, *([_DCP] if _is_dcp(path) else [])):
        seen = [next((n for n in names if re.fullmatch(s, n)), None) for s in known.signs]
        if None not in seen:
            sign = f"{known.what}: it has {named(str(seen[0]))}"
            return sign, known.cure.replace("{path!r}", repr(str(path))).replace(
                "{path}", str(path)
            )
    if path.name in _PARTS and (above := described(path.parent)):
        return f"a part of {path.parent}, {above[0]}", above[1]
    return None


def below(path: Path) -> str:
    """Name the models below a folder, or a folder of another program's; nothing if none is."""
    if models := [f"{folder} ({kind.value})" for folder, kind in _models(path)]:
        more = f" and {len(models) - 3} more" if len(models) > 3 else ""
        return f". Below it: {', '.join(models[:3])}{more}"
    for folder in _folders(path):
        if description := described(folder):
            what, remedy = description
            return f". Below it, {folder} is {what}. {remedy}"
    return ""


def _models(path: Path) -> list[tuple[Path, FolderKind]]:
    """List the models below a folder."""
    return [(folder, kind) for folder in _folders(path) if (kind := _model(folder))]


def _model(folder: Path) -> FolderKind | None:
    """Return which kind of model a folder has, if it has one with weights."""
    kind = kind_of(folder)
    if kind is FolderKind.HUGGING_FACE:
        return kind if (folder / INDEX).exists() or (folder / SINGLE).exists() else None
    if kind is FolderKind.CHECKPOINT:
        return kind if (folder / METADATA).is_file() else None
    return kind if kind is FolderKind.CHECKPOINTS and iterations(folder) else None


def _folders(path: Path) -> Iterator[Path]:
    """Yield folders below another, the nearest and latest first, and none below a model."""
    queue, looked_at = deque([(path, 0)]), 0
    while queue and looked_at < _FOLDERS:
        folder, depth = queue.popleft()
        looked_at += 1
        if depth:
            yield folder
            if _model(folder):
                continue
        if depth < _DEPTH:
            inner = (folder / n for n in _names(folder) if not n.startswith(_NO_MODEL))
            queue.extend((f, depth + 1) for f in inner if f.is_dir() and not f.is_symlink())


def _names(path: Path) -> list[str]:
    """Return the names in a folder, those of later steps before those of earlier ones."""
    try:
        with os.scandir(path) as entries:
            names = [entry.name for entry, _ in zip(entries, range(_NAMES), strict=False)]
    except OSError:  # not a folder, or not ours to read: nothing can be said of it
        return []
    return sorted(names, key=_parts)


def _parts(name: str) -> list[str | int]:
    """Split a name into words and numbers; larger numbers, which are later steps, come first."""
    return [-int(p) if n % 2 else p for n, p in enumerate(re.split(r"([0-9]+)", name))]


def _is_dcp(path: Path) -> bool:
    return not any(os.path.lexists(path / name) for name in (METADATA, COMMON, TRACKER)) and any(
        re.fullmatch(_DCP.signs[0], name) for name in _names(path)
    )


def _cached(path: Path) -> tuple[str, str] | None:
    """Say which part of Hugging Face's cache a folder is, if any, and where its models are."""
    whole = path.resolve()
    model = whole.parent if whole.name in ("snapshots", "blobs", "refs") else whole
    if match := _OF_CACHE.fullmatch(model.name):
        snapshots = _snapshots(model)
        what = f"the folder of {match['org']}/{match['name']} in the cache of Hugging Face's hub"
        if not snapshots:
            return what, "No model in it is complete: fetch it again"
        return what, f"Give {' or '.join(map(str, snapshots[:3]))}"
    models = [name for name in _names(path) if _OF_CACHE.fullmatch(name)]
    latest = [snapshots[0] for name in models if (snapshots := _snapshots(path / name))]
    if not models:
        return None
    more = f" and {len(latest) - 3} more" if len(latest) > 3 else ""
    return (
        "a cache of Hugging Face's hub, with several models",
        f"Give one of {', '.join(map(str, latest[:3]))}{more}"
        if latest
        else "No model in it is complete",
    )


def _snapshots(model: Path) -> list[Path]:
    """Return the revisions of a model in the cache: that of `refs/main`, then the latest."""
    folders = [model / "snapshots" / name for name in _names(model / "snapshots")]
    complete = [folder for folder in folders if folder.is_dir() and any(folder.iterdir())]
    main = ""
    if (model / "refs" / "main").is_file():
        main = read_bytes(model / "refs" / "main", 100).decode(errors="replace").strip()
    return sorted(complete, key=lambda f: (f.name != main, -f.stat().st_mtime))


def _no_folder(path: Path, expected: str) -> str:
    """Say what a path is that is no folder: a file, a name on Hugging Face's hub, or nothing."""
    if path.exists() or path.is_symlink():
        text = f"{path} is not a folder; expected {expected}"
        if path.suffix == ".nemo":
            return f"{text}. It is an archive of NeMo 1: convert it with NeMo's own scripts"
        return f"{text}. Give its folder, {path.parent}" if _model(path.parent) else text
    text = f"{path} is not a folder: nothing of this name is there; expected {expected}"
    name = str(path)
    if not _ON_HUB.fullmatch(name) or path.parent.is_dir():
        return text
    home = os.environ.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")
    if cached := _snapshots(cache / f"models--{name.replace('/', '--')}"):
        return f"{text}. Names on Hugging Face's hub are not looked up; give its cache, {cached[0]}"
    return (
        f"{text}. Names on Hugging Face's hub are not looked up: if it is one, fetch it with `hf "
        f"download {name} --local-dir {path.name}` and give {path.name}"
    )
