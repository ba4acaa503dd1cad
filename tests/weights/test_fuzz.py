"""Folders with anything in them: refused as input errors, soon, and nothing is written.

`MEGAPRUNE_FUZZ=2000` tries so many inputs of each kind, from the seed `MEGAPRUNE_FUZZ_SEED`.
"""

import argparse
import io
import json
import os
import pickle
import random
import shutil
import time
import warnings
import zipfile

import pytest
import torch
from strangers import Attack, archive, calls, own_record, read_header, write_header

from megaprune.errors import InputError
from megaprune.weights.boxes import Box
from megaprune.weights.files import HfFolder, MegatronFolder, digests, open_folder
from megaprune.weights.inspect import inspect
from megaprune.weights.rope import check_supported
from megaprune.weights.verify import verify_manifest

INPUTS = int(os.environ.get("MEGAPRUNE_FUZZ", "40"))
SEED = int(os.environ.get("MEGAPRUNE_FUZZ_SEED", "1"))
SECONDS = 10.0
"""Of CPU time, for one input; all but the bombs take milliseconds."""

NUMBERS = [0, 1, -1, 2**31, 2**63, 2**64, 10**30, 0.5, 1e308, -0.0, True, False, None]
WORDS = [
    "",
    ".",
    "..",
    "/",
    "../x",
    "/etc/passwd",
    "\x00",
    "\x1b[2J",
    "\ud800",
    "F32",
    "true",
    "é" * 300,
]


NAMES = ["a", "c/code/x.py", "x/constants.pkl", "a" * 300, "/", "../data.pkl"]


def any_value(draw, depth=3):
    """Something that JSON has."""
    kind = draw.random()
    if depth and kind < 0.2:
        return [any_value(draw, depth - 1) for _ in range(draw.randrange(4))]
    if depth and kind < 0.4:
        return {draw.choice(WORDS): any_value(draw, depth - 1) for _ in range(draw.randrange(4))}
    return draw.choice(NUMBERS if kind < 0.7 else WORDS)


def places(content, path=()):
    """Every place in a JSON value."""
    yield path
    inner = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content)
        if isinstance(content, list)
        else ()
    )
    for key, value in inner:
        yield from places(value, (*path, key))


def changed_json(draw, text):
    """JSON with a value replaced, removed or moved, or the text itself changed."""
    if draw.random() < 0.3:
        return changed_bytes(draw, text)
    content = json.loads(text)
    for _ in range(draw.choice((1, 1, 1, 3))):
        everywhere = list(places(content))
        path = draw.choice(everywhere)
        if not path:
            content = any_value(draw) if draw.random() < 0.1 else content
            continue
        inner = content
        for key in path[:-1]:
            inner = inner[key]
        way = draw.random()
        if way < 0.6:
            inner[path[-1]] = any_value(draw)
        elif way < 0.75:
            del inner[path[-1]]
        elif isinstance(inner, dict):
            inner[draw.choice(WORDS)] = inner.pop(path[-1])
        else:
            inner.append(any_value(draw))
    return json.dumps(content).encode()


PIECES = [
    b"[" * 2000, b'{"a":' * 2000, b"]", b"NaN", b"1e999", b"-", b"9" * 5000, b'"\\ud800"', b"\xff",
    b"\x00" * 8, b"\xff" * 8,
]  # fmt: skip
STEPS = [
    b"cos\nsystem\n", b"R", b"b", b"\x81", b"\x92", b"o", b"ios\nsystem\n", b"\x82\x01", b"(", b")",
    b"]", b"}", b"t", b"a", b"e", b"s", b"u", b"0", b"1", b"2", b"N", b"\x94", b"h\x00", b"j\x01\x00\x00\x00",
    b"r\xff\xff\xff\x7f", b"\x8b\xff\xff\xff\x7f", b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\x96\xff\xff\xff\xff\xff\xff\xff\x0f", b"\x95\xff\xff\xff\xff\xff\xff\xff\x0f", b"\x85" * 500,
    b"2\x86" * 100, b"Q", b".", b"\x8f", b"\x90", b"\x91", b"K\x01", b"J\xff\xff\xff\xff",
    b"ctorch\nSize\n", b"\x80\x05", b"X\x03\x00\x00\x00abc", b"G\x7f\xf8\x00\x00\x00\x00\x00\x00",
    *(data[2:-1] for data, _ in calls("/nowhere/megaprune").values()),
]  # fmt: skip


def changed_bytes(draw, data, pieces=PIECES):
    """Bytes with some flipped, cut, doubled, moved, or something put between."""
    data = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8))):
        at, way = draw.randrange(len(data) + 1), draw.random()
        length = draw.choice((1, 1, 2, 8, 100))
        if way < 0.3 and at < len(data):
            data[at] = draw.randrange(256)
        elif way < 0.4:
            del data[at : at + length]
        elif way < 0.5:
            data[at:at] = data[at : at + length]
        elif way < 0.6:
            other = draw.randrange(len(data) + 1)
            data[at : at + length] = data[other : other + length]
        elif way < 0.65:
            del data[at:]
        else:
            data[at:at] = draw.choice(pieces)
    return bytes(data)


