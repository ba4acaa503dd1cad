"""Side files go with what they need, and what describes other weights stays behind, with a note."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from strangers import edit_json

from megaprune.errors import InputError
from megaprune.weights.files.hf_folder import HfFolder
from megaprune.weights.files.megatron_folder import MegatronFolder
from megaprune.weights.files.side_files import side_file_notes, side_files

DOWN = "model.layers.1.mlp.down_proj.weight"


def notes_of(folder, words):
    return [note for note in folder.notes if words in note]


# Quantization


STALE = {
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"},
    "gptq": {"quant_method": "gptq", "bits": 4, "desc_act": False},
    "fp8": {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
    "of a method that is not said": {"bits": 8},
}


@pytest.mark.parametrize("name", STALE)
def test_a_quantization_of_plain_weights_is_said_and_not_passed_on(hf, tmp_path, convert, name):
    before = json.loads((hf / "config.json").read_text())
    edit_json(hf / "config.json", lambda c: c.update(quantization_config=STALE[name]))
    (hf / "quantize_config.json").write_text("{}")
    there, back = tmp_path / "there", tmp_path / "back"
    done = convert("to-megatron", "--hf", hf, "--out", there, "--json")
    assert done.status == 0, done.err
    method = STALE[name].get("quant_method", "bits")
    (note,) = [n for n in done.json["notes"] if "are quantized" in n]
    assert method in note
    assert "quantize_config.json is not copied: it describes a quantization" in done.out
    assert json.loads((there / "hf" / "config.json").read_text()) == before
    assert not (there / "hf" / "quantize_config.json").exists()
    assert convert("to-hf", "--megatron", there, "--out", back).status == 0
    assert json.loads((back / "config.json").read_text()) == before
    assert convert("verify", hf, back).status == 0


def test_a_quantized_configuration_given_beside_a_checkpoint(hf, megatron, tmp_path, convert):
    shutil.rmtree(megatron / "hf")
    edit_json(hf / "config.json", lambda c: c.update(quantization_config=STALE["awq"]))
    out = tmp_path / "out"
    done = convert("to-hf", "--megatron", megatron, "--hf", hf, "--out", out, "--json")
    assert done.status == 0, done.err
    assert any(
        "quantized (awq); those of the checkpoint are plain" in n for n in done.json["notes"]
    )
    assert "quantization_config" not in json.loads((out / "config.json").read_text())


QUANTIZED = {
    "awq": lambda t: {"qweight": t.int(), "qzeros": t[:1].int(), "scales": t[:1].half()},
    "bitsandbytes": lambda t: {"weight": t.to(torch.uint8), "weight.absmax": t[0]},
    "fp8": lambda t: {"weight": t.to(torch.float8_e4m3fn), "weight_scale_inv": t[:1]},
    "int8": lambda t: {"weight": t.to(torch.int8), "SCB": t[:, 0]},
}


@pytest.mark.parametrize("said", [True, False])
@pytest.mark.parametrize("name", QUANTIZED)
def test_weights_that_are_quantized_are_refused(hf, name, said):
    tensors = load_file(hf / "model.safetensors")
    stem = DOWN.removesuffix("weight")
    made = QUANTIZED[name](tensors.pop(DOWN))
    save_file(
        {**tensors, **{stem + n: t.contiguous() for n, t in made.items()}}, hf / "model.safetensors"
    )
    if said:
        edit_json(
            hf / "config.json", lambda c: c.update(quantization_config={"quant_method": name})
        )
    with pytest.raises(InputError, match="Quantized weights are not read") as error:
        HfFolder(hf)
    assert stem in str(error.value)
    assert " tensors in the file are of other types" in str(error.value)
    assert (f"({name})" in str(error.value)) == said


# Adapters, code, tokenizers


def test_an_adapter_beside_a_model_stays_behind(hf, megatron):
    for folder in (hf, megatron / "hf"):
        (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "Qwen/QwQ-32B"}')
        (folder / "adapter_model.safetensors").touch()
    for opened in (HfFolder(hf), MegatronFolder(megatron)):
        assert "adapter_config.json" not in opened.side_files()
        (note,) = notes_of(opened, "adapter_config.json is not copied")
        assert "merge it first" in note


CODE = {
    "tokenization_my.py": "from .vocabulary import WORDS\nfrom . import helper\nimport os\n",
    "vocabulary.py": "from .helper import f\n",
    "helper.py": "from .vocabulary import WORDS\n",
    "modeling_other.py": "",
}


@pytest.mark.parametrize(
    "auto_map",
    [
        {"AutoTokenizer": ["tokenization_my.MyTokenizer", None]},
        {"AutoTokenizer": "tokenization_my.MyTokenizer"},
        ["tokenization_my.Slow", "tokenization_my.Fast"],
    ],
    ids=str,
)
def test_code_of_a_tokenizer_goes_along(hf, tmp_path, convert, auto_map):
    for name, text in CODE.items():
        (hf / name).write_text(text)
    edit_json(hf / "tokenizer_config.json", lambda c: c.update(auto_map=auto_map))
    there, back = tmp_path / "there", tmp_path / "back"
    assert convert("to-megatron", "--hf", hf, "--out", there).status == 0
    done = convert("to-hf", "--megatron", there, "--out", back, "--json")
    code = ["helper.py", "tokenization_my.py", "vocabulary.py"]
    assert sorted(path.name for path in back.glob("*.py")) == code
    assert all((back / name).read_text() == CODE[name] for name in code)
    assert any(f"{', '.join(code)} is copied" in note for note in done.json["notes"])
    assert notes_of(HfFolder(hf), "modeling_other.py is not copied: it is code")


def test_code_on_the_hub_stays_there(hf):
    reference = {"AutoTokenizer": ["org/name--tokenization_my.MyTokenizer", None]}
    edit_json(hf / "tokenizer_config.json", lambda c: c.update(auto_map=reference))
    assert not [name for name in side_files(hf) if name.endswith(".py")]


@pytest.mark.parametrize("lost", ["tokenization_my.py", "vocabulary.py"])
@pytest.mark.parametrize("how", ["gone", "a link out"])
def test_code_that_is_not_there_is_refused(hf, tmp_path, lost, how):
    for name, text in CODE.items():
        (hf / name).write_text(text)
    edit_json(
        hf / "tokenizer_config.json", lambda c: c.update(auto_map={"A": ["tokenization_my.T"]})
    )
    (hf / lost).rename(tmp_path / lost)
    if how == "a link out":
        (hf / lost).symlink_to(tmp_path / lost)
    with pytest.raises(InputError, match=f"needs the code in {lost}, which is not in {hf}"):
        HfFolder(hf)


@pytest.mark.parametrize("module", ["../evil", "a/b", "/etc/passwd", ""])
def test_code_is_named_by_plain_names(hf, module):
    edit_json(hf / "tokenizer_config.json", lambda c: c.update(auto_map={"A": f"{module}.T"}))
    with pytest.raises(InputError):
        HfFolder(hf)


def test_code_of_a_model_is_refused(hf):
    """Who knows what it computes."""
    (hf / "modeling_my.py").touch()
    auto_map = {"AutoModelForCausalLM": "modeling_my.My"}
    edit_json(hf / "config.json", lambda c: c.update(auto_map=auto_map))
    with pytest.raises(InputError, match="auto_map="):
        HfFolder(hf)


TOKENIZERS = {
    # What is there, and whether that is a tokenizer.
    "tokenizer.json": (["tokenizer.json"], True),
    "sentencepiece": (["tokenizer.model"], True),
    "words and merges": (["vocab.json", "merges.txt"], True),
    "tiktoken": (["qwen.tiktoken"], True),
    "words alone": (["vocab.json"], False),
    "settings alone": (["tokenizer_config.json", "special_tokens_map.json"], False),
    "nothing": ([], False),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_that_is_missing_is_said(tmp_path, name):
    names, there = TOKENIZERS[name]
    for file in names:
        (tmp_path / file).write_text("{}")
    said = [note for note in side_file_notes(tmp_path) if "there is no tokenizer" in note]
    assert (said == []) == there


def test_a_pointer_in_place_of_a_file(hf):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0a1b\nsize 11422654\n"
    (hf / "tokenizer.json").write_text(pointer)
    folder = HfFolder(hf)
    assert notes_of(folder, "tokenizer.json is not copied: it is a pointer of Git LFS")
    assert notes_of(folder, "there is no tokenizer")


# Weights behind links, and an index that lists too much


def index(folder, **more):
    names = dict.fromkeys(load_file(folder / "model.safetensors"), "model-1.safetensors")
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names | more}))


@pytest.mark.parametrize("name", ["model.safetensors", "model-1.safetensors"])
@pytest.mark.parametrize("absolute", [True, False])
def test_weights_are_read_through_links(hf, tmp_path, convert, name, absolute):
    other = shutil.copytree(hf, tmp_path / "other")
    if name != "model.safetensors":
        index(hf)
    store = tmp_path / "store" / "0a1b2c"  # a name without an ending, as the hub's cache has
    store.parent.mkdir()
    (hf / name).rename(store)
    (hf / name).symlink_to(store if absolute else f"../store/{store.name}")
    done = convert("to-megatron", "--hf", hf, "--out", tmp_path / "out", "--json")
    assert done.status == 0, done.err
    (note,) = [n for n in done.json["notes"] if "links that lead out" in n]
    assert f"{name} to {store}" in note
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    assert convert("verify", other, tmp_path / "out").status == 0


@pytest.mark.parametrize("target", ["/dev/zero", "/proc/self/environ", "/nowhere", "/etc/hostname"])
def test_links_of_weights_that_lead_to_none(hf, target):
    (hf / "model.safetensors").unlink()
    (hf / "model.safetensors").symlink_to(target)
    with pytest.raises(InputError, match=str(hf)):
        HfFolder(hf)


def test_an_index_that_lists_the_tied_head(tiny_models, tmp_path, convert):
    tied = shutil.copytree(tiny_models["qwen2-tied"], tmp_path / "tied")
    index(tied, **{"lm_head.weight": "model-1.safetensors"})
    done = convert("to-megatron", "--hf", tied, "--out", tmp_path / "out", "--json")
    assert done.status == 0, done.err
    assert any("lists lm_head.weight, which no file has" in note for note in done.json["notes"])
    assert convert("verify", tied, tmp_path / "out").status == 0


@pytest.mark.parametrize("name", ["lm_head.weight", "model.norm.bias"])
def test_an_index_that_lists_what_is_nowhere(hf, tiny_models, tmp_path, name):
    tied = shutil.copytree(tiny_models["qwen2-tied"], tmp_path / "tied")
    folder = hf if name == "lm_head.weight" else tied  # a head that is not tied is needed
    if folder is hf:
        tensors = load_file(hf / "model.safetensors")
        tensors.pop(name)
        save_file(tensors, hf / "model.safetensors")
    index(folder, **{name: "model-1.safetensors"})
    with pytest.raises(InputError, match=f"tensor {name} is missing"):
        HfFolder(folder)


# Types of elements


OVERFLOWS = {
    # (stored type, target, values that are put in)
    "bfloat16 to float16": (torch.bfloat16, "float16", [1e5, -7e4, 3e38]),
    "float32 to float16": (torch.float32, "float16", [65520.0]),
    "float32 to bfloat16": (torch.float32, "bfloat16", [3.4e38, -3.4e38]),
    "float64 to float32": (torch.float64, "float32", [1e39]),
    "beside infinity and NaN": (
        torch.float32, "float16", [float("inf"), 1e6, float("nan"), -float("inf")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("direction", ["to-megatron", "to-hf"])
@pytest.mark.parametrize("tensor", [DOWN, "model.layers.2.self_attn.k_proj.weight"])
@pytest.mark.parametrize("name", OVERFLOWS)
def test_elements_that_a_type_cannot_hold(hf, tmp_path, convert, direction, tensor, name):
    stored, target, values = OVERFLOWS[name]
    tensors = {n: t.to(stored) for n, t in load_file(hf / "model.safetensors").items()}
    for place, value in enumerate(values):
        tensors[tensor].view(-1)[37 * place + 1] = value
    save_file(tensors, hf / "model.safetensors", {"format": "pt"})
    source = ("--hf", hf)
    if direction == "to-hf":
        assert convert("to-megatron", *source, "--out", tmp_path / "there").status == 0
        source = ("--megatron", tmp_path / "there")
    done = convert(direction, *source, "--out", tmp_path / "out", "--dtype", target)
    assert done.status == 1
    count = sum(abs(v) < float("inf") for v in values)
    assert f"{tensor}" in done.err
    assert f": {count} of {tensors[tensor].numel()} elements are beyond" in done.err
    assert not (tmp_path / "out").exists()


def test_what_was_infinite_before_and_the_largest_numbers_stay(hf, tmp_path, convert):
    tensors = load_file(hf / "model.safetensors")
    largest = [65504.0, -65504.0, 65519.0, float("inf"), -float("inf"), float("nan")]
    tensors[DOWN].view(-1)[: len(largest)] = torch.tensor(largest)
    save_file(tensors, hf / "model.safetensors", {"format": "pt"})
    out = tmp_path / "out"
    assert convert("to-megatron", "--hf", hf, "--out", out, "--dtype", "float16").status == 0
    assert convert("verify", hf, out, "--dtype", "float16").status == 0


@pytest.mark.parametrize(("share", "said"), [(0.5, True), (0.002, False)])
def test_elements_that_become_zero_are_said_where_they_are_many(hf, tmp_path, convert, share, said):
    tensors = {n: t.bfloat16() for n, t in load_file(hf / "model.safetensors").items()}
    count = int(share * tensors[DOWN].numel())
    tensors[DOWN].view(-1)[:count] = 1e-9
    save_file(tensors, hf / "model.safetensors", {"format": "pt"})
    out = tmp_path / "out"
    done = convert("to-megatron", "--hf", hf, "--out", out, "--dtype", "float16", "--json")
    assert done.status == 0
    notes = [note for note in done.json["notes"] if "became zero" in note]
    assert bool(notes) == said
    if said:
        was = tensors[DOWN].count_nonzero() - tensors[DOWN].half().count_nonzero()
        assert f"{int(was)} elements of {DOWN} are too small" in notes[0]


# Generation


GENERATION = {
    # (in config.json, in generation_config.json), of each folder; the lines that differ
    "an end in config.json": (
        ({"eos_token_id": 1}, {}), ({"eos_token_id": 2}, {}), ["eos_token_id: 1 against 2"],
    ),
    "an end in generation_config.json": (
        ({"eos_token_id": 1}, {"eos_token_id": [1, 2]}), ({"eos_token_id": 1}, {}),
        ["eos_token_id: [1, 2] against 1"],
    ),
    "the same end in the other file": (
        ({"eos_token_id": 5}, {"eos_token_id": 1}), ({"eos_token_id": 1}, {}), [],
    ),
    "the same ends": (({}, {"eos_token_id": [2, 1, 2]}), ({}, {"eos_token_id": [1, 2]}), []),
    "one end in a list": (({}, {"eos_token_id": [7]}), ({"eos_token_id": 7}, {}), []),
    "null is nothing": (({}, {"top_k": None}), ({}, {}), []),
    "sampling": (
        ({}, {"temperature": 0.6, "top_p": 0.95}), ({}, {"temperature": 0.7, "top_p": 0.95}),
        ["temperature: 0.6 against 0.7"],
    ),
    "sampling on one side": (
        ({}, {"temperature": 0.6, "top_k": 40}), ({}, {}),
        ["temperature: 0.6 against nothing", "top_k: 40 against nothing"],
    ),
    "padding": (({"pad_token_id": 0}, {}), ({}, {}), ["pad_token_id: 0 against nothing"]),
    "what made it": (({}, {"transformers_version": "4.1"}), ({}, {"use_cache": True}), []),
}  # fmt: skip


@pytest.mark.parametrize("name", GENERATION)
def test_generation_is_apart_from_weights(hf, tmp_path, convert, name):
    first, second, lines = GENERATION[name]
    other = shutil.copytree(hf, tmp_path / "other")
    for folder, (config, generation) in ((hf, first), (other, second)):
        for key in ("eos_token_id", "bos_token_id", "pad_token_id"):
            edit_json(folder / "config.json", lambda c, key=key: c.pop(key, None))
        edit_json(folder / "config.json", lambda c, new=config: c.update(new))
        (folder / "generation_config.json").write_text(json.dumps(generation))
    done = convert("verify", hf, other, "--json")
    assert done.status == 0
    assert done.json["equal"]
    assert done.json["generation"] == lines
    shown = convert("verify", hf, other)
    assert shown.status == 0
    assert ("weights equal" in shown.text) == bool(lines)
    for line in lines:
        assert f"generation differs {line}" in shown.text


def test_generation_and_weights_both_differ(hf, megatron, convert):
    tensors = load_file(hf / "model.safetensors")
    tensors[DOWN][0, 0] += 1
    save_file(tensors, hf / "model.safetensors", {"format": "pt"})
    edit_json(hf / "generation_config.json", lambda c: c.update(eos_token_id=[3, 4]))
    done = convert("verify", hf, megatron)
    assert done.status == 1
    assert "generation differs eos_token_id: [3, 4] against" in done.text
    assert f"differs {DOWN}" in done.text
    assert "not equal" in done.text


def test_generation_of_the_folder_that_is_given_is_not_taken(hf, megatron, tmp_path, convert):
    """The checkpoint keeps its own."""
    edit_json(hf / "generation_config.json", lambda c: c.update(temperature=0.25))
    out = tmp_path / "out"
    done = convert("to-hf", "--megatron", megatron, "--hf", hf, "--out", out, "--json")
    assert done.status == 0
    assert any("temperature: nothing against 0.25" in note for note in done.json["notes"])
    assert "temperature" not in json.loads((out / "generation_config.json").read_text())


def test_a_generation_config_that_is_none(hf, tmp_path, convert):
    other = shutil.copytree(hf, tmp_path / "other")
    (other / "generation_config.json").write_text("[")
    done = convert("verify", hf, other)
    assert done.status == 0
    assert "generation_config.json is not valid JSON" in done.text
    os.remove(other / "generation_config.json")
    assert convert("verify", hf, other).status == 0
