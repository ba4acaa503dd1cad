"""Rows of a checkpoint beyond config.json's vocab_size: padding, or tokens that training added."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from test_bad_input import store_arguments

from megaprune.recipes.tiny_models import make_tiny
from megaprune.weights.files.vocabulary import look_at, token_count

EMBEDDING, HEAD = "embedding.word_embeddings.weight", "output_layer.weight"
ROW = torch.linspace(-1, 1, 8)


def rows(*values):
    """Rows of a vocabulary of two tokens, and those beyond: each a multiple of one row."""
    return torch.stack([ROW, 3 * ROW, *(value * ROW for value in values)])


def seen(embedding, head=None, args=None, side=None):
    tensors = {EMBEDDING: embedding} | ({} if head is None else {HEAD: head})
    return look_at(
        lambda name, box: tensors[name][box.slices],
        {name: tuple(tensor.shape) for name, tensor in tensors.items()},
        2,
        args or {},
        side or {},
    )


@pytest.mark.parametrize(
    ("beyond", "tokens", "padding"),
    [
        ((0, 0, 0), 2, "all are zero"),
        ((-0.0, 0, -0.0), 2, "all are zero"),
        ((5, 5, 5), 2, "all are equal"),
        ((5, 5 + 1e-6, 5), 2, "all are equal"),  # they got equal gradients, but for rounding
        ((3,), 2, "it equals the last token's"),
        ((5,), 3, ""),
        ((1e-30,), 3, ""),
        ((5, 0, 0), 3, "all are zero"),
        ((0, 5, 0), 4, "all are zero"),
        ((0, 0, 5), 5, ""),
        ((4, 5, 6), 5, ""),
        ((5, 5, 7, 7), 4, "all are equal"),
        ((float("nan"), float("nan")), 4, ""),
        ((float("inf"), float("inf")), 4, ""),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_that_are_zero_or_equal_are_padding(beyond, tokens, padding, dtype):
    vocabulary = seen(rows(*beyond).to(dtype))
    assert vocabulary.tokens == tokens
    assert vocabulary.padding == padding
    assert bool(vocabulary.problem) == (tokens > 2)
    if tokens > 2:
        assert f"{tokens - 2} row" in vocabulary.problem
        assert "--keep-vocabulary, which keeps what would be cut off and writes vocab_size=" in (
            vocabulary.problem
        )


def test_a_long_tail_is_looked_at_part_by_part(monkeypatch):
    from megaprune.weights.files import vocabulary

    monkeypatch.setattr(vocabulary, "_BAND", 24)  # three rows
    for count in range(1, 9):
        assert seen(rows(*[0] * count)).tokens == 2
        for token in range(count):
            values = [0] * count
            values[token] = 7
            assert seen(rows(*values)).tokens == token + 3
        assert seen(rows(*range(4, 4 + count))).tokens == count + 2


def test_either_matrix_may_have_them():
    zeros = rows(0, 0)
    assert seen(zeros, zeros).problem == ""
    for pair in ((rows(5, 0), zeros), (zeros, rows(5, 0))):
        assert seen(*pair).tokens == 3
    both = seen(zeros, rows(5, 5))
    assert both.padding == f"{EMBEDDING}: all are zero, {HEAD}: all are equal"


def test_arguments_and_tokenizer_may_know_of_more(tmp_path):
    zeros = rows(0, 0, 0)
    assert seen(zeros, args={"vocab_size": 2}).notes == [
        "3 rows above vocab_size=2 are padding, and not part of the model: all are zero; the "
        "training arguments say vocab_size=2"
    ]
    grown = seen(zeros, args={"vocab_size": 4})
    assert (grown.tokens, grown.reasons) == (4, ("the training arguments say vocab_size=4",))
    # What nobody asked is not claimed, and a smaller number is no reason: config.json may be padded.
    assert seen(zeros).notes[0].endswith("all are zero")
    assert seen(zeros, args={"vocab_size": 1}).problem == ""
    assert seen(zeros, args={"vocab_size": None}).problem == ""
    for name, content in {
        "tokenizer.json": {"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 3}]},
        "vocab.json": {"a": 0, "b": 3},
        "added_tokens.json": {"<new>": 3},
        "tokenizer_config.json": {"added_tokens_decoder": {"3": {"content": "<new>"}}},
    }.items():
        (tmp_path / name).write_text(json.dumps(content))
        grown = seen(zeros, side={name: tmp_path / name})
        assert (grown.tokens, grown.reasons) == (4, (f"{name} numbers its tokens up to 3",))
    assert token_count({"tokenizer.model": tmp_path / "tokenizer.model"}) == (0, "")


@pytest.mark.parametrize(
    "content",
    [
        [], {}, {"model": None}, {"model": {"vocab": {"a": "0"}}}, {"added_tokens": {"id": 7}},
        {"added_tokens": [7, {"id": -1}, {"id": True}, {"id": 1 << 60}]},
    ],
)  # fmt: skip
def test_a_tokenizer_of_another_kind_says_nothing(tmp_path, content):
    (path := tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert token_count({path.name: path}) == (0, "")


def test_a_list_of_pieces_is_counted(tmp_path):
    (path := tmp_path / "tokenizer.json").write_text(
        json.dumps({"model": {"vocab": [["a", 0.0], ["b", -1.0], ["c", -2.0]]}})
    )
    assert token_count({path.name: path}) == (3, "tokenizer.json numbers its tokens up to 2")


@pytest.fixture(params=["qwen2", "qwen2-tied"])
def grown(request, tiny_models, tmp_path, convert):
    """A checkpoint of 5 tokens more than the folder of its base, and the two folders' paths."""
    base = shutil.copytree(tiny_models[request.param], tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    tied = config["tie_word_embeddings"]
    bigger = make_tiny(
        tmp_path / "bigger",
        "qwen2",
        vocab_size=514,
        dtype=config["dtype"],
        tie_word_embeddings=tied,
    )
    out = tmp_path / "megatron"
    padded = ("--pad-vocab-to-multiple-of", 32)
    assert convert("to-megatron", "--hf", bigger, "--out", out, *padded, "--no-verify").status == 0
    shutil.rmtree(out / "hf")
    return base, bigger, out


def test_added_tokens_are_refused_or_kept(grown, tmp_path, convert):
    base, bigger, megatron = grown
    out = tmp_path / "out"
    convertible = ("to-hf", "--megatron", megatron, "--hf", base, "--out", out)
    refused = convert(*convertible)
    assert refused.status == 1
    assert "which would cut off 5 rows that are no padding: rows 509 to 513 of" in refused.text
    assert not out.exists()
    kept = convert(*convertible, "--keep-vocabulary", "--json")
    assert kept.status == 0
    _, tokens, padding = kept.json["notes"]
    assert tokens.startswith("5 rows above config.json's vocab_size=509 are kept")
    assert tokens.endswith("but tokenizer.json numbers its tokens up to 508")
    assert padding.startswith("30 rows above vocab_size=514 are padding")
    assert json.loads((out / "config.json").read_text())["vocab_size"] == 514
    expected = load_file(bigger / "model.safetensors")
    exported = load_file(out / "model.safetensors")
    assert {n: (t.shape, t.dtype) for n, t in exported.items()} == {
        n: (t.shape, t.dtype) for n, t in expected.items()
    }
    assert all(torch.equal(exported[name], expected[name]) for name in expected)
    assert convert("verify", bigger, out).status == 0
    assert convert("verify", megatron, out).status == 0
    # In the folder of its own, nothing needs to be said.
    assert (
        convert("to-hf", "--megatron", megatron, "--hf", bigger, "--out", tmp_path / "b").status
        == 0
    )


def test_what_training_says_of_the_vocabulary(hf, megatron, tmp_path, convert):
    """Rows that are all zero, as of tokens that were added and never trained."""
    out = tmp_path / "out"
    store_arguments(megatron, vocab_size=511, padded_vocab_size=512)
    refused = convert("to-hf", "--megatron", megatron, "--out", out)
    assert refused.status == 1
    assert "cut off 2 rows that are no padding: the training arguments say vocab_size=511" in (
        refused.text
    )
    assert convert("to-hf", "--megatron", megatron, "--out", out, "--keep-vocabulary").status == 0
    assert json.loads((out / "config.json").read_text())["vocab_size"] == 511
    assert convert("verify", megatron, out).status == 1
    assert convert("verify", megatron, out, "--keep-vocabulary").status == 0
    store_arguments(megatron, vocab_size=509, padded_vocab_size=512)
    assert convert("to-hf", "--megatron", megatron, "--out", out, "--overwrite").status == 0
    for size in ({"padded_vocab_size": 640}, {"vocab_size": 513}):
        store_arguments(megatron, **size)
        refused = convert("to-hf", "--megatron", megatron, "--out", tmp_path / "other")
        (name, value), *_ = size.items()
        assert f"rows of the embedding: 512 against {name}={value}" in refused.text


def test_a_tokenizer_of_more_tokens_is_noted_on_the_way_to_megatron(hf, tmp_path, convert):
    tokenizer = json.loads((hf / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": 509, "content": "<n>"})
    (hf / "tokenizer.json").write_text(json.dumps(tokenizer))
    out = tmp_path / "out"
    padded = ("--pad-vocab-to-multiple-of", 128)
    done = convert("to-megatron", "--hf", hf, "--out", out, *padded)
    assert done.status == 0
    assert "tokenizer.json numbers its tokens up to 509; the model has 509 rows" in done.text
    refused = convert("to-hf", "--megatron", out, "--out", tmp_path / "back")
    assert "cut off 1 row that is no padding: tokenizer.json numbers its tokens" in refused.text
