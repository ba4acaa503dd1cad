"""Folders as a stranger could make them: pickles that call, archives that are programs."""

import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import torch


class Attack:
    """Pickles as a call that leaves a trace."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def text(word):
    """The steps that push a word."""
    data = str(word).encode()
    return b"X" + len(data).to_bytes(4, "little") + data


def call(module, name, *words):
    """A pickle that calls something with words."""
    arguments = b"(" + b"".join(map(text, words)) + b"t"
    return b"\x80\x02" + f"c{module}\n{name}\n".encode() + arguments + b"R."


def calls(trace):
    """Pickles that make the folder `trace`, each by another way, and what refuses them."""
    code = f"__import__('os').mkdir({str(trace)!r})"
    word = f"V{code}\n".encode()
    inner = pickle.dumps(Attack(trace))
    return {
        "a function": (pickle.dumps(Attack(trace)), "posix.mkdir"),
        "protocol 2": (pickle.dumps(Attack(trace), 2), "posix.mkdir"),
        "eval": (call("builtins", "eval", code), "builtins.eval"),
        "exec, as Python 2 called it": (call("__builtin__", "exec", code), "__builtin__.exec"),
        "a command": (call("os", "system", f"mkdir {trace}"), "os.system"),
        "another module": (call("subprocess", "getoutput", f"mkdir {trace}"), "subprocess"),
        "numpy's": (call("numpy.testing._private.utils", "runstring", code, "{}"), "runstring"),
        "a pickle inside": (
            b"\x80\x02ctorch.storage\n_load_from_bytes\nB"
            + len(inner).to_bytes(4, "little") + inner + b"\x85R.",
            "torch.storage._load_from_bytes",
        ),
        "a module to be imported": (call("importlib", "import_module", "colorsys"), "importlib"),
        "a dotted name": (
            b"\x80\x04" + text("os") + text("path.os.mkdir") + b"\x93" + text(trace) + b"\x85R.",
            "os.path.os.mkdir",
        ),
        "step INST": (b"(" + word + b"i__builtin__\neval\n.", "cannot be read"),
        "step OBJ": (b"(c__builtin__\neval\n" + word + b"o.", "__builtin__.eval"),
        "step EXT1": (b"\x80\x02\x82\x01.", "cannot be read"),
        "a call of a word": (b"\x80\x02" + text("os.mkdir") + text(trace) + b"\x85R.", "calls"),
    }  # fmt: skip


def metadata(folder, function):
    """Change the `.metadata` of a checkpoint."""
    content = pickle.loads((folder / ".metadata").read_bytes())
    function(content)
    (folder / ".metadata").write_bytes(pickle.dumps(content))


def archive(entries, compression=zipfile.ZIP_STORED):
    """A zip archive of (name, bytes)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, data in entries:
            file.writestr(name, data)
    return buffer.getvalue()


def saved(data, name="common"):
    """What torch.save would make of a pickle."""
    return archive([(f"{name}/data.pkl", data), (f"{name}/version", b"3\n")])


def torchscript(folder):
    """A TorchScript archive, as torch itself writes it."""
    path = folder / "scripted.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), str(path))
    data = path.read_bytes()
    path.unlink()
    return data


def snapshot(*folders):
    """Every path in folders, and what the files hold."""
    return {
        path: path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for folder in folders
        for path in sorted(Path(folder).rglob("*"))
    }


def edit_json(path, function):
    """Change a JSON file."""
    content = json.loads(path.read_text())
    function(content)
    path.write_text(json.dumps(content))


def write_header(path, header, data=b""):
    """Write a safetensors file with a header of any bytes."""
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def read_header(path):
    """A safetensors file's header, as bytes, and its data."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    return content[8 : 8 + size], content[8 + size :]


def own_record(folder):
    """Make a checkpoint one that a run has saved with its digests."""
    from megaprune.weights.files.checkpoint_index import CheckpointIndex
    from megaprune.weights.files.digests import CheckpointRecord, digest_parts

    index = CheckpointIndex(folder)
    places = {}
    for name, stored in index.tensors.items():
        for start, place in stored.places.items():
            places.setdefault(place.file, []).append(
                (name, list(start), place.offset, place.length)
            )
    parts = {file: digest_parts(folder / file, listed) for file, listed in places.items()}
    CheckpointRecord(1, parts=parts).write(folder)
