"""What cannot be converted is refused: one line that says why, status 1, and nothing left."""

import argparse
import json
import os
import pickle
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from megaprune.files import RECORD

SHARD = "model-00002-of-00006.safetensors"
IN_SHARD = "model.layers.0.input_layernorm.weight"
INDEX = "model.safetensors.index.json"
Q_PROJ = "model.layers.2.self_attn.q_proj.weight"
DOWN = "model.layers.1.mlp.down_proj.weight"
FC1 = "decoder.layers.mlp.linear_fc1.weight"


@pytest.fixture(scope="module")
def sharded_model(tiny_models, tmp_path_factory):
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("models") / "sharded"
    model = AutoModelForCausalLM.from_pretrained(tiny_models["qwen2"])
    model.save_pretrained(folder, max_shard_size="140KB")
    assert IN_SHARD in load_file(folder / SHARD)
    return folder


@pytest.fixture
def sharded(sharded_model, tmp_path) -> Path:
    """A sharded folder of one's own."""
    return Path(shutil.copytree(sharded_model, tmp_path / "sharded"))


@pytest.fixture
def refused(convert, tmp_path):
    """Run a conversion that must be refused with one line that has all the given words in it."""

    def run(words, *arguments, out=tmp_path / "out", beside=tmp_path):
        before = sorted(beside.rglob("*"))
        result = convert(*arguments, "--out", out, "--json")
        assert result.status == 1
        assert result.json == {"error": result.err.removeprefix("megaprune: error: ").rstrip("\n")}
        assert result.err.count("\n") == 1, result.err
        assert result.err.startswith("megaprune: error: ")
        assert [word for word in words if word not in result.err] == [], result.err
        assert sorted(beside.rglob("*")) == before

    return run


def edit_json(path, function):
    content = json.loads(path.read_text())
    function(content)
    path.write_text(json.dumps(content))


def edit_config(folder, **fields):
    edit_json(folder / "config.json", lambda content: content.update(fields))


