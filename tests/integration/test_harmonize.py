"""Harmonizing with both engines: killed in every part, the same as never killed; what is refused."""

import hashlib
import importlib.util
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from launch import kill_when, ran, ran_well
from megaprune import schema
from megaprune.data import load_tokenizer
from megaprune.evaluation.identity import model_identity, read_identity
from megaprune.recipes.tiny import FOLDER

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
    pytest.mark.timeout(1800),
]

SECONDS = 600
FREE = ("seconds", "share/", "tokens_per_second", "sync/", "time")


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    """A harmonizing that takes seconds, but for the start of its engines."""
    few = tmp_path_factory.mktemp("few") / "few.parquet"
    pq.write_table(pq.read_table(FOLDER / "data" / "test.parquet").slice(0, 8), few)
    return [
        "harmonize", "recipe=tiny_overthinker_harmonize", "presample.problems=12", "presample.n=4",
        "presample.max_response_length=256", "processes=1", "data.train_batch_size=4", "steps=3",
        "checkpoint.every=1", "checkpoint.wait=true", "rollout.max_num_seqs=48", f"test.data={few}",
        "test.n=1", "test.max_response_length=128",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory, fields):
    """One that is never killed: its folder."""
    out = tmp_path_factory.mktemp("whole") / "out"
    said = ran_well(*fields, f"out={out}", seconds=SECONDS)
    assert "step 3/3" in said
    return out


def metrics(out):
    path = out / "round_1" / schema.TRAIN_FOLDER / schema.METRICS_FILE
    if not path.is_file():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith(FREE)} for line in lines]


def content(out):
    """Digests of what came out of every part, and the numbers of the steps and of the test."""
    round_1 = out / "round_1"
    files = [
        round_1 / schema.WEIGHTS_FILE,
        round_1 / schema.STATISTICS_FILE,
        *sorted((round_1 / schema.REFERENCE_FOLDER).iterdir()),
        out / schema.MODEL_FOLDER / "model.safetensors",
        out / schema.HARMONIZE_FILE,
    ]
    digests = {
        str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files
    }
    return digests | {"metrics": metrics(out)}


def samples(folder):
    return any((folder / schema.SAMPLES_FOLDER).glob(f"*/{schema.PART_FILES}"))


def test_all_parts_are_there(whole):
    rows = pq.read_table(whole / "round_1" / schema.WEIGHTS_FILE).to_pylist()
    assert len(rows) == 48
    record = json.loads((whole / schema.HARMONIZE_FILE).read_text())
    (of_round,) = record["rounds"]
    assert of_round["statistics"]["responses"] == 48
    assert of_round["steps"] == 3
    (of_set,) = record["test"].values()
    after = pq.ParquetDataset(whole / schema.AFTER_FOLDER / schema.SAMPLES_FOLDER).read()
    assert of_set["after"]["accuracy"] == pytest.approx(np.mean(after["match"].to_pylist()))
    assert of_set["after"]["length"] == pytest.approx(np.mean(after["length"].to_pylist()))
    gain = 1 - of_set["after"]["length"] / of_set["before"]["length"]
    change = of_set["after"]["accuracy"] / of_set["before"]["accuracy"] - 1
    signed, absolute = gain + (3 if change > 0 else -5) * abs(change), gain + 3 * abs(change)
    assert of_set["against"]["aes"] == pytest.approx({"signed": signed, "absolute": absolute})


def test_training_starts_no_engine(whole):
    """Nothing is drawn and nothing is measured in the round's run."""
    run = whole / "round_1" / schema.TRAIN_FOLDER
    lines = [json.loads(line) for line in (run / schema.METRICS_FILE).open()]
    assert not any(name.startswith("sync/") for line in lines for name in line)
    (start,) = (json.loads(line) for line in (run / schema.STARTS_FILE).open())
    assert "first sync" not in start["seconds"]
    assert "actor" in start["seconds"]


