"""`megaprune convert verify`: whatever differs by a bit is found and named."""

import hashlib
import json
import os
import pickle
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from megaprune.weights.boxes import Box
from megaprune.weights.files import HfFolder, MegatronFolder
from megaprune.weights.files.checkpoint_index import locate
from megaprune.weights.files.mapped import row_major
from reference import TINY_MODELS

# The model of the fixtures: float32, hidden 64, 4 heads in 2 groups of head size 16, ffn 96,
# vocabulary 509. A layer's linear_qkv has, for each group, 32 rows of q, 16 of k and 16 of v.
LAYER = "model.layers."
QKV = "decoder.layers.self_attention.linear_qkv."
PROJ = "decoder.layers.self_attention.linear_proj.weight"
FC1 = "decoder.layers.mlp.linear_fc1."
FC2 = "decoder.layers.mlp.linear_fc2.weight"
MANIFEST = "megaprune_manifest.json"


def place(folder, name, index):
    """File and first byte of an element of a stored tensor."""
    if (folder / "config.json").is_file():
        stored = HfFolder(folder).tensors[name]
        path, first, strides = stored.path, stored.offset, row_major(stored.shape)
    else:
        opened = MegatronFolder(folder, strict=False)
        one = Box(index, tuple(i + 1 for i in index))
        (chunk,) = (c for c in opened._chunks[name] if c.box.intersect(one))
        first, strides = locate(name, chunk, opened.dtype(name))
        path, index = chunk.path, [i - s for i, s in zip(index, chunk.box.start, strict=True)]
    return path, first + 4 * sum(i * s for i, s in zip(index, strides, strict=True))


def change(path, offset, length, new):
    """Replace bytes by what `new` makes of them."""
    with open(path, "r+b") as file:
        file.seek(offset)
        old = file.read(length)
        file.seek(offset)
        file.write(new(old))
    assert new(old) != old


