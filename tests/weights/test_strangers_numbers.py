"""Numbers, names and links of a stranger's folder that cannot be meant are refused by name."""

import json
import os
import shutil
import socket
import time

import pytest
import torch
from strangers import edit_json, metadata, own_record, snapshot, write_header
from strangers import read_header as header_of
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, TensorProperties

from megaprune.errors import InputError
from megaprune.weights.files import digests
from megaprune.weights.files.hf_folder import HfFolder, read_header
from megaprune.weights.model import Model, read_config

Q_PROJ = "model.layers.2.self_attn.q_proj.weight"
QKV = "decoder.layers.self_attention.linear_qkv.weight"
FC1 = "decoder.layers.mlp.linear_fc1.weight"
INDEX = "model.safetensors.index.json"
DEEP = 100_000


@pytest.fixture
def refused(convert, tmp_path):
    """Run commands that must be refused in one line with all the words in it, and soon."""

    def run(words, *arguments):
        before, began = snapshot(tmp_path), time.process_time()
        done = convert(*arguments)
        assert time.process_time() - began < 10
        assert done.status == 1
        assert done.err.lstrip().startswith("megaprune: error: ")
        assert done.err.strip().count("\n") == 0
        assert len(done.err) < 2000
        assert [word for word in words if word not in done.err] == [], done.err
        assert snapshot(tmp_path) == before

    return run


