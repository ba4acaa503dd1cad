"""Which model has drawn an evaluation's responses."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from megaprune import schema
from megaprune.data import load_tokenizer
from megaprune.errors import InputError
from megaprune.evaluation.identity import (
    PARTS,
    differing_parts,
    model_identity,
    read_identity,
    record_identity,
)
from megaprune.recipes.tiny import FOLDER


@pytest.fixture
def model(tmp_path):
    return shutil.copytree(FOLDER / "model", tmp_path / "model")


def identity(folder):
    return model_identity(folder, load_tokenizer(folder))


def with_tensors(change):
    def apply(model):
        path = model / "model.safetensors"
        save_file(change(load_file(path)), path, {"format": "pt"})

    return apply


def one_element(tensors):
    name = max(tensors, key=lambda name: tensors[name].numel())
    tensors[name].view(-1)[0] += 1e-3
    return tensors


def other_key(model):
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rope_theta": 12345.0}))


def same_model(model):
    """In two files, and by another version of transformers."""
    path = model / "model.safetensors"
    tensors = load_file(path)
    names, files = sorted(tensors), {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, model / file, {"format": "pt"})
        files |= dict.fromkeys(part, file)
    path.unlink()
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"transformers_version": "9"}))


@pytest.mark.parametrize(
    ("change", "different"),
    [
        (lambda model: None, []),
        (same_model, []),
        (with_tensors(one_element), ["weights"]),
        (other_key, ["config"]),
    ],
)
def test_what_differs(model, change, different):
    before = identity(model)
    assert set(before) == set(PARTS)
    change(model)
    after = identity(model)
    assert [name for name in PARTS if after[name] != before[name]] == different
    words = differing_parts(after, before)
    assert words.count("another") == len(different)
    assert all(PARTS[name] in words for name in different)


def test_a_folder_keeps_the_first_identity(model, tmp_path):
    ours = identity(model)
    record_identity(tmp_path, ours)
    record_identity(tmp_path, ours)
    assert read_identity(tmp_path) == ours
    with pytest.raises(InputError, match="has responses of another model than the folder of model"):
        record_identity(tmp_path, {**ours, "weights": "0" * 64})


def test_responses_without_an_identity_get_none(tmp_path):
    (tmp_path / "samples" / "set").mkdir(parents=True)
    (tmp_path / "samples" / "set" / "part_0_000001.parquet").write_bytes(b"of an older version")
    record_identity(tmp_path, dict.fromkeys(PARTS, "a"))
    assert not (tmp_path / schema.IDENTITY_FILE).exists()
    with pytest.raises(InputError, match="which says which model drew the responses"):
        read_identity(tmp_path)