def flip(folder, name, index, bit=0):
    """Flip one bit of an element."""
    path, offset = place(folder, name, index)
    change(path, offset + bit // 8, 1, lambda old: bytes([old[0] ^ 1 << bit % 8]))


def swap(folder, name, one, other, rows=16):
    """Exchange bands of rows of 64 elements, given the index of the first element of each."""
    nbytes = rows * 64 * 4
    (path, a), (_, b) = place(folder, name, one), place(folder, name, other)
    content = path.read_bytes()
    first, second = content[a : a + nbytes], content[b : b + nbytes]
    change(path, a, nbytes, lambda _: second)
    change(path, b, nbytes, lambda _: first)


def edit(folder, **new):
    """Store a Hugging Face folder's tensors again, some of them as `new(tensor)` has them."""
    tensors = load_file(folder / "model.safetensors")
    for name, function in new.items():
        tensors[name] = function(tensors[name])
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def edit_config(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def copy(folder):
    return Path(shutil.copytree(folder, folder.with_name(folder.name + "-copy")))


def assert_found(convert, good, bad, line):
    """The difference is found whichever side has it, and it is the only one."""
    for a, b in ((good, bad), (bad, good)):
        result = convert("verify", a, b)
        assert result.status == 1
        assert f"differs {line}" in result.text
        assert result.text.count("differs ") == 1
        assert "not equal 51 tensors" in result.text
        assert not (b / MANIFEST).exists()


@pytest.mark.parametrize(
    ("form", "name", "one", "other", "line"),
    [
        ("hf", LAYER + "1.self_attn.q_proj.weight", (0, 0), (16, 0), "q_proj.weight: 32 of 64"),
        ("hf", LAYER + "1.self_attn.k_proj.weight", (0, 0), (16, 0), "k_proj.weight: 32 of 32"),
        ("megatron", QKV + "weight", (1, 0, 0), (1, 16, 0), "q_proj.weight: 32 of 64"),
        ("megatron", QKV + "weight", (1, 32, 0), (1, 96, 0), "k_proj.weight: 32 of 32"),
    ],
)
def test_a_head_in_another_heads_place(hf, megatron, convert, form, name, one, other, line):
    assert convert("verify", hf, megatron).status == 0
    (megatron / MANIFEST).unlink()
    reference, bad = (megatron, hf) if form == "hf" else (hf, megatron)
    swap(bad, name, one, other)
    assert_found(
        convert, reference, bad, f"{LAYER}1.self_attn.{line} rows differ, from row 0 to 31"
    )
    swap(bad, name, one, other)
    assert convert("verify", reference, bad).status == 0


@pytest.mark.parametrize(
    ("form", "name", "index", "tensor", "row", "rows"),
    [
        ("hf", "lm_head.weight", (508, 0), "lm_head.weight", 508, 509),
        ("megatron", FC1 + "weight", (3, 96, 0), LAYER + "3.mlp.up_proj.weight", 0, 96),
    ],
)
def test_a_row_of_zeros(hf, megatron, convert, form, name, index, tensor, row, rows):
    good, bad = (megatron, hf) if form == "hf" else (hf, megatron)
    change(*place(bad, name, index), 64 * 4, lambda _: bytes(64 * 4))
    where = f"1 of {rows} rows differ, from row {row} to {row}"
    assert_found(convert, good, bad, f"{tensor}: {where}")
    assert "; that row is all zeros" in convert("verify", good, bad).text


@pytest.mark.parametrize("bit", [0, 22, 31])
@pytest.mark.parametrize(
    ("name", "index", "tensor", "row", "rows"),
    [
        ("model.embed_tokens.weight", (250, 31), "", 250, 509),
        ("model.norm.weight", (0,), "", 0, 64),
        (LAYER + "2.input_layernorm.weight", (63,), "", 63, 64),
        (LAYER + "0.self_attn.v_proj.bias", (31,), "", 31, 32),
        (LAYER + "3.mlp.down_proj.weight", (63, 95), "", 63, 64),
        ("embedding.word_embeddings.weight", (508, 63), "model.embed_tokens.weight", 508, 509),
        ("output_layer.weight", (0, 0), "lm_head.weight", 0, 509),
        ("decoder.final_layernorm.weight", (7,), "model.norm.weight", 7, 64),
        (QKV + "layer_norm_weight", (2, 5), LAYER + "2.input_layernorm.weight", 5, 64),
        (FC1 + "layer_norm_weight", (0, 0), LAYER + "0.post_attention_layernorm.weight", 0, 64),
        (QKV + "bias", (3, 127), LAYER + "3.self_attn.v_proj.bias", 31, 32),
        (QKV + "bias", (0, 33), LAYER + "0.self_attn.k_proj.bias", 1, 32),
        (QKV + "weight", (2, 69, 10), LAYER + "2.self_attn.q_proj.weight", 37, 64),
        (QKV + "weight", (2, 113, 0), LAYER + "2.self_attn.v_proj.weight", 17, 32),
        (PROJ, (1, 9, 63), LAYER + "1.self_attn.o_proj.weight", 9, 64),
        (FC1 + "weight", (1, 95, 1), LAYER + "1.mlp.gate_proj.weight", 95, 96),
        (FC1 + "weight", (1, 100, 1), LAYER + "1.mlp.up_proj.weight", 4, 96),
        (FC2, (3, 63, 95), LAYER + "3.mlp.down_proj.weight", 63, 64),
    ],
)
def test_a_flipped_bit(hf, megatron, convert, name, index, tensor, row, rows, bit):
    good, bad = (hf, megatron) if tensor else (megatron, hf)
    flip(bad, name, index, bit)
    where = f"1 of {rows} rows differ, from row {row} to {row}; first [{row}"
    assert_found(convert, good, bad, f"{tensor or name}: {where}")


@pytest.mark.parametrize(
    ("name", "row"), [("embedding.word_embeddings.weight", 509), ("output_layer.weight", 511)]
)
def test_padding_that_is_not_zero(hf, megatron, convert, name, row):
    flip(megatron, name, (row, 40), bit=1)
    result = convert("verify", hf, megatron)
    assert result.status == 1
    line = f"differs {name} in {megatron}: 1 padding rows are not zero, the first is row {row}"
    assert line in result.text
    assert not (megatron / MANIFEST).exists()
    # A row that alone is not zero may be a token that training added.
    result = convert("verify", megatron, hf)
    assert result.status == 1
    lost = {509: "1 row that is", 511: "3 rows that are"}[row]
    assert f"differs {megatron}: config.json says vocab_size=509" in result.text
    assert f"would cut off {lost} no padding" in result.text
    # Padding that training moved as one does not matter in a reference.
    for other in range(509, 512):
        if other != row:
            flip(megatron, name, (other, 40), bit=1)
    assert convert("verify", megatron, hf).status == 0


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (0.0, -0.0, False),
        (float("nan"), float("nan"), True),
        (float("nan"), -float("nan"), False),
        (float("inf"), float("inf"), True),
        (float("nan"), float("inf"), False),
        (0.0, 1e-45, False),
    ],
)
def test_bytes_are_compared_not_numbers(hf, convert, one, other, equal):
    name = LAYER + "2.mlp.gate_proj.weight"
    second = copy(hf)
    for folder, value in ((hf, one), (second, other)):
        path, offset = place(folder, name, (5, 6))
        change(path, offset, 4, lambda _, value=value: struct.pack("<f", value))
    assert struct.pack("<f", one) != struct.pack("<f", other) or equal
    result = convert("verify", hf, second)
    assert result.status == (0 if equal else 1)
    if not equal:
        assert f"{name}: 1 of 96 rows differ, from row 5 to 5; first [5, 6]: " in result.text


