"""Evaluations with a real engine: killed, on other engines, and with early exits."""

import importlib.util
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from launch import kill_when, ran, ran_well
from megaprune.cli.main import main
from megaprune.evaluation import samples
from megaprune.recipes.tiny import FOLDER
from megaprune.schema import samples_schema

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
    pytest.mark.timeout(900),
]

PROBLEMS, N, EXITS = 24, 4, (24, 60)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Some of the overthinker's test problems."""
    path = tmp_path_factory.mktemp("data") / "some.parquet"
    pq.write_table(pq.read_table(FOLDER / "data" / "test.parquet").slice(0, PROBLEMS), path)
    return path


def command(data, out, *fields):
    return [
        "evaluate", f"model={FOLDER / 'model'}", f"data={data}", f"out={out}", f"n={N}",
        "max_response_length=400", "max_prompt_length=64", "dtype=float32", "rollout.enforce_eager=true", "budgets=50,100,400",
        "exit_at=" + ",".join(map(str, EXITS)), "write_seconds=0", "rollout.max_num_seqs=8",
        "processes=1", *fields,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """An evaluation that was never killed."""
    out = tmp_path_factory.mktemp("whole") / "evaluation"
    return out, ran_well(*command(data, out))


def rows(out):
    """All responses, by problem, number and early exit."""
    found = list(samples.read(out / "samples", *samples_schema().names))
    keyed = {(row["problem"], row["number"], row["exit_at"]): row for row in found}
    assert len(keyed) == len(found)  # each is there once
    return keyed


def assert_same(found, expected):
    """The same responses; log-probs to rounding, which depends on what is drawn beside them."""
    assert found.keys() == expected.keys()
    for key, row in found.items():
        other = expected[key]
        assert {**row, "log_probs": None} == {**other, "log_probs": None}
        np.testing.assert_allclose(row["log_probs"], other["log_probs"], atol=1e-4)


def summary(out):
    return json.loads((out / "summary.json").read_text())


def test_every_response_is_there(whole):
    out, _ = whole
    numbers = {(number, exit_at) for _, number, exit_at in rows(out)}
    assert numbers == {(n, b) for n in range(N) for b in (None, *EXITS)}
    assert len(rows(out)) == PROBLEMS * N * (1 + len(EXITS))


def test_the_summary_is_of_the_responses(whole):
    out, said = whole
    (found,) = summary(out)["sets"].values()
    plain = [row for (_, _, exit_at), row in rows(out).items() if exit_at is None]
    assert (found["problems"], found["samples"]) == (PROBLEMS, PROBLEMS * N)
    assert found["accuracy"] == pytest.approx(np.mean([row["match"] for row in plain]))
    assert found["length"] == pytest.approx(np.mean([row["length"] for row in plain]))
    for budget in (50, 100, 400):
        right = np.mean([row["match"] and row["length"] <= budget for row in plain])
        assert found["at_budget"][str(budget)]["accuracy"] == pytest.approx(right)
    assert found["at_budget"]["400"]["accuracy"] == found["accuracy"]
    assert f"{100 * found['accuracy']:.1f}%" in said
    assert found["accuracy"] > 0.8  # the model can calculate


def test_killed_and_on_other_engines(whole, data, tmp_path):
    """Twice, the second time while thoughts are closed early; then on two engines: the same."""
    reference, _ = whole
    out = tmp_path / "evaluation"

    def exits():
        return any(
            exit_at is not None
            for path in out.glob("samples/*/part_*.parquet")
            for exit_at in pq.read_table(path, columns=["exit_at"])["exit_at"].to_pylist()
        )

    kill_when(lambda: len(list(out.glob("samples/*/part_*.parquet"))) > 2, *command(data, out))
    some = rows(out)
    assert 0 < len(some) < PROBLEMS * N
    kill_when(exits, *command(data, out))
    assert set(some) < set(rows(out)) < set(rows(reference))
    ran_well(*command(data, out), ranks=2)
    assert_same(rows(out), rows(reference))
    assert summary(out)["sets"] == summary(reference)["sets"]


def test_early_exits(whole):
    """A thought that is not closed in time is closed once, and the injected tokens are counted."""
    out, _ = whole
    tokenizer, found = AutoTokenizer.from_pretrained(FOLDER / "model"), rows(out)
    closed_in_time, early = 0, 0
    for (problem, number, exit_at), row in found.items():
        if exit_at is None:
            continue
        plain = found[problem, number, None]
        begun = tokenizer.decode(plain["tokens"][:exit_at])
        assert row["length"] == len(row["tokens"]) <= 400
        if "</think>" in begun:
            closed_in_time += 1
            assert row["injected"] == 0
            assert row["tokens"] == plain["tokens"]
        else:
            early += 1
            assert row["tokens"][:exit_at] == plain["tokens"][:exit_at]
            injected = tokenizer.decode(row["tokens"][exit_at : exit_at + row["injected"]])
            assert injected.lstrip("\n").startswith("</think>")
            assert injected.count("</think>") == 1
    assert closed_in_time > 5
    assert early > 50
    (sums,) = summary(out)["sets"].values()
    for exit_at in EXITS:
        some = [row for (_, _, b), row in found.items() if b == exit_at]
        assert sums["exit_at"][str(exit_at)]["accuracy"] == np.mean([row["match"] for row in some])


def test_the_same_again_builds_no_engine(whole, data):
    out, _ = whole
    before = summary(out)["sets"]
    ran_well(*command(data, out, f"baseline={out}"), seconds=60)
    after = summary(out)["sets"]
    (change,) = (one.pop("against") for one in after.values())
    assert (change["accuracy_difference"], change["length_ratio"]) == (0, 1)
    assert change["aes"] == {"signed": 0, "absolute": 0}
    assert after == before


def error_of(capsys, *arguments):
    """The one line that is said, by this process alone: nothing was started."""
    assert main(list(map(str, arguments))) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("megaprune: error: ")
    return error


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (["n=8"], "n=8 (the run's: 4)"),
        (["temperature=1.0"], "temperature=1.0 (the run's: 0.6)"),
        (["max_response_length=300"], "max_response_length=300 (the run's: 400)"),
        (["template=qwen"], "template='qwen' (the run's: 'plain')"),
    ],
)
def test_other_settings_in_its_folder(whole, data, capsys, fields, words):
    out, _ = whole
    assert words in error_of(capsys, *command(data, out, *fields))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (["max_response_length=2000"], "context of 1024 tokens"),
        (["exit_at=500"], "less than max_response_length=400"),
        (["exit_at=398"], "no room for an answer"),
        (["template=deepsek"], "deepseek"),
        (["rollout.tp=3"], "rollout.tp=3"),
        (["baseline=nowhere"], "nowhere/summary.json cannot be read"),
        (["model=nowhere"], "nowhere"),
        (["data=nowhere.parquet"], "nowhere.parquet"),
        (["bugets=3"], "did you mean budgets"),
    ],
)
def test_refused(data, tmp_path, capsys, fields, words):
    assert words in error_of(capsys, *command(data, tmp_path / "out", *fields))
    assert not (tmp_path / "out").exists()


def test_data_that_has_changed(whole, data):
    """The same names, other problems: responses would be to something else."""
    out, _ = whole
    other = pq.read_table(FOLDER / "data" / "validation.parquet").slice(0, PROBLEMS)
    kept = pq.read_table(data)
    try:
        pq.write_table(other, data)
        status, said = ran(*command(data, out), seconds=60)
    finally:
        pq.write_table(kept, data)
    assert status == 1
    assert "has changed" in said


def test_a_checkpoint(data, whole, tmp_path):
    """Of Megatron: exported, and measured as the model that it is."""
    ran_well("convert", "to-megatron", "--hf", FOLDER / "model", "--out", tmp_path / "megatron")
    out = tmp_path / "evaluation"
    fields = [f"model={tmp_path / 'megatron'}", "exit_at=[]", "budgets=[]"]
    ran_well(*command(data, out, *fields))
    plain = {key: row for key, row in rows(whole[0]).items() if key[2] is None}
    assert_same(rows(out), plain)