def edit_header(path, function):
    """Change a safetensors header; the data stays as it is."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    function(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])


def edit_tensors(folder, function):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    function(tensors)
    save_file(tensors, path, {"format": "pt"})


def drop_from_shard(path):
    tensors = load_file(path)
    del tensors[IN_SHARD]
    save_file(tensors, path, {"format": "pt"})


def exchange_places(header):
    """Two tensors of the same size, one of which is said to lie where the other does."""
    one, other = Q_PROJ, Q_PROJ.replace("layers.2", "layers.1")
    header[one]["data_offsets"] = header[other]["data_offsets"]


def shift_all(header):
    """Every tensor one element further, the last one where the file has 4 bytes more."""
    for name, entry in header.items():
        if name != "__metadata__":
            entry["data_offsets"] = [offset + 4 for offset in entry["data_offsets"]]


def only_pickles(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


SHARDED = {
    "missing shard": (
        lambda f: (f / SHARD).unlink(),
        [SHARD, "is missing", "says that it holds", "tensors"],
    ),
    "tensor missing from the index": (
        lambda f: edit_json(f / INDEX, lambda index: index["weight_map"].pop(IN_SHARD)),
        [INDEX, IN_SHARD, "is missing from the index", SHARD],
    ),
    "tensor missing from its shard": (
        lambda f: drop_from_shard(f / SHARD),
        [SHARD, f"tensor {IN_SHARD} is missing", INDEX],
    ),
    "index of another shard": (
        lambda f: edit_json(f / INDEX, lambda i: i["weight_map"].update({"model.x": SHARD})),
        [SHARD, "tensor model.x is missing", INDEX],
    ),
    "truncated shard": (
        lambda f: os.truncate(f / SHARD, (f / SHARD).stat().st_size - 1),
        [SHARD, "truncated", "ends at byte"],
    ),
    "index is not JSON": (
        lambda f: (f / INDEX).write_text("{"),
        [INDEX, "not an index of safetensors shards"],
    ),
    "index is a list": (
        lambda f: (f / INDEX).write_text("[]"),
        [INDEX, "not an index of safetensors shards"],
    ),
    "index lists nothing": (
        lambda f: (f / INDEX).write_text('{"weight_map": {}}'),
        ["tensor model.embed_tokens.weight is missing"],
    ),
    "index names numbers": (
        lambda f: (f / INDEX).write_text('{"weight_map": {"model.norm.weight": 1}}'),
        [INDEX, "not an index of safetensors shards"],
    ),
}


@pytest.mark.parametrize("damage", SHARDED)
def test_damaged_shards(sharded, refused, damage):
    function, words = SHARDED[damage]
    function(sharded)
    refused(words, "to-megatron", "--hf", sharded)


FILE = {
    "cut in the data": (lambda p: os.truncate(p, 500_000), ["truncated: 500000 bytes, but tensor"]),
    "last byte cut": (
        lambda p: os.truncate(p, p.stat().st_size - 1),
        ["truncated: 761663 bytes", "ends at byte 761664"],
    ),
    "cut in the header": (lambda p: os.truncate(p, 100), ["100 bytes", "or truncated"]),
    "cut in the length": (lambda p: os.truncate(p, 5), ["5 bytes", "or truncated"]),
    "empty": (lambda p: os.truncate(p, 0), ["0 bytes", "not a safetensors file, or truncated"]),
    "garbage": (lambda p: p.write_bytes(bytes(range(1, 251)) * 20), ["or truncated"]),
    "text": (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"), ["not a"]),
    "header of zeros": (
        lambda p: p.write_bytes(struct.pack("<Q", 50) + bytes(100)),
        ["the header is not valid JSON"],
    ),
    "header is a list": (lambda p: p.write_bytes(struct.pack("<Q", 3) + b"[1]"), ["not a JSON object"]),
    "header is a number": (lambda p: p.write_bytes(struct.pack("<Q", 1) + b"7"), ["not a JSON object"]),
    "entry is a number": (
        lambda p: edit_header(p, lambda h: h.update({Q_PROJ: 7})),
        [Q_PROJ, "malformed header"],
    ),
    "no offsets": (
        lambda p: edit_header(p, lambda h: h[Q_PROJ].pop("data_offsets")),
        [Q_PROJ, "malformed header"],
    ),
    "offsets of another size": (
        lambda p: edit_header(p, lambda h: h[Q_PROJ].update(data_offsets=[0, 100])),
        [Q_PROJ, "[64, 64]", "F32", "takes 16384 bytes", "gives it 100"],
    ),
    "offsets below zero": (
        lambda p: edit_header(p, lambda h: h[Q_PROJ].update(data_offsets=[-16384, 0])),
        [f"tensor {Q_PROJ} begins at byte -16384 of the data"],
    ),
    "offsets beyond the end": (
        lambda p: edit_header(p, lambda h: h[Q_PROJ].update(data_offsets=[756480, 772864])),
        [Q_PROJ, "truncated", "ends at byte"],
    ),
    "two tensors in one place": (lambda p: edit_header(p, exchange_places), ["overlap", "self_attn.q_proj.weight"]),
    "all offsets moved": (
        lambda p: (edit_header(p, shift_all), p.write_bytes(p.read_bytes() + bytes(4))),
        ["begins at byte 4 of the data, but the one before it ends at byte 0"],
    ),
    "bytes after the last tensor": (
        lambda p: p.write_bytes(p.read_bytes() + bytes(4)),
        ["holds 756484 bytes of data, but its tensors end at byte 756480"],
    ),
    "shape of other numbers": (
        lambda p: edit_header(p, lambda h: h[Q_PROJ].update(shape=["64", 64])),
        [Q_PROJ],
    ),
    "integers": (
        lambda p: edit_header(p, lambda h: h[Q_PROJ].update(dtype="I8")),
        [Q_PROJ, "is of type I8", "F64, F32, BF16, F16", "Quantized"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", FILE)
def test_damaged_safetensors_file(hf, refused, damage):
    function, words = FILE[damage]
    function(hf / "model.safetensors")
    refused([str(hf / "model.safetensors"), *words], "to-megatron", "--hf", hf)


def quantized(tensors):
    tensors[Q_PROJ] = tensors[Q_PROJ].to(torch.int8)


FOLDER = {
    "transposed tensor": (
        lambda f: edit_tensors(f, lambda t: t.update({DOWN: t[DOWN].T.contiguous()})),
        ["model.safetensors", f"tensor {DOWN} has shape [96, 64]", "makes it [64, 96]"],
    ),
    "other width": (
        lambda f: edit_config(f, intermediate_size=128),
        ["model.safetensors", "mlp.gate_proj.weight has shape [96, 64]", "makes it [128, 64]"],
    ),
    "other vocabulary": (
        lambda f: edit_config(f, vocab_size=512),
        ["tensor model.embed_tokens.weight has shape [509, 64]", "makes it [512, 64]"],
    ),
    "more layers": (
        lambda f: edit_config(f, num_hidden_layers=5),
        ["tensor model.layers.4.", "is missing", "Qwen2ForCausalLM"],
    ),
    "fewer layers": (
        lambda f: edit_config(f, num_hidden_layers=3),
        ["model.safetensors", "tensor model.layers.3.", "is not part of Qwen2ForCausalLM"],
    ),
    "missing tensor": (
        lambda f: edit_tensors(f, lambda t: t.pop(Q_PROJ)),
        [f"tensor {Q_PROJ} is missing"],
    ),
    "extra tensor": (
        lambda f: edit_tensors(f, lambda t: t.update({"model.extra.weight": torch.ones(2)})),
        ["model.safetensors", "tensor model.extra.weight is not part of", "would be lost"],
    ),
    "quantized": (
        lambda f: edit_tensors(f, quantized),
        ["model.safetensors", f"tensor {Q_PROJ} is of type I8", "Quantized"],
    ),
    "unsupported architecture": (
        lambda f: edit_config(f, architectures=["GPT2LMHeadModel"]),
        ["config.json", "GPT2LMHeadModel is not supported", "LlamaForCausalLM", "Qwen2ForCausalLM"],
    ),
    "no architecture": (
        lambda f: edit_config(f, architectures=None),
        ["config.json", "(none) is not supported", "LlamaForCausalLM"],
    ),
    "architecture is a word": (
        lambda f: edit_config(f, architectures="Qwen2ForCausalLM"),
        ["config.json", "expected a list of one name"],
    ),
    "number missing": (
        lambda f: edit_config(f, hidden_size=None),
        ["config.json", "hidden_size is None; expected a positive integer"],
    ),
    "number is a word": (
        lambda f: edit_config(f, num_hidden_layers="4"),
        ["config.json", "num_hidden_layers is '4'; expected a positive integer"],
    ),
    "heads that do not divide": (
        lambda f: edit_config(f, num_key_value_heads=3),
        ["num_attention_heads=4 is not a multiple of num_key_value_heads=3"],
    ),
    "only pickles": (
        only_pickles,
        ["model.safetensors", "weight files seen: pytorch_model.bin", "Only safetensors"],
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), ["weight files seen: none"]),
    "no config": (lambda f: (f / "config.json").unlink(), ["config.json is missing"]),
    "config is cut": (
        lambda f: os.truncate(f / "config.json", 200),
        ["config.json is not valid JSON"],
    ),
    "config is empty": (
        lambda f: (f / "config.json").write_text(""),
        ["config.json is not valid JSON"],
    ),
    "config is bytes": (
        lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"),
        ["config.json is not valid JSON"],
    ),
    "config is a list": (
        lambda f: (f / "config.json").write_text("[]"),
        ["config.json holds a list; expected a JSON object"],
    ),
}


@pytest.mark.parametrize("damage", FOLDER)
def test_hf_folder_that_is_no_model(hf, refused, damage):
    function, words = FOLDER[damage]
    function(hf)
    refused([str(hf), *words], "to-megatron", "--hf", hf)


def test_hf_is_not_a_folder(hf, tmp_path, refused):
    for path in (tmp_path / "none", hf / "config.json", hf / "model.safetensors"):
        refused([str(path)], "to-megatron", "--hf", path)


def metadata(folder, function):
    content = pickle.loads((folder / ".metadata").read_bytes())
    function(content)
    (folder / ".metadata").write_bytes(pickle.dumps(content))


CHECKPOINT = {
    "no metadata.json": (
        lambda f: (f / "metadata.json").unlink(),
        ["metadata.json is not there"],
    ),
    "metadata.json is not JSON": (
        lambda f: (f / "metadata.json").write_text("torch_dist"),
        ["is not that of a Megatron-core distributed checkpoint"],
    ),
    "another backend": (
        lambda f: (f / "metadata.json").write_text('{"sharded_backend": "zarr"}'),
        ["saved as zarr; expected torch_dist", "--ckpt-format torch_dist"],
    ),
    "no .metadata": (
        lambda f: (f / ".metadata").unlink(),
        [".metadata is missing", "not completely written or copied"],
    ),
    "empty .metadata": (lambda f: os.truncate(f / ".metadata", 0), [".metadata cannot be read"]),
    "cut .metadata": (lambda f: os.truncate(f / ".metadata", 3000), [".metadata cannot be read"]),
    "garbage .metadata": (
        lambda f: (f / ".metadata").write_bytes(bytes(range(256)) * 10),
        [".metadata cannot be read"],
    ),
    ".metadata of something else": (
        lambda f: (f / ".metadata").write_bytes(pickle.dumps({"a": 1})),
        [".metadata cannot be read"],
    ),
    "missing .distcp": (
        lambda f: (f / "__0_0.distcp").unlink(),
        ["__0_0.distcp is missing", "embedding.word_embeddings.weight"],
    ),
    "truncated .distcp": (
        lambda f: os.truncate(f / "__0_0.distcp", 400_000),
        ["__0_0.distcp: truncated: 400000 bytes, but decoder.layers.", "ends at byte"],
    ),
    "last byte of .distcp": (
        lambda f: os.truncate(f / "__0_0.distcp", (f / "__0_0.distcp").stat().st_size - 1),
        ["__0_0.distcp: truncated", "output_layer.weight ends at byte"],
    ),
    "missing tensor": (
        lambda f: metadata(f, lambda m: m.state_dict_metadata.pop(FC1)),
        [f"tensor {FC1} is missing"],
    ),
    "no decoder": (
        lambda f: metadata(f, lambda m: m.state_dict_metadata.clear()),
        ["no tensor embedding.word_embeddings.weight", "It holds no tensors"],
    ),
    "extra tensor": (
        lambda f: metadata(
            f,
            lambda m: m.state_dict_metadata.update(
                {"decoder.layers.mlp.router.weight": m.state_dict_metadata[FC1]}
            ),
        ),
        ["decoder.layers.mlp.router.weight is not part of Qwen2ForCausalLM", "would be lost"],
    ),
    "part that is not listed": (
        lambda f: metadata(f, lambda m: m.state_dict_metadata[FC1].chunks.pop()),
        [".metadata is damaged", f"[3, 0, 0] of {FC1}"],
    ),
    "more layers": (
        lambda f: edit_config(f / "hf", num_hidden_layers=5),
        ["has shape [4, ", "makes it [5, "],
    ),
    "other width": (
        lambda f: edit_config(f / "hf", intermediate_size=128),
        [f"tensor {FC1} has shape [4, 192, 64]", "makes it [4, 256, 64]"],
    ),
    "larger vocabulary": (
        lambda f: edit_config(f / "hf", vocab_size=513),
        ["embedding.word_embeddings.weight has 512 rows", "vocab_size=513"],
    ),
    "other architecture": (
        lambda f: edit_config(f / "hf", architectures=["MixtralForCausalLM"]),
        ["hf/config.json", "MixtralForCausalLM is not supported"],
    ),
    "tied": (
        lambda f: edit_config(f / "hf", tie_word_embeddings=True),
        ["output_layer.weight is not part of Qwen2ForCausalLM"],
    ),
    "no config": (lambda f: (f / "hf" / "config.json").unlink(), ["hf/config.json is missing"]),
}


@pytest.mark.parametrize("damage", CHECKPOINT)
def test_damaged_checkpoint(megatron, refused, damage):
    function, words = CHECKPOINT[damage]
    function(megatron)
    refused([str(megatron), *words], "to-hf", "--megatron", megatron)


def test_damage_that_is_found_while_it_is_read(megatron, refused):
    """A damaged archive inside a file of the right length."""
    path = megatron / "__0_0.distcp"
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x03\x04", 300_000)
    content[at : at + 300] = bytes(300)
    path.write_bytes(content)
    refused([str(path), "is damaged"], "to-hf", "--megatron", megatron)


def test_megatron_is_not_a_checkpoint(hf, tmp_path, refused):
    refused([f"{hf} is a Hugging Face model: it has config.json"], "to-hf", "--megatron", hf)
    for path in (tmp_path / "none", hf / "config.json"):
        refused([f"{path} is not a folder"], "to-hf", "--megatron", path)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"rope_parameters": {"rope_theta": 5.0}}, "rope_theta: 5.0 against 1000000.0"),
        ({"rope_parameters": None, "rope_theta": 5.0}, "rope_theta: 5.0 against 1000000.0"),
        ({"rms_norm_eps": 0.001}, "rms_norm_eps: 0.001 against 1e-05"),
        ({"num_attention_heads": 8}, "num_attention_heads: 8 against 4"),
        ({"num_key_value_heads": 4}, "num_key_value_heads: 4 against 2"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings: True against False"),
    ],
)
def test_given_config_of_another_model(hf, megatron, refused, fields, line):
    edit_config(hf, **fields)
    for given in (hf, hf / "config.json"):
        words = [f"{given} is another model than {megatron}/hf/config.json", line]
        refused(words, "to-hf", "--megatron", megatron, "--hf", given)


def test_checkpoint_without_its_config(hf, megatron, tmp_path, convert, refused):
    shutil.rmtree(megatron / "hf")
    refused([str(megatron), "keeps no config.json", "--hf"], "to-hf", "--megatron", megatron)
    refused(["none"], "to-hf", "--megatron", megatron, "--hf", tmp_path / "none")
    arguments = ("to-hf", "--megatron", megatron, "--hf", hf, "--out", tmp_path / "out")
    assert convert(*arguments).status == 0
    assert convert("verify", hf, tmp_path / "out").status == 0
    names = {path.name for path in hf.iterdir()} | {"megaprune_manifest.json", RECORD}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    edit_config(hf, intermediate_size=95)
    words = [str(megatron), FC1, "[4, 192, 64]", "[4, 190, 64]"]
    refused(words, "to-hf", "--megatron", megatron, "--hf", hf, out=tmp_path / "other")


PADDING = (
    "3 rows above vocab_size=509 are padding, and not part of the model: all are zero; "
    "tokenizer.json numbers its tokens up to 508"
)

AGREEING = {
    "num_layers": 4,
    "hidden_size": 64,
    "ffn_hidden_size": 96,
    "num_attention_heads": 4,
    "group_query_attention": True,
    "num_query_groups": 2,
    "kv_channels": 16,
    "norm_epsilon": 1e-05,
    "rotary_base": 1000000,
    "untie_embeddings_and_output_weights": True,
    "params_dtype": torch.bfloat16,
    "lr": 1e-4,
    "save": Path("/checkpoints").as_posix(),
}


def store_arguments(megatron, **changed):
    args = argparse.Namespace(**{**AGREEING, **changed})
    torch.save({"args": args, "iteration": 20, "checkpoint_version": 3.0}, megatron / "common.pt")


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"rotary_base": 10000}, "rope_theta: 1000000.0 against rotary_base=10000"),
        ({"norm_epsilon": 1e-06}, "rms_norm_eps: 1e-05 against norm_epsilon=1e-06"),
        (
            {"untie_embeddings_and_output_weights": False},
            "tie_word_embeddings: False against untie_embeddings_and_output_weights=False",
        ),
        ({"num_query_groups": 4}, "num_key_value_heads: 2 against num_query_groups=4"),
        ({"num_layers": 5}, "num_hidden_layers: 4 against num_layers=5"),
    ],
)
def test_config_that_contradicts_the_training_arguments(hf, megatron, refused, changed, line):
    store_arguments(megatron, **changed)
    words = ["hf/config.json is another model than the arguments", "common.pt", line]
    refused(words, "to-hf", "--megatron", megatron)
    shutil.rmtree(megatron / "hf")
    words[0] = f"{hf} is another model than the arguments"
    refused(words, "to-hf", "--megatron", megatron, "--hf", hf)


def test_training_arguments_that_agree(hf, megatron, tmp_path, convert):
    store_arguments(megatron)
    done = convert("to-hf", "--megatron", megatron, "--out", tmp_path / "out", "--json")
    assert done.status == 0
    assert done.json["notes"] == [PADDING]
    assert convert("verify", hf, tmp_path / "out").status == 0


@pytest.mark.parametrize("content", [[1, 2], {"iteration": 20}, {"args": None}, None])
def test_common_state_without_arguments(hf, megatron, tmp_path, convert, content):
    (megatron / "common.pt").unlink()
    if content is not None:
        torch.save(content, megatron / "common.pt")
    done = convert("to-hf", "--megatron", megatron, "--out", tmp_path / "out", "--json")
    assert done.status == 0
    assert done.json["notes"] == [PADDING]
    assert convert("verify", hf, tmp_path / "out").status == 0


@pytest.mark.parametrize(
    "content", [b"", b"garbage " * 100, bytes(1000), b"PK\x03\x04" + bytes(99)]
)
def test_damaged_common_state(megatron, refused, content):
    (megatron / "common.pt").write_bytes(content)
    words = [f"{megatron / 'common.pt'} cannot be read"]
    refused(words, "to-hf", "--megatron", megatron)


def source(job, hf, megatron):
    return (job, "--hf", hf) if job == "to-megatron" else (job, "--megatron", megatron)


JOBS = pytest.mark.parametrize("job", ["to-megatron", "to-hf"])


@JOBS
def test_target_that_cannot_be_made(hf, megatron, tmp_path, refused, job):
    arguments = source(job, hf, megatron)
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    file.write_text("a file")
    for out in (folder, file, hf, megatron):
        words = [str(out), "exists; give --overwrite" if out in (folder, file) else ""]
        refused(words, *arguments, out=out)
    refused([str(file), "is not a folder"], *arguments, "--overwrite", out=file)
    refused([f"cannot write in {file}"], *arguments, out=file / "out")
    refused(["cannot write in /proc/none"], *arguments, out=Path("/proc/none/out"))
    assert file.read_text() == "a file"


@pytest.mark.parametrize("size", ["0", "five", "-1", "5 parsecs", "", "GB"])
def test_wrong_shard_size(megatron, tmp_path, capsys, convert, size):
    with pytest.raises(SystemExit) as ended:
        convert(
            "to-hf", "--megatron", megatron, "--out", tmp_path / "out", f"--max-shard-size={size}"
        )
    assert ended.value.code == 2  # a wrong command line
    error = capsys.readouterr().err
    assert f"--max-shard-size: {size!r} is not a size; expected one like 5GB or 2GiB" in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("multiple", [0, -128])
def test_wrong_padding(hf, refused, multiple):
    words = [f"--pad-vocab-to-multiple-of is {multiple}; expected 1 or more"]
    refused(words, "to-megatron", "--hf", hf, "--pad-vocab-to-multiple-of", multiple)


TENSORS = 756_480
"""Bytes of the fixtures' 51 tensors; the padding of one conversion comes on top."""