def test_nan_and_negative_zero_are_converted_as_they_are(hf, tmp_path, convert):
    there, back = tmp_path / "there", tmp_path / "back"
    values = torch.tensor([float("nan"), -0.0, float("-inf"), 1e-45]).repeat(16)
    values[4] = torch.tensor(0x7FA00001, dtype=torch.int32).view(torch.float32)  # signals
    name = LAYER + "1.self_attn.k_proj.weight"
    edit(hf, **{name: lambda t: values.expand_as(t).clone()})
    assert convert("to-megatron", "--hf", hf, "--out", there).status == 0
    assert convert("to-hf", "--megatron", there, "--out", back).status == 0
    bits = load_file(back / "model.safetensors")[name].view(torch.int32)
    assert torch.equal(bits, values.view(torch.int32).expand_as(bits))
    for a, b in ((hf, there), (there, hf), (hf, back), (there, back)):
        assert convert("verify", a, b).status == 0


def test_another_type_of_element(hf, convert):
    second = copy(hf)
    edit(second, **{"model.norm.weight": torch.Tensor.bfloat16})
    line = "model.norm.weight: type float32 against bfloat16"
    result = convert("verify", hf, second)
    assert result.status == 1
    assert f"differs {line}" in result.text


def test_a_missing_tensor(hf, megatron, convert):
    second = copy(hf)
    tensors = load_file(hf / "model.safetensors")
    del tensors[LAYER + "3.self_attn.q_proj.bias"]
    save_file(tensors, second / "model.safetensors", {"format": "pt"})
    without = copy(megatron)
    metadata = pickle.loads((megatron / ".metadata").read_bytes())
    name = PROJ
    del metadata.state_dict_metadata[name]
    (without / ".metadata").write_bytes(pickle.dumps(metadata))
    for bad, tensor in ((second, LAYER + "3.self_attn.q_proj.bias"), (without, name)):
        for good in (hf, megatron):
            for pair in ((good, bad), (bad, good)):
                result = convert("verify", *pair)
                assert result.status == 1
                assert f"megaprune: error: {bad}: tensor {tensor} is missing" in result.text


def test_a_missing_part_of_a_tensor(hf, megatron, convert):
    metadata = pickle.loads((megatron / ".metadata").read_bytes())
    name = FC2
    places = metadata.storage_data
    metadata.storage_data = {
        index: place for index, place in places.items() if index.fqn != name or index.offset[0] != 2
    }
    assert len(metadata.storage_data) == len(places) - 1
    (megatron / ".metadata").write_bytes(pickle.dumps(metadata))
    result = convert("verify", hf, megatron)
    assert result.status == 1
    assert f"{name} has 24576 elements, of which 18432 are stored" in result.text


@pytest.mark.parametrize("cut", [1, 300_000])
@pytest.mark.parametrize("form", ["hf", "megatron"])
def test_a_truncated_file(hf, megatron, convert, form, cut):
    if form == "hf":
        good, bad, path = megatron, hf, hf / "model.safetensors"
    else:
        good, bad, path = hf, megatron, megatron / "__0_0.distcp"
    length = path.stat().st_size - cut
    os.truncate(path, length)
    for pair in ((good, bad), (bad, good)):
        result = convert("verify", *pair)
        assert result.status == 1
        assert f"megaprune: error: {path}: truncated: {length} bytes, but " in result.text
        assert "ends at byte" in result.text


