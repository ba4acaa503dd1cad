"""A study with both engines: its jobs follow each other in the same processes."""

import importlib.util
import json

import pyarrow.parquet as pq
import pytest

from launch import few_problems, ran_well
from megaprune.cli.main import main

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
    pytest.mark.timeout(600),
]


def test_a_grid_of_two_rewards(tmp_path, capsys):
    out = tmp_path / "study"
    words = [
        "study", f"out={out}", "run.recipe=tiny_overthinker", "run.steps=1", "run.processes=1",
        "run.data.train_batch_size=8", "run.rollout.n=4", "run.max_failed_steps=null",
        "grid.algorithm.reward.name=truncate,relative", f"evaluate.data={few_problems()}",
        "evaluate.n=1", "evaluate.max_response_length=64", "evaluate.budgets=32,64",
    ]  # fmt: skip
    ran_well(*words, "--index", "0,1,2")
    assert main(words) == 0  # nothing is left but the page
    said = capsys.readouterr().out
    assert "3 jobs, 3 of them done" in said
    assert f"report: {out}/report/index.html" in said
    rows = pq.read_table(out / "report" / "runs.parquet").to_pylist()
    assert [row["name"] for row in rows] == ["start", "truncate_seed_0", "relative_seed_0"]
    for row in rows:
        assert (row["problems"], row["answers"]) == (64, 64)
        assert 0 < row["length"] <= 64
        assert row["accuracy_at/64"] == row["accuracy"]
    start = json.loads((out / "start" / "summary.json").read_text())["sets"]["arithmetic"]
    assert start["accuracy"] == rows[0]["accuracy"]
    assert start["length"] == pytest.approx(rows[0]["length"])
    for row in rows[1:]:
        run = out / "runs" / row["name"]
        lines = [json.loads(line) for line in (run / "metrics.jsonl").open()]
        (measured,) = (line for line in lines if "validation/accuracy" in line)
        assert measured["validation/accuracy"] == row["accuracy"]
        assert measured["validation/response_length/mean"] == pytest.approx(row["length"])
        assert row["steps"] == 1