@JOBS
def test_disk_that_is_too_small(hf, megatron, disk, refused, job):
    place = disk("size=720k")
    words = [str(place), "is too full", "free, out takes"]
    refused(words, *source(job, hf, megatron), out=place / "out", beside=place)


@JOBS
def test_disk_that_becomes_full(hf, megatron, disk, convert, refused, job):
    """The tensors alone would fit: it ends in one file after another, until all of it fits."""
    arguments = source(job, hf, megatron)
    ends = []
    for kib in range(744, 1004, 4):
        place = disk(f"size={kib}k")
        ends.append(convert(*arguments, "--out", place / "out", "--json"))
        if ends[-1].status == 0:
            break
        assert ends[-1].err.startswith("megaprune: error: "), ends[-1].err
        assert f"the disk of {place} is full: No space left on device" in ends[-1].err
        assert "Nothing was left of out" in ends[-1].err
        assert ends[-1].err.count("\n") == 1
        assert list(place.iterdir()) == []
    assert len(ends) > 5
    assert ends[-1].status == 0
    assert convert("verify", hf, place / "out").status == 0


@JOBS
def test_disk_that_cannot_be_written(hf, megatron, disk, refused, job):
    place = disk("ro")
    words = [f"cannot write in {place}: Read-only file system"]
    refused(words, *source(job, hf, megatron), out=place / "out", beside=place)


@pytest.mark.parametrize("options", [("size=764k",), ("size=2m", "ro")])
def test_manifest_that_cannot_be_written(hf, disk, convert, options):
    """Verifying needs no more than to read."""
    place = disk("size=2m")
    shutil.copytree(hf, place / "copy")
    free = shutil.disk_usage(place).free
    if "ro" in options:
        disk("ro")
    else:
        (place / "filler").write_bytes(bytes(free))
    result = convert("verify", hf, place / "copy", "--json")
    assert result.status == 0
    assert result.json["equal"] is True
    assert len(result.json["notes"]) == 1
    assert "megaprune_manifest.json was not written: " in result.json["notes"][0]
    names = [path.name for path in (place / "copy").iterdir()]
    assert sorted(names) == sorted(path.name for path in hf.iterdir())