def test_a_damaged_archive_in_a_checkpoint(hf, megatron, convert):
    """The bytes around the elements, which torch.save wrote."""
    name = FC1 + "weight"
    path, first = place(megatron, name, (2, 0, 0))
    change(path, first - 704, 300, lambda _: bytes(300))
    result = convert("verify", hf, megatron)
    assert result.status == 1
    message = result.err.strip().splitlines()[-1]  # after the bars
    assert message.startswith(f"megaprune: error: {path}: {name}")
    assert "is damaged" in message


def sums(folder):
    """What a manifest should hold, by other means."""
    return {
        name: {
            "sha256": hashlib.sha256(tensor.view(torch.uint8).numpy().tobytes()).hexdigest(),
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
        }
        for name, tensor in load_file(folder / "model.safetensors").items()
    }


@pytest.mark.parametrize("name", TINY_MODELS)
def test_a_manifest_has_the_digests_of_the_tensors(tiny_models, tmp_path, convert, name):
    hf = Path(shutil.copytree(tiny_models[name], tmp_path / "hf"))
    there, second = tmp_path / "there", copy(hf)
    padding = ("--pad-vocab-to-multiple-of", 128)
    assert convert("to-megatron", "--hf", hf, "--out", there, *padding).status == 0
    assert convert("verify", there, hf).status == 0
    assert convert("verify", hf, second).status == 0
    for folder, source in ((there, hf), (hf, there), (second, hf)):
        manifest = json.loads((folder / MANIFEST).read_text())
        assert manifest["tensors"] == sums(hf)
        assert manifest["source"] == str(source)


def test_verify_writes_a_manifest_and_checks_it_from_then_on(hf, megatron, convert):
    first = convert("verify", hf, megatron)
    assert first.status == 0
    assert f"wrote {megatron / MANIFEST}" in first.text
    assert not (hf / MANIFEST).exists()
    written = (megatron / MANIFEST).read_bytes()
    for arguments in ((hf, megatron), (megatron,)):
        again = convert("verify", *arguments)
        assert again.status == 0
        assert "equal 51 tensors, 756.5 kB compared" in again.text
        assert "wrote" not in again.text
    assert (megatron / MANIFEST).read_bytes() == written
    assert sorted(p.name for p in megatron.iterdir()) == [
        ".megaprune_files.json", ".metadata", "__0_0.distcp", "common.pt", "hf", MANIFEST, "metadata.json"
    ]  # fmt: skip
    alone = convert("verify", hf)
    assert alone.status == 1
    assert f"{hf} has no {MANIFEST}: give a second folder" in alone.text


@pytest.mark.parametrize(
    ("form", "name", "index", "tensor"),
    [
        ("hf", "model.norm.weight", (63,), "model.norm.weight"),
        ("hf", "lm_head.weight", (508, 63), "lm_head.weight"),
        ("megatron", "decoder.final_layernorm.weight", (1,), "model.norm.weight"),
        ("megatron", FC1 + "weight", (3, 191, 63), LAYER + "3.mlp.up_proj.weight"),
    ],
)
def test_one_folder_alone_is_checked_by_its_manifest(
    hf, megatron, convert, form, name, index, tensor
):
    good, bad = (hf, megatron) if form == "megatron" else (megatron, hf)
    assert convert("verify", good, bad).status == 0
    assert convert("verify", bad).status == 0
    flip(bad, name, index)
    result = convert("verify", bad)
    assert result.status == 1
    assert f"differs {tensor}: the manifest has " in result.text
    assert result.text.count("differs ") == 1
    # Both sides damaged alike: the folders are equal, and only the manifest tells.
    pair = convert("verify", copy(bad), bad)
    assert pair.status == 1
    assert f"differs {tensor}: the manifest has " in pair.text
    assert pair.text.count("differs ") == 1


def test_padding_of_one_folder_alone(hf, megatron, convert):
    assert convert("verify", hf, megatron).status == 0
    flip(megatron, "output_layer.weight", (510, 0), bit=30)
    result = convert("verify", megatron)
    assert result.status == 1
    assert f"output_layer.weight in {megatron}: 1 padding rows are not zero" in result.text
    assert "the first is row 510" in result.text


