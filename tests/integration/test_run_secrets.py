"""A run that has secrets in its environment: none is in its folder, and its grader saw none."""

import importlib.util
import shutil

import pyarrow.parquet as pq
import pytest

from launch import Job
from megaprune.recipes.tiny import FOLDER

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
    pytest.mark.timeout(900),
]

SECRETS = {
    "MY_TOKEN": "sk-hush-0123456789",
    "WANDB_API_KEY": "0123456789abcdef" * 3,
    "SECRET_NUMBER": "58135813",
}
GRADER = """
import json, os
from megaprune.grading import Verdict

def grade(gold, response, finished):
    return Verdict(gold in response, json.dumps(dict(os.environ)), "wrong")
"""


def trained(*fields, **variables):
    job = Job(
        "megaprune", "train", "recipe=tiny_overthinker", "steps=1", "data.train_batch_size=4",
        "rollout.n=4", "rollout.max_response_length=24", "checkpoint.every=1", "processes=1",
        "validation.every=0", "wandb.mode=offline", *fields, seconds=400, **variables,
    )  # fmt: skip
    return job.wait(), job.output


def test_nothing_of_the_environment_is_in_a_runs_folder(tmp_path):
    place = tmp_path / "hush-place-4815"
    shutil.copytree(FOLDER, place)
    (tmp_path / "own.py").write_text(GRADER)
    secrets = {**SECRETS, "PLACE": str(place)}
    fields = [
        "model=${oc.env:PLACE}/model", "data.train=${oc.env:PLACE}/data/train.parquet",
        "data.validation=null", "wandb.project=p",
        "wandb.name=${oc.select:nobody,a}", "seed=${oc.decode:${oc.env:SECRET_NUMBER}}",
        f"grading.default={tmp_path}/own.py:grade", f"out={tmp_path}/run",
    ]  # fmt: skip
    status, said = trained(*fields, **secrets)
    assert status == 0, said
    found = []
    for path in sorted((tmp_path / "run").rglob("*")):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            found += [(path, name) for name, value in secrets.items() if value.encode() in content]
    assert found == []
    rows = pq.read_table(tmp_path / "run" / "samples" / "step_000001.parquet").to_pylist()
    assert all("PYTHONPATH" in row["extracted"] for row in rows)
    assert not any(value in str(rows) for value in secrets.values())
    text = (tmp_path / "run" / "config.yaml").read_text()
    assert "model: ${oc.env:PLACE}/model" in text
    assert "seed: ${oc.decode:${oc.env:SECRET_NUMBER}}" in text
    assert str(place) not in said

    # It is the same run with the same values, however they are given, and no other one.
    status, said = trained(*fields, **secrets)
    assert status == 0, said
    assert "is done: 1 steps" in said
    status, said = trained(*fields, **secrets | {"SECRET_NUMBER": "58135814"})
    assert status == 1
    assert "seed has another value than the run's" in said
    assert "5813581" not in said