def test_no_engine_computes_the_reference_while_training(whole):
    """At the first step the policy is the reference: the loss is minus the mean weight."""
    first = metrics(whole)[0]
    step = pq.read_table(
        whole / "round_1" / schema.TRAIN_FOLDER / schema.SAMPLES_FOLDER / schema.step_file(1)
    )
    expected = -np.mean(step["advantage"].to_pylist())
    assert first["loss"] == pytest.approx(expected, abs=1e-5)


def test_killed_in_every_part(whole, fields, tmp_path):
    out = tmp_path / "out"
    command, round_1 = [*fields, f"out={out}"], out / "round_1"
    train = round_1 / schema.TRAIN_FOLDER
    moments = [
        (round_1 / schema.PRESAMPLE_FOLDER / schema.CONFIG_FILE).is_file,
        (round_1 / schema.STATISTICS_FILE).is_file,
        lambda: any((round_1 / schema.REFERENCE_FOLDER).glob(schema.REFERENCE_FILES)),
        lambda: len(metrics(out)) == 2,
        lambda: samples(out / schema.BEFORE_FOLDER),
        (out / schema.AFTER_FOLDER / schema.CONFIG_FILE).is_file,
    ]
    for moment in moments:
        kill_when(moment, *command, seconds=SECONDS)
    assert (train / schema.MODEL_FOLDER).is_dir()
    said = ran_well(*command, seconds=SECONDS)
    assert "drawing" not in said
    assert "step 3/3" not in said
    assert content(out) == content(whole)


def test_a_finished_harmonizing_again(whole, fields):
    before = content(whole)
    said = ran_well(*fields, f"out={whole}", seconds=SECONDS)
    assert "step 1/" not in said
    assert "drawing" not in said
    assert content(whole) == before


def test_responses_that_are_there_are_learned_from(whole, fields, tmp_path):
    """The same weights, without a response drawn."""
    given = whole / "round_1" / schema.PRESAMPLE_FOLDER
    out = tmp_path / "out"
    more = [f"presample.folder={given}", "test.data=[]", f"out={out}"]
    said = ran_well(*fields, *more, seconds=SECONDS)
    assert "drawing" not in said
    ours, theirs = content(out), content(whole)
    for result in (ours, theirs):
        del result[schema.HARMONIZE_FILE]
    assert ours == theirs


@pytest.mark.parametrize("method", ["sft", "dpo", "simpo"])
def test_other_methods_learn_from_the_same_responses(whole, fields, tmp_path, method):
    given, out = whole / "round_1" / schema.PRESAMPLE_FOLDER, tmp_path / "out"
    more = [f"method={method}", "steps=1", "test.data=[]", "optimizer.schedule=constant"]
    ran_well(*fields, *more, f"presample.folder={given}", f"out={out}", seconds=SECONDS)
    (first,) = metrics(out)
    assert first["grad_norm"] > 0
    rows = pq.read_table(out / "round_1" / schema.WEIGHTS_FILE).to_pylist()
    chosen = [row for row in rows if row["selected"]]
    assert all(row["correct"] for row in chosen)
    if method == "sft":
        assert {row["weight"] for row in chosen} == {1.0}
    else:
        assert sorted({row["weight"] for row in chosen}) == [-1.0, 1.0]
    if method == "dpo":  # the first step begins at the reference
        assert first["loss"] == pytest.approx(np.log(2), abs=1e-5)
    has_reference = (out / "round_1" / schema.REFERENCE_FOLDER).is_dir()
    assert has_reference == (method == "dpo")
    before = (FOLDER / "model" / "model.safetensors").read_bytes()
    assert (out / schema.MODEL_FOLDER / "model.safetensors").read_bytes() != before