def test_an_altered_manifest_is_reported(hf, megatron, convert):
    assert convert("verify", hf, megatron).status == 0
    path = megatron / MANIFEST
    content = json.loads(path.read_text())
    tensors = content["tensors"]
    name = LAYER + "0.self_attn.k_proj.weight"
    digest = tensors[name]["sha256"]
    other = ("0" if digest[0] != "0" else "1") + digest[1:]
    short = {key: value for key, value in tensors.items() if key != name}
    for altered, line in (
        (short, f"{name}: missing from the manifest"),
        ({**tensors, "model.extra": tensors[name]}, "model.extra: missing from the weights"),
        ({**tensors, name: {**tensors[name], "sha256": other}}, f"{name}: the manifest has "),
        ({**tensors, name: {**tensors[name], "shape": [64, 32]}}, f"{name}: the manifest has "),
        ({**tensors, name: {**tensors[name], "dtype": "float16"}}, f"{name}: the manifest has "),
    ):
        path.write_text(json.dumps({**content, "tensors": altered}))
        for arguments in ((hf, megatron), (megatron,)):
            result = convert("verify", *arguments)
            assert result.status == 1
            assert f"differs {line}" in result.text
            assert result.text.count("differs ") == 1


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"tensors": {}}', '{"tensors": {"a": {"sha256": ""}}}', "\x00"]
)
def test_a_manifest_that_is_none(hf, megatron, convert, text):
    (megatron / MANIFEST).write_text(text)
    for arguments in ((hf, megatron), (megatron,)):
        result = convert("verify", *arguments)
        assert result.status == 1
        assert f"megaprune: error: {megatron / MANIFEST} is not a manifest" in result.text
        assert len(result.err.strip().splitlines()) == 1
    assert (megatron / MANIFEST).read_text() == text


def test_two_folders_of_the_same_format(hf, megatron, tmp_path, convert):
    second, unpadded = copy(hf), tmp_path / "unpadded"
    assert convert("to-megatron", "--hf", hf, "--out", unpadded, "--no-verify").status == 0
    assert convert("verify", hf, second).status == 0
    (second / MANIFEST).unlink()
    for pair in ((megatron, unpadded), (unpadded, megatron)):  # one padded, the other not
        assert convert("verify", *pair).status == 0
        (pair[1] / MANIFEST).unlink()
    flip(second, LAYER + "0.self_attn.o_proj.weight", (3, 2))
    assert_found(convert, hf, second, LAYER + "0.self_attn.o_proj.weight: 1 of 64 rows differ")
    flip(unpadded, PROJ, (0, 3, 2))
    assert_found(
        convert, megatron, unpadded, LAYER + "0.self_attn.o_proj.weight: 1 of 64 rows differ"
    )


def test_sharded_and_single_files_of_the_same_weights(hf, megatron, tmp_path, convert):
    sharded = tmp_path / "sharded"
    arguments = ("--megatron", megatron, "--out", sharded, "--max-shard-size", "100KB")
    assert convert("to-hf", *arguments, "--no-verify").status == 0
    assert convert("verify", hf, sharded).status == 0
    flip(sharded, "lm_head.weight", (400, 1))
    result = convert("verify", sharded)
    assert result.status == 1
    assert "differs lm_head.weight: the manifest has " in result.text


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"rope_theta": 10.0, "rope_parameters": None}, "rope_theta: 1000000.0 against 10.0"),
        ({"rope_parameters": {"rope_theta": 10.0}}, "rope_theta: 1000000.0 against 10.0"),
        ({"rms_norm_eps": 1e-06}, "rms_norm_eps: 1e-05 against 1e-06"),
    ],
)
@pytest.mark.parametrize("form", ["hf", "megatron"])
def test_another_configuration(hf, megatron, convert, form, fields, line):
    second = copy(hf)
    edit_config(second, **fields)
    good = hf if form == "hf" else megatron
    result = convert("verify", good, second)
    assert result.status == 1
    assert f"differs config.json: {line}" in result.text
    assert result.text.count("differs ") == 1
    assert not (second / MANIFEST).exists()


def test_two_spellings_of_one_configuration(hf, convert):
    second = copy(hf)
    edit_config(second, rope_theta=1000000, rope_parameters=None, head_dim=16, use_cache=False)
    assert convert("verify", hf, second).status == 0


