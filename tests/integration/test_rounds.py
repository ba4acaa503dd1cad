"""Rounds of pruning with both engines: killed twice on the way, the same as never killed."""

import hashlib
import importlib.util
import json

import pytest

from launch import few_problems, kill_when, ran_well
from megaprune.cli.main import main

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
    pytest.mark.timeout(900),
]

SMALL = [
    "prune", "recipe=tiny_overthinker", "limits=120,72", "max_failed_steps=null", "steps=3", "data.train_batch_size=8", "rollout.n=4",
    "validation.every=1", "validation.n=1", "validation.max_response_length=24", "checkpoint.every=1",
    "checkpoint.wait=true", "processes=1", f"data.validation={few_problems()}",
]  # fmt: skip
TIMES = ("seconds/", "share/", "tokens_per_second", "sync/", "validation/seconds")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A pruning that is never killed: its folder and what it said."""
    out = tmp_path_factory.mktemp("whole") / "prune"
    return out, ran_well(*SMALL, f"out={out}")


def steps(out, folder):
    path = out / folder / "metrics.jsonl"
    return sum('"reward"' in line for line in path.open()) if path.is_file() else 0


def metrics(out, folder):
    lines = [json.loads(line) for line in (out / folder / "metrics.jsonl").open()]
    return [{k: v for k, v in line.items() if not k.startswith(TIMES)} for line in lines]


def weights(folder):
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def rounds(out):
    return json.loads((out / "rounds.json").read_text())


def test_rounds_and_their_choice(whole):
    out, said = whole
    found = rounds(out)
    assert found["limits"] == [120, 72]
    assert [one["limit"] for one in found["rounds"]] == [120, 72]
    for one in found["rounds"]:
        lines = metrics(out, one["folder"])
        measured = {
            line["step"]: (line["validation/accuracy"], line["validation/response_length/mean"])
            for line in lines
            if "validation/accuracy" in line and line["step"]
        }
        best = min(measured, key=lambda s: (-measured[s][0], measured[s][1], s))
        assert (one["step"], (one["accuracy"], one["length"])) == (best, measured[best])
        assert weights(out / one["model"])
        assert f"round {one['round']}: step {best} is chosen" in said
    first = metrics(out, "round_1_limit_120")[0]
    assert found["base"] == {
        "accuracy": first["validation/accuracy"],
        "length": first["validation/response_length/mean"],
    }
    assert found["final"] == 2
    assert weights(out / "model") == weights(out / found["rounds"][1]["model"])
    assert (out / "report" / "index.html").is_file()


def test_a_round_begins_with_what_was_chosen_before(whole):
    """Its first validation is that of the chosen step, with the same samples but for the seed."""
    out, _ = whole
    chosen = out / rounds(out)["rounds"][0]["model"]
    config = (out / "round_2_limit_72" / "config.yaml").read_text()
    assert f"model: {chosen}\n" in config
    assert "  max_response_length: 72\n" in config
    assert "seed: 1\n" in config


def test_killed_twice(whole, tmp_path):
    """In the first round and in the second; then the numbers of the one that never was."""
    reference, _ = whole
    out = tmp_path / "prune"
    kill_when(lambda: steps(out, "round_1_limit_120") == 2, *SMALL, f"out={out}")
    assert not (out / "rounds.json").exists()
    said = kill_when(lambda: steps(out, "round_2_limit_72") == 2, *SMALL, f"out={out}")
    assert "goes on after step" in said
    assert len(rounds(out)["rounds"]) == 1
    said = ran_well(*SMALL, f"out={out}")
    assert "round 1 of 2" not in said
    for folder in ("round_1_limit_120", "round_2_limit_72"):
        assert metrics(out, folder) == metrics(reference, folder)
    assert rounds(out) == rounds(reference)
    assert weights(out / "model") == weights(reference / "model")


def test_a_finished_pruning_again(whole):
    """No engine is built; the table is shown, and the report written again."""
    out, _ = whole
    before = rounds(out)
    said = ran_well(*SMALL, f"out={out}", seconds=60)
    assert "step 1/" not in said
    assert "2 (taken)" in said
    assert rounds(out) == before


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("seed=5", "is the folder of another run: seed=5 (the run's: 0)"),
        ("limits=100,72", "had [120, 72]"),
        ("data.train=no_{limit}.parquet", "no_{limit}.parquet"),
    ],
)
def test_another_pruning_in_its_folder(whole, capsys, field, words):
    out, _ = whole
    assert main([*SMALL, f"out={out}", field]) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("megaprune: error: ")
    assert words in error