def changed_metadata(draw, data):
    """`.metadata` with bytes or steps changed, or an object of it given another value."""
    if draw.random() < 0.5:
        return changed_bytes(draw, data, STEPS)
    content = pickle.loads(data)
    objects = [content, *content.state_dict_metadata.values(), *content.storage_data.values()]
    for stored in content.state_dict_metadata.values():
        objects += [*getattr(stored, "chunks", ())]
    target = draw.choice(objects)
    fields = vars(target)
    if not fields:
        return data
    values = [
        *NUMBERS,
        *WORDS[:-4],
        (),
        (1, 2, 3),
        [],
        {},
        torch.float32,
        content,
        target,
        (0,) * 40,
    ]
    fields[draw.choice(list(fields))] = draw.choice(values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pickle.dumps(content, draw.choice((2, 4, 5)))


def changed_archive(draw, data):
    """An archive of torch.save's with its pickle or its own bytes changed."""
    if draw.random() < 0.4:
        return changed_bytes(draw, data, [*PIECES, *STEPS])
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        entries = [(entry.filename, file.read(entry)) for entry in file.infolist()]
    number = draw.choice([0, 0, 0, draw.randrange(len(entries))])
    name, content = entries[number]
    entries[number] = (
        (draw.choice(NAMES), content)
        if draw.random() < 0.1
        else (name, changed_bytes(draw, content, STEPS))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return archive(entries, draw.choice((zipfile.ZIP_STORED,) * 9 + (zipfile.ZIP_DEFLATED,)))


def changed_record(draw, text):
    """A record of digests that somebody made up, with its own digest right or not."""
    changed = changed_json(draw, text)
    try:
        content = json.loads(changed)
        content.pop("sha256")
        content["sha256"] = digests._own_digest(content)
        return json.dumps(content).encode()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return changed


def look(folder):
    """Read all of a folder that is read before a conversion, and the first elements."""
    inspect(folder)
    digests.check_whole(folder, "full")
    opened = open_folder(folder)
    check_supported(opened.config)
    for parameter in opened.layout.ranks[0]:
        first = Box((0,) * len(parameter.shape), (1,) * len(parameter.shape))
        opened.read(parameter.name, first)
    verify_manifest(folder, lambda *_: lambda *_: None)


KINDS = {
    "config.json": ("hf", "config.json", changed_json),
    "kept config.json": ("megatron", "hf/config.json", changed_json),
    "index": ("sharded", "model.safetensors.index.json", changed_json),
    "header": ("hf", "model.safetensors", None),
    "manifest": ("hf", "megaprune_manifest.json", changed_json),
    "metadata.json": ("megatron", "metadata.json", changed_json),
    ".metadata": ("megatron", ".metadata", changed_metadata),
    "common.pt": ("megatron", "common.pt", changed_archive),
    "digests": ("own", "megaprune_checkpoint.json", changed_record),
    "stored tensors": ("megatron", "__0_0.distcp", None),
}


@pytest.fixture(scope="module")
def folders(tiny_models, tmp_path_factory):
    """A folder of each format, with manifests: what is verified is whole."""
    from transformers import AutoModelForCausalLM

    from megaprune.cli.main import main

    root = tmp_path_factory.mktemp("fuzz")
    model = AutoModelForCausalLM.from_pretrained(tiny_models["qwen2"])
    model.save_pretrained(root / "sharded", max_shard_size="140KB")
    made = {"hf": root / "hf", "megatron": root / "megatron", "sharded": root / "sharded"}
    shutil.copytree(tiny_models["qwen2"], made["hf"])
    quiet = ("--json",)
    out = ("--out", str(made["megatron"]), *quiet)
    assert main(["convert", "to-megatron", "--hf", str(made["hf"]), *out]) == 0
    for folder in ("hf", "sharded"):
        words = ["convert", "verify", str(made["megatron"]), str(made[folder]), *quiet]
        assert main(words) == 0
    state = {
        "args": argparse.Namespace(seed=1, lr=0.1, num_layers=4, params_dtype=torch.float32),
        "iteration": 3,
    }
    torch.save(state, made["megatron"] / "common.pt")
    made["own"] = shutil.copytree(made["megatron"], root / "own")
    (made["own"] / ".megaprune_files.json").unlink()
    own_record(made["own"])
    for folder in made.values():
        look(folder)
    return made


def tree(root):
    return {path: path.lstat().st_mtime_ns for path in root.rglob("*")}


@pytest.mark.timeout(600 + INPUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_any_content(folders, kind):
    name, file, change = KINDS[kind]
    folder, draw = folders[name], random.Random(f"{kind} {SEED}")
    path = folder / file
    whole = path.read_bytes()
    header, data = read_header(path) if kind == "header" else (b"", b"")
    before = tree(folder.parent)
    refused = 0
    try:
        for number in range(INPUTS):
            if kind == "header":
                write_header(path, changed_json(draw, header), data)
            elif kind == "stored tensors":
                path.write_bytes(changed_bytes(draw, whole, STEPS))
            else:
                path.write_bytes(change(draw, whole))
            began = time.process_time()
            for read in (look, HfFolder, MegatronFolder):
                try:
                    read(folder)
                except InputError as error:
                    refused += read is look
                    said = str(error)
                    assert len(said) < 3000, (number, said)
                    assert said.isprintable(), (number, said)
                except Exception as error:
                    kept = folder.parent / f"kept-{kind.replace(' ', '-')}-{number}"
                    shutil.copy(path, kept)
                    raise AssertionError(f"{kind} {number}, kept as {kept}: {error!r}") from error
            assert time.process_time() - began < SECONDS, (kind, number)
    finally:
        path.write_bytes(whole)
    assert {**tree(folder.parent), path: 0} == {**before, path: 0}
    assert refused > INPUTS / 4, "hardly anything of this was wrong"


def test_the_inputs_would_call(tmp_path):
    """What is put between runs in Python's own pickle."""
    pickle.loads(pickle.dumps(Attack(tmp_path / "trace")))
    assert (tmp_path / "trace").is_dir()