def test_another_model_with_a_field_left_to_its_default(hf, convert):
    """Heads of one configuration are said, of the other they follow: no field is on both sides."""
    second = copy(hf)
    bands = {}
    for layer in range(4):
        for part in ("k_proj.weight", "v_proj.weight", "k_proj.bias", "v_proj.bias"):
            bands[f"{LAYER}{layer}.self_attn.{part}"] = lambda t: torch.cat([t, t])
    edit(second, **bands)
    config = json.loads((second / "config.json").read_text())
    config["num_key_value_heads"] = None  # left out, it would be 32
    (second / "config.json").write_text(json.dumps(config))
    for pair in ((hf, second), (second, hf)):
        result = convert("verify", *pair)
        assert result.status == 1
        assert "differs config.json: kv_heads: " in result.text
        assert not (pair[1] / MANIFEST).exists()


def test_json_carries_the_differences(hf, megatron, convert):
    equal = convert("verify", hf, megatron, "--json")
    assert equal.status == 0
    assert equal.err == ""
    assert equal.json["equal"] is True
    assert equal.json["differences"] == []
    assert equal.json["tensors"] == 51
    assert equal.json["nbytes"] == sum(
        tensor.nbytes for tensor in load_file(hf / "model.safetensors").values()
    )
    assert equal.json["digests"] == sums(hf)
    assert equal.json["notes"][-1] == f"wrote {megatron / MANIFEST}"
    (megatron / MANIFEST).unlink()
    flip(megatron, "output_layer.weight", (511, 0), bit=30)
    flip(megatron, "decoder.final_layernorm.weight", (0,), bit=31)
    edit_config(megatron / "hf", rms_norm_eps=0.5)
    result = convert("verify", hf, megatron, "--json")
    assert result.status == 1
    assert result.err == ""
    assert result.json["equal"] is False
    config, norm, padding = result.json["differences"]
    assert config == "config.json: rms_norm_eps: 1e-05 against 0.5"
    value = load_file(hf / "model.safetensors")["model.norm.weight"][0].item()
    assert norm == (
        f"model.norm.weight: 1 of 64 rows differ, from row 0 to 0; first [0]: {value} against "
        f"{-value}"
    )
    assert padding.startswith("output_layer.weight in ")
    (note,) = result.json["notes"]
    assert "which would cut off 3 rows that are no padding" in note


def test_several_differences_are_all_named(hf, megatron, convert):
    flip(megatron, QKV + "weight", (0, 0, 0))
    flip(megatron, QKV + "weight", (0, 17, 3))
    flip(megatron, QKV + "bias", (3, 127))
    result = convert("verify", hf, megatron)
    assert result.status == 1
    assert f"{LAYER}0.self_attn.q_proj.weight: 2 of 64 rows differ, from row 0 to 17" in result.text
    assert f"{LAYER}3.self_attn.v_proj.bias: 1 of 32 rows differ" in result.text
    assert result.text.count("differs ") == 2


def test_folders_that_are_not_there(hf, tmp_path, convert):
    for pair in ((hf, tmp_path / "none"), (tmp_path / "none", hf), (tmp_path / "none",)):
        result = convert("verify", *pair)
        assert result.status == 1
        assert f"megaprune: error: {tmp_path / 'none'} is not a folder" in result.text
    (tmp_path / "empty").mkdir()
    result = convert("verify", hf, tmp_path / "empty")
    assert result.status == 1
    assert "is neither a Hugging Face model nor a Megatron-core checkpoint" in result.text


def test_a_checkpoint_without_its_config_is_read_by_that_of_the_other(
    hf, megatron, tmp_path, convert
):
    unpadded = tmp_path / "unpadded"
    assert convert("to-megatron", "--hf", hf, "--out", unpadded, "--no-verify").status == 0
    shutil.rmtree(megatron / "hf")
    for good in (hf, unpadded):
        for pair in ((good, megatron), (megatron, good)):
            assert convert("verify", *pair).status == 0
            (pair[1] / MANIFEST).unlink()
    flip(unpadded, "output_layer.weight", (17, 0))
    assert_found(convert, hf, unpadded, "lm_head.weight: 1 of 509 rows differ, from row 17")
    alone = convert("verify", megatron)
    assert alone.status == 1
    assert f"{megatron} keeps no config.json" in alone.text