CONFIG = {
    "layers": ({"num_hidden_layers": 10**8}, "num_hidden_layers is 100000000"),
    "more layers": ({"num_hidden_layers": 10**400}, "num_hidden_layers is"),
    "layers that are not whole": ({"num_hidden_layers": 4.0}, "num_hidden_layers is 4.0"),
    "layers below zero": ({"num_hidden_layers": -4}, "num_hidden_layers is -4"),
    "layers that are true": ({"num_hidden_layers": True}, "num_hidden_layers is True"),
    "width": ({"hidden_size": 2**40}, "hidden_size is 1099511627776"),
    "vocabulary": ({"vocab_size": 10**12}, "vocab_size is 1000000000000"),
    "heads": ({"num_attention_heads": 10**9}, "num_attention_heads is 1000000000"),
    "key heads": ({"num_key_value_heads": [2]}, "num_key_value_heads is [2]"),
    "head": ({"head_dim": 10**9}, "head_dim is 1000000000"),
    "width of the MLP": ({"intermediate_size": {"a": 1}}, "intermediate_size is {'a': 1}"),
    "epsilon": ({"rms_norm_eps": "1e-6"}, "rms_norm_eps='1e-6'"),
    "epsilon below zero": ({"rms_norm_eps": -1.0}, "rms_norm_eps=-1.0"),
    "epsilon of a list": ({"rms_norm_eps": [1e-6]}, "rms_norm_eps=[1e-06]"),
    "rotation": ({"rope_theta": 1e300}, "rope_theta=1e+300"),
    "rotation in words": ({"rope_parameters": {"rope_theta": "a"}}, "rope_theta='a'"),
    "rotation of a kind that is a list": (
        {"rope_parameters": {"rope_type": ["default"]}}, "rope_type=['default']",
    ),
    "factor": ({"rope_scaling": {"rope_type": "linear", "factor": 1e9}}, "factor=1000000000.0"),
    "context": ({"max_position_embeddings": "long"}, "max_position_embeddings='long'"),
    "context with a fraction": ({"max_position_embeddings": 5.5}, "max_position_embeddings=5.5"),
    "tied in words": ({"tie_word_embeddings": "false"}, "tie_word_embeddings='false'"),
    "layer types that cannot be compared": ({"layer_types": [{}]}, "layer_types=[{}]"),
    "architectures in lists": ({"architectures": [[["Qwen2ForCausalLM"]]]}, "is not supported"),
    "a key with commands": ({"\x1b[2J": 1}, r"'\x1b[2J'=1 is not known"),
    "a key of a megabyte": ({"k" * 2**20: 1}, "'kkkk"),
    "a value of a megabyte": ({"novel": "v" * 2**20}, "novel='vvv"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIG)
def test_config(hf, megatron, tmp_path, refused, name):
    change, words = CONFIG[name]
    for folder in (hf, megatron / "hf"):
        edit_json(folder / "config.json", lambda content: content.update(change))
    refused([str(hf / "config.json"), words], "inspect", hf)
    refused([str(hf / "config.json")], "to-megatron", "--hf", hf, "--out", tmp_path / "out")
    refused([words], "to-hf", "--megatron", megatron, "--out", tmp_path / "out")


TEXTS = {
    "lists in lists": "[" * DEEP + "]" * DEEP,
    "lists that do not end": "[" * DEEP,
    "objects in objects": '{"a":' * DEEP + "1" + "}" * DEEP,
    "lists in a key": '{"bad_words_ids": ' + "[" * 60 + "]" * 60 + "}",
    "a number that is none": '{"rms_norm_eps": NaN}',
    "a number without end": '{"rms_norm_eps": Infinity}',
    "a number of a million digits": '{"vocab_size": ' + "9" * 1_000_000 + "}",
    "a name twice": '{"vocab_size": 509, "hidden_size": 64, "vocab_size": 510}',
    "a name twice inside": '{"rope_parameters": {"factor": 1, "factor": 2}}',
    "the same name, spelled with an escape": '{"vocab_size": 509, "vocab\\u005fsize": 510}',
    "half a pair": '"\\ud800"',
    "a number": "7",
    "bytes": "\x00\x01",
    "too long": '{"a": "' + "x" * (17 << 20) + '"}',
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("file", ["config.json", INDEX, "metadata.json"])
def test_json(hf, megatron, tmp_path, refused, name, file):
    folder = megatron if file == "metadata.json" else hf
    (folder / file).write_text(TEXTS[name], encoding="utf-8")
    refused([str(folder / file)], "inspect", folder)
    with pytest.raises(InputError):
        read_config(folder / file)


@pytest.mark.parametrize("name", TEXTS)
def test_safetensors_header(hf, tmp_path, refused, name):
    write_header(hf / "model.safetensors", TEXTS[name].encode())
    refused([str(hf / "model.safetensors"), "header"], "inspect", hf)


@pytest.mark.parametrize(
    "change",
    [
        {"data_offsets": [0.0, 16384.0]}, {"data_offsets": [False, 16384]},
        {"data_offsets": ["0", "16384"]}, {"data_offsets": [0]}, {"data_offsets": [0, 1, 2]},
        {"data_offsets": {"0": 1, "1": 2}}, {"data_offsets": [0, 2**70]}, {"data_offsets": None},
        {"data_offsets": [16384, 0]}, {"data_offsets": "ab"}, {"data_offsets": [[0], [16384]]},
        {"shape": [64.0, 64]}, {"shape": [-64, -64]}, {"shape": [2**40, 2**40]}, {"shape": 4096},
        {"shape": [True, 4096]}, {"shape": [1] * 10_000 + [64, 64]}, {"shape": [[64, 64]]},
        {"shape": {"64": 64}}, {"shape": [64, 10**300]}, {"shape": []}, {"shape": [0, 64]},
        {"dtype": ["F32"]}, {"dtype": "F32 "}, {"dtype": None}, {"dtype": "x" * 2**20},
        {"dtype": "\x1b[2J"},
    ],
    ids=lambda change: str(change)[:60],
)  # fmt: skip
def test_a_tensor_of_a_safetensors_header(hf, refused, change):
    header, data = header_of(hf / "model.safetensors")
    content = json.loads(header)
    content[Q_PROJ].update(change)
    write_header(hf / "model.safetensors", json.dumps(content).encode(), data)
    refused([str(hf / "model.safetensors"), Q_PROJ], "inspect", hf)


@pytest.mark.parametrize("twice", [Q_PROJ, "__metadata__"])
def test_names_twice_in_a_safetensors_header(hf, refused, twice):
    header, data = header_of(hf / "model.safetensors")
    content = json.loads(header)
    text = header.rstrip()[:-1] + b"," + json.dumps({twice: content[twice]}).encode()[1:]
    write_header(hf / "model.safetensors", text, data)
    refused([str(hf / "model.safetensors"), twice, "is given twice"], "inspect", hf)


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 2**40, 100_000_000, 17 << 20])
def test_a_safetensors_header_of_absurd_length(hf, refused, length):
    path = hf / "model.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
    os.truncate(path, 200_000_000)  # a hole: takes no room
    refused([str(path), "header"], "inspect", hf)