def test_a_second_round_draws_from_the_model_of_the_first(fields, tmp_path):
    out = tmp_path / "out"
    more = ["rounds=2", "steps=1", "test.data=[]", "optimizer.schedule=constant"]
    ran_well(*fields, *more, "optimizer.lr=1e-3", f"out={out}", seconds=SECONDS)
    record = json.loads((out / schema.HARMONIZE_FILE).read_text())
    assert [of_round["round"] for of_round in record["rounds"]] == [1, 2]
    models = [out / of_round["model"] for of_round in record["rounds"]]
    weights = [(model / "model.safetensors").read_bytes() for model in models]
    assert weights[0] != weights[1]
    assert (out / schema.MODEL_FOLDER).resolve() == models[1].resolve()
    second = out / "round_2" / schema.PRESAMPLE_FOLDER
    assert read_identity(second) != read_identity(out / "round_1" / schema.PRESAMPLE_FOLDER)
    assert read_identity(second) == model_identity(models[0], load_tokenizer(models[0]))
    # Its reference is the model of the first round: the loss begins at minus the mean weight.
    train = out / "round_2" / schema.TRAIN_FOLDER
    first = json.loads((train / schema.METRICS_FILE).read_text().splitlines()[0])
    step = pq.read_table(train / schema.SAMPLES_FOLDER / schema.step_file(1))
    assert first["loss"] == pytest.approx(-np.mean(step["advantage"].to_pylist()), abs=1e-5)


@pytest.fixture
def model(tmp_path):
    """A copy of the tiny overthinker that can be changed."""
    return shutil.copytree(FOLDER / "model", tmp_path / "model")


def scaled_weights(model):
    from safetensors.torch import load_file, save_file

    path = model / "model.safetensors"
    tensors = load_file(path)
    name = min(tensors)
    save_file({**tensors, name: tensors[name] * 1.01}, path, {"format": "pt"})


def another_template(model):
    """One that renders the same prompts."""
    for path in (model / "chat_template.jinja", model / "tokenizer_config.json"):
        if not path.is_file():
            continue
        if path.suffix == ".jinja":
            path.write_text(path.read_text() + "{# another #}")
        elif "chat_template" in (config := json.loads(path.read_text())):
            config["chat_template"] += "{# another #}"
            path.write_text(json.dumps(config))


def another_tokenizer(model):
    path = model / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    added = tokenizer["added_tokens"]
    named = next(token for token in added if token["content"] == "</think>")
    others = tokenizer["model"]["vocab"]
    free = max([*others.values(), *(token["id"] for token in added)]) + 1
    added.append({**named, "id": free, "content": "<another>"})
    path.write_text(json.dumps(tokenizer))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (scaled_weights, "another weights"),
        (another_template, "another chat template"),
        (another_tokenizer, "another tokenizer"),
    ],
)
def test_responses_of_another_model_are_refused(whole, fields, model, tmp_path, change, words):
    change(model)
    given = whole / "round_1" / schema.PRESAMPLE_FOLDER
    more = [f"presample.folder={given}", f"model={model}", f"out={tmp_path / 'out'}"]
    status, text = ran(*fields, *more, seconds=SECONDS)
    assert status == 1
    assert "its responses are not of model=" in text
    assert words in text
    assert text.count("another ") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("presample.n=5", "have fewer than presample.n=5 responses there"),
        ("presample.max_response_length=40", "more than presample.max_response_length=40"),
        ("presample.problems=13", "1 of 13 problems have fewer than"),
    ],
)
def test_responses_that_do_not_suffice_are_refused(whole, fields, tmp_path, field, words):
    given = whole / "round_1" / schema.PRESAMPLE_FOLDER
    more = [f"presample.folder={given}", f"out={tmp_path / 'out'}", field]
    status, text = ran(*fields, *more, "--check", "1", seconds=SECONDS)
    assert status == 1
    assert words in text
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_evaluation_is_refused(fields, tmp_path):
    (tmp_path / "empty").mkdir()
    more = [f"presample.folder={tmp_path / 'empty'}", f"out={tmp_path / 'out'}"]
    status, text = ran(*fields, *more, "--check", "1", seconds=SECONDS)
    assert status == 1
    assert "expected the folder of a `megaprune evaluate`" in text
