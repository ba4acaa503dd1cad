"""A run's folder: one line after another, tables that are whole, and whose it is."""

import json

import pyarrow.parquet as pq
import pytest

from megaprune import schema
from megaprune.algorithms.algorithm import Algorithm
from megaprune.errors import InputError
from megaprune.trainer.run_dir import RunDir


@pytest.fixture
def make(alone, configuration, tmp_path):
    """The folder of a run, with fields of the command line."""
    folders = []

    def run_dir(*fields):
        folders.append(RunDir(configuration(f"out={tmp_path / 'run'}", *fields)))
        return folders[-1]

    yield run_dir
    for folder in folders:
        folder.close()


def steps(run):
    return [json.loads(line)["step"] for line in (run.path / "metrics.jsonl").open()]


def test_lines_of_steps_that_are_done_again_go(make):
    run = make()
    for step in (0, 1, 2, 2, 3):
        run.metrics({"step": step, "reward": 0.5})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "rew')  # killed as it wrote it
    run.rewind(2)
    assert steps(run) == [0, 1, 2, 2]
    run.metrics({"step": 3})
    assert steps(run) == [0, 1, 2, 2, 3]
    run.rewind(0)
    assert steps(run) == []


def test_samples_are_the_batch(make, recorded_batch):
    """Every response, with what it was worth, in the columns of the schema."""
    algorithm = Algorithm.from_spec({"reward": "truncate", "filter": "none"})
    batch, run = recorded_batch(algorithm), make()
    run.samples("samples", 3, batch.rows())
    (path,) = (run.path / "samples").iterdir()
    assert path.name == "step_000003.parquet"
    table = pq.read_table(path)
    assert table.schema.equals(schema.samples_schema())
    rows = table.to_pylist()
    assert {row["step"] for row in rows} == {3}
    for row, rollout, advantage in zip(
        rows, batch.learned_rollouts, batch.advantages.ravel(), strict=True
    ):
        assert row["tokens"] == rollout.tokens.tolist()
        assert row["log_probs"] == pytest.approx(rollout.log_probs.tolist())
        assert (row["response"], row["match"]) == (rollout.text, rollout.verdict.match)
        assert row["advantage"] == advantage
        assert row["reward"] == float(rollout.verdict.match)


def test_the_same_run_again_and_another(make):
    make().close()
    make("steps=9").close()  # more steps: the same run
    with pytest.raises(InputError, match=r"is the folder of another run: seed=5 \(the run's: 0\)"):
        make("seed=5")


def test_two_at_once(make):
    make()
    with pytest.raises(InputError, match="is being written by process"):
        make()