NAMES = {
    "absolute": "/etc/passwd",
    "above": "../model.safetensors",
    "above and back": "../hf/model.safetensors",
    "in a folder": "inner/model.safetensors",
    "above, in the other system's words": "..\\model.safetensors",
    "the folder": ".",
    "nothing": "",
    "a null": "model\x00.safetensors",
    "a line": "model\n.safetensors",
    "half a pair": "\ud800",
    "long": "m" * 5000,
    "a number": 1,
    "a list": ["model.safetensors"],
    "nothing at all": None,
    "true": True,
}


@pytest.mark.parametrize("name", NAMES)
def test_files_that_an_index_names(hf, tmp_path, refused, name):
    shutil.copytree(hf, tmp_path / "inner")
    tensors = list(json.loads(header_of(hf / "model.safetensors")[0]))[1:]
    weight_map = dict.fromkeys(tensors, NAMES[name])
    (hf / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    refused([str(hf / INDEX), "names the file"], "inspect", hf)


@pytest.mark.parametrize("weight_map", [None, [], 7, "model.safetensors", {}, [["a", "b"]]])
def test_an_index_of_something_else(hf, refused, weight_map):
    (hf / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    refused([str(hf)], "inspect", hf)


def test_a_name_twice_in_the_index(hf, refused):
    pair = f'"{Q_PROJ}": "model.safetensors"'
    (hf / INDEX).write_text(f'{{"weight_map": {{{pair}, {pair}}}}}')
    refused([str(hf / INDEX), Q_PROJ, "is given twice"], "inspect", hf)


def change_place(**changed):
    """Change where the first part of a tensor is said to be."""

    def change(content):
        index = next(i for i in content.storage_data if i.fqn == QKV)
        fields = {**vars(content.storage_data[index]), **changed}
        place = _StorageInfo("", 0, 0)
        vars(place).update(fields)
        content.storage_data[index] = place

    return change


@pytest.mark.parametrize("name", NAMES)
def test_files_that_metadata_names(megatron, tmp_path, refused, name):
    metadata(megatron, change_place(relative_path=NAMES[name]))
    refused([f"{megatron / '.metadata'}: the place of {QKV} names the file"], "inspect", megatron)


@pytest.mark.parametrize("field", ["offset", "length"])
@pytest.mark.parametrize(
    "value", [-1, 1.5, 16.0, True, None, "0", 2**70, [0], float("nan")], ids=str
)
def test_places_in_metadata(megatron, refused, field, value):
    metadata(megatron, change_place(**{field: value}))
    refused([str(megatron / ".metadata"), QKV, "expected whole numbers"], "inspect", megatron)


def test_places_that_overlap(megatron, refused):
    def change(content):
        first, second = [p for i, p in content.storage_data.items() if i.fqn == QKV][:2]
        second.offset = first.offset + 1

    metadata(megatron, change)
    refused([str(megatron / ".metadata"), QKV, "overlap"], "inspect", megatron)


def parts(function):
    return lambda content: function(content.state_dict_metadata[QKV].chunks)


def part(start, size):
    made = ChunkStorageMetadata((), ())
    vars(made).update(offsets=start, sizes=size)
    return made


PARTS = {
    "negative": parts(lambda c: c.__setitem__(0, part((-1, 0, 0), (1, 128, 64)))),
    "not whole": parts(lambda c: c.__setitem__(0, part((0.0, 0, 0), (1, 128, 64)))),
    "true": parts(lambda c: c.__setitem__(0, part((False, 0, 0), (1, 128, 64)))),
    "too large": parts(lambda c: c.__setitem__(0, part((0, 0, 0), (2**62, 128, 64)))),
    "beyond the tensor": parts(lambda c: c.__setitem__(0, part((0, 0, 0), (1, 128, 65)))),
    "other dimensions": parts(lambda c: c.__setitem__(0, part((0, 0), (1, 128)))),
    "very many dimensions": parts(lambda c: c.__setitem__(0, part((0,) * 10**5, (1,) * 10**5))),
    "a word": parts(lambda c: c.__setitem__(0, part("000", (1, 128, 64)))),
    "nothing": parts(lambda c: c.__setitem__(0, part(None, None))),
    "a part twice": parts(lambda c: c.append(c[0])),
    "no list": lambda m: setattr(m.state_dict_metadata[QKV], "chunks", 7),
    "no part": lambda m: setattr(m.state_dict_metadata[QKV], "chunks", []),
    "a tensor of another shape": lambda m: setattr(m.state_dict_metadata[QKV], "size", (2**61, 9)),
    "no shape": lambda m: setattr(m.state_dict_metadata[QKV], "size", None),
    "no properties": lambda m: setattr(m.state_dict_metadata[QKV], "properties", None),
    "no tensors": lambda m: setattr(m, "state_dict_metadata", None),
    "tensors in a list": lambda m: setattr(m, "state_dict_metadata", [QKV]),
    "no places": lambda m: setattr(m, "storage_data", None),
    "places in a list": lambda m: setattr(m, "storage_data", [1]),
    "a name that is a number": lambda m: m.state_dict_metadata.update({7: m.state_dict_metadata[QKV]}),
    "a name of a megabyte": lambda m: m.state_dict_metadata.update(
        {"n" * 2**20: m.state_dict_metadata[QKV]}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PARTS)
def test_parts_in_metadata(megatron, tmp_path, refused, name):
    metadata(megatron, PARTS[name])
    refused([str(megatron)], "to-hf", "--megatron", megatron, "--out", tmp_path / "out")


def test_a_part_twice_and_another_not_at_all(megatron, refused):
    """As many elements as there should be, but what was in memory before would be in the gap."""

    def change(content):
        chunks = content.state_dict_metadata[QKV].chunks
        for index in list(content.storage_data):
            if index.fqn == QKV and tuple(index.offset)[0] == 1:
                place = content.storage_data.pop(index)
                content.storage_data[type(index)(QKV, (0, 64, 0))] = place
        chunks[0] = part((0, 0, 0), (1, 128, 64))
        chunks[1] = part((0, 64, 0), (2, 64, 64))

    metadata(megatron, change)
    refused([str(megatron), QKV], "inspect", megatron)


@pytest.mark.parametrize("name", ["float8_e4m3fn", "int8", "uint8", "complex64", "bool"])
def test_types_in_metadata(megatron, tmp_path, refused, name):
    properties = TensorProperties(dtype=getattr(torch, name))
    metadata(megatron, lambda m: setattr(m.state_dict_metadata[QKV], "properties", properties))
    words = [str(megatron), f"tensor {QKV} is of type {name}", "expected one of"]
    refused(words, "to-hf", "--megatron", megatron, "--out", tmp_path / "out")


def test_many_parts_are_compared_soon(tmp_path):
    from megaprune.weights.files.checkpoint_metadata import check_tiled

    began = time.process_time()
    grid = {(i, j): (1, 1) for i in range(300) for j in range(300)}
    check_tiled((300, 300), grid, "it")
    grid.pop((7, 7))
    grid.pop((8, 8))
    with pytest.raises(InputError, match="are stored"):
        check_tiled((300, 300), grid, "it")
    grid[7, 7] = (1, 2)
    with pytest.raises(InputError, match="no grid"):
        check_tiled((300, 300), grid, "it")
    check_tiled((4, 4), {(0, 0): (4, 2), (0, 2): (2, 2), (2, 2): (2, 2)}, "it")
    with pytest.raises(InputError, match="overlap"):
        check_tiled((4, 4), {(0, 0): (4, 2), (0, 1): (2, 2), (2, 2): (2, 2)}, "it")
    assert time.process_time() - began < 5


def link(path, target):
    """Put the file elsewhere, and a link in its place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    path.rename(target)
    path.symlink_to(target)


@pytest.mark.parametrize("name", ["config.json", INDEX])
def test_links_of_what_is_needed(hf, tmp_path, refused, name):
    if name == INDEX:
        tensors = list(json.loads(header_of(hf / "model.safetensors")[0]))[1:]
        (hf / INDEX).write_text(
            json.dumps({"weight_map": dict.fromkeys(tensors, "model.safetensors")})
        )
    link(hf / name, tmp_path / "outside" / name)
    refused([str(hf / name), "is a link that leads out of"], "inspect", hf)
    (hf / name).unlink()
    (hf / name).symlink_to(f"../outside/{name}")
    refused([str(hf / name), "is a link that leads out of"], "inspect", hf)


def test_links_of_shards_of_another_name(hf, tmp_path, refused):
    """Links of files that are called safetensors are read: `test_side_files`."""
    tensors = list(json.loads(header_of(hf / "model.safetensors")[0]))[1:]
    (hf / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(tensors, "a.bin")}))
    link(hf / "model.safetensors", tmp_path / "outside")
    (hf / "model.safetensors").rename(hf / "a.bin")
    refused([str(hf / "a.bin"), "leads out"], "inspect", hf)


@pytest.mark.parametrize("name", ["__0_0.distcp", "hf"])
def test_links_of_a_checkpoint(megatron, tmp_path, refused, name):
    link(megatron / name, tmp_path / "outside" / name)
    words = [str(megatron / name), "leads out"]
    refused(words, "to-hf", "--megatron", megatron, "--out", tmp_path / "out")


def test_links_that_stay_inside(hf, tmp_path, convert):
    """Within the folder, and within what the cache of the hub keeps of a model."""
    link(hf / "config.json", hf / "real" / "config.json")
    assert convert("inspect", hf).status == 0
    repository = tmp_path / "models--a--b"
    (repository / "snapshots").mkdir(parents=True)
    shutil.copytree(hf, repository / "snapshots" / "1234")
    for path in list((repository / "snapshots" / "1234").iterdir()):
        if path.is_file():
            target = repository / "blobs" / path.name
            content = path.read_bytes()
            path.unlink()
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(content)
            path.symlink_to(f"../../blobs/{path.name}")
    shutil.rmtree(repository / "snapshots" / "1234" / "real")
    out = tmp_path / "out"
    done = convert("to-megatron", "--hf", repository / "snapshots" / "1234", "--out", out, "--json")
    assert done.status == 0
    assert done.json["notes"] == []
    assert (out / "hf" / "tokenizer.json").is_file()
    (repository / "blobs").rename(tmp_path / "outside")
    (repository / "blobs").symlink_to(tmp_path / "outside")
    assert convert("inspect", repository / "snapshots" / "1234").status == 1


SIDE = {
    "a link out": lambda p, outside: p.symlink_to(outside / "secret"),
    "a link above": lambda p, _: p.symlink_to("../outside/secret"),
    "a link to a link": lambda p, _: (
        (p.parent / "inner").symlink_to("../outside/secret"), p.symlink_to("inner")
    ),
    "a link through a folder": lambda p, outside: (
        (p.parent / "away").symlink_to(outside), p.symlink_to("away/secret")
    ),
    "a link to nothing": lambda p, _: p.symlink_to("/nowhere/at/all"),
    "a link in a circle": lambda p, _: p.symlink_to(p.name),
    "a device": lambda p, _: p.symlink_to("/dev/zero"),
    "a process's environment": lambda p, _: p.symlink_to("/proc/self/environ"),
    "a pipe": lambda p, _: os.mkfifo(p),
    "a socket": lambda p, _: bind(p),
    "a hole of a terabyte": lambda p, _: (p.touch(), os.truncate(p, 1 << 40)),
}  # fmt: skip


def bind(path):
    where = os.getcwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(where)


@pytest.mark.parametrize("kind", SIDE)
@pytest.mark.parametrize("name", ["vocab.json", "LICENSE", "additional_chat_templates/a.jinja"])
def test_side_files_that_are_not_copied(hf, megatron, tmp_path, convert, kind, name):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    for folder, command in ((hf, "to-megatron"), (megatron / "hf", "to-hf")):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        SIDE[kind](path, outside)
        out = tmp_path / command
        source = ("--hf", hf) if command == "to-megatron" else ("--megatron", megatron)
        done = convert(command, *source, "--out", out, "--json")
        assert done.status == 0, done.err
        assert any(note.startswith(f"{name} is not copied: it ") for note in done.json["notes"])
        copied = [p for p in out.rglob("*") if p.name == path.name]
        assert copied == []
        assert not any(b"secret" in p.read_bytes() for p in out.rglob("*") if p.is_file())


@pytest.mark.parametrize("name", ["a\nb.json", "a\\b.json", "a\x1b[2J.txt"])
def test_side_files_of_names_that_are_not_plain(hf, tmp_path, convert, name):
    (hf / name).write_text("{}")
    done = convert("to-megatron", "--hf", hf, "--out", tmp_path / "out", "--json")
    assert done.status == 0
    assert any(note.endswith("its name is not plain") for note in done.json["notes"])
    assert all(note.isprintable() for note in done.json["notes"])
    assert not (tmp_path / "out" / "hf" / name).exists()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", INDEX])
def test_pipes_are_not_waited_for(hf, refused, name):
    (hf / name).unlink(missing_ok=True)
    os.mkfifo(hf / name)
    refused([str(hf)], "inspect", hf)


@pytest.mark.parametrize("name", [".metadata", "metadata.json", "common.pt", "__0_0.distcp"])
def test_pipes_of_a_checkpoint(megatron, tmp_path, convert, name):
    (megatron / name).unlink()
    os.mkfifo(megatron / name)
    done = convert("to-hf", "--megatron", megatron, "--out", tmp_path / "out")
    assert done.status == (0 if name == "common.pt" else 1)


@pytest.mark.parametrize(
    "manifest",
    ["[]", "{}", '{"tensors": 1, "source": "a", "versions": {}}', "[" * DEEP,
     '{"tensors": {"a": {"sha256": 1, "shape": [], "dtype": ""}}, "source": "", "versions": {}}',
     '{"tensors": {"a": {"sha256": "", "shape": 3, "dtype": ""}}, "source": "", "versions": {}}',
     '{"tensors": {"a": {"x": ""}}, "source": "", "versions": {}}',
     '{"tensors": {"a": 1, "a": 2}, "source": "", "versions": {}}'],
    ids=lambda text: text[:30],
)  # fmt: skip
def test_manifests(hf, refused, manifest):
    (hf / "megaprune_manifest.json").write_text(manifest)
    refused([str(hf / "megaprune_manifest.json")], "verify", hf)


@pytest.mark.parametrize("word", ["9" * 5000, "²", "../x", "\x1b[2J", "", "-1", "1.5"])
def test_a_tracker_that_names_no_checkpoint(tmp_path, convert, refused, word):
    path = tmp_path / "latest_checkpointed_iteration.txt"
    path.write_text(word)
    refused([str(tmp_path)], "inspect", tmp_path)
    os.truncate(path, 1 << 40)
    assert "which is not a checkpoint" in convert("inspect", tmp_path).err


def test_a_manifest_that_commands(hf, convert):
    name = "\x1b]0;x\x07"
    tensors = {name: {"sha256": name, "shape": [10**300] * 100, "dtype": name}}
    manifest = {"tensors": tensors, "source": name, "versions": {}}
    (hf / "megaprune_manifest.json").write_text(json.dumps(manifest))
    assert convert("verify", hf).status == 1
    manifest["tensors"] = {Q_PROJ: {"sha256": name, "shape": [1] * 100, "dtype": name}}
    (hf / "megaprune_manifest.json").write_text(json.dumps(manifest))
    for command in ("verify", "inspect"):
        done = convert(command, hf)
        assert Q_PROJ in done.out
        assert "\x1b" not in done.out
        assert "\x07" not in done.out


def test_the_largest_models_are_taken():
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 126,
        "hidden_size": 16384, "intermediate_size": 53248, "num_attention_heads": 128,
        "num_key_value_heads": 8, "vocab_size": 128256, "rope_theta": 500000.0,
        "rms_norm_eps": 1e-05, "max_position_embeddings": 131072, "tie_word_embeddings": False,
    }  # fmt: skip
    assert len(Model.from_config(config).tensors()) == 126 * 9 + 3


def test_a_folder_and_its_header_are_read(hf):
    assert read_header(hf / "model.safetensors").keys() == HfFolder(hf).tensors.keys()


RECORDS = {
    "a file of a terabyte": (
        lambda f, r: (os.truncate(f / "common.pt", 1 << 40), r["files"].update({"common.pt": [1 << 40, ""]})),
        "size of common.pt",
    ),
    "a file of a terabyte, whose size is not told": (
        lambda f, r: os.truncate(f / "common.pt", 1 << 40), "common.pt has 1099511627776 bytes",
    ),
    "a link out": (
        lambda f, r: link(f / "common.pt", f.parent / "outside" / "common.pt"), "common.pt is no ordinary",
    ),
    "tensors in a link out": (
        lambda f, r: link(f / "__0_0.distcp", f.parent / "outside"), "__0_0.distcp is no ordinary",
    ),
    "a name above": (lambda f, r: r["files"].update({"../x": [1, ""]}), "names the file '..'"),
    "an absolute name": (lambda f, r: r["files"].update({"/etc/passwd": [1, ""]}), "names the file ''"),
    "a null in a name": (lambda f, r: r["files"].update({"a\0b": [1, ""]}), "names the file 'a"),
    "half a pair in a name": (lambda f, r: r["parts"].update({"\ud800": []}), "names the file"),
    "the same part very often": (
        lambda f, r: r["parts"]["__0_0.distcp"].extend(r["parts"]["__0_0.distcp"][:1] * 50_000),
        "overlap",
    ),
    "a part without numbers": (
        lambda f, r: r["parts"]["__0_0.distcp"].append(["a", None, 0.5, 1, ""]), "that are none",
    ),
    "a tensor that is a list": (
        lambda f, r: r["parts"]["__0_0.distcp"].append([["a"], None, 0, 1, ""]), "that are none",
    ),
    "commands in a name": (
        lambda f, r: r["parts"]["__0_0.distcp"].__setitem__(0, ["\x1b[2J", None, 0, 1, "x"]), "\\x1b[2J",
    ),
    "no record at all": (lambda f, r: r.clear(), "megaprune_checkpoint.json is not what was written"),
    "a step in words": (lambda f, r: r.update(step="1"), "not a number"),
}  # fmt: skip


@pytest.mark.parametrize("name", RECORDS)
def test_records_of_what_a_checkpoint_was(megatron, tmp_path, convert, name):
    """The record's own digest keeps nobody from making one up."""
    own_record(megatron)
    change, says = RECORDS[name]
    content = json.loads((megatron / digests.DIGESTS).read_text())
    content.pop("sha256")
    change(megatron, content)
    content["sha256"] = digests._own_digest(content)
    (megatron / digests.DIGESTS).write_text(json.dumps(content))
    began = time.process_time()
    done = convert("verify", megatron)
    assert time.process_time() - began < 10
    assert done.status == 1
    assert says in done.text
    assert "\x1b" not in done.text


def test_a_record_of_a_terabyte(megatron, convert):
    own_record(megatron)
    for name in (digests.DIGESTS, ".megaprune_files.json"):
        (megatron / name).touch()
        os.truncate(megatron / name, 1 << 40)
    done = convert("to-hf", "--megatron", megatron, "--out", megatron.parent / "out")
    assert done.status == 1
    assert "more than any that was saved" in done.text
