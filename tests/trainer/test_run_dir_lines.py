"""A run's folder: one line after another, tables that are whole, and whose it is."""

import json
import os

import pyarrow.parquet as pq
import pytest

from megaprune import schema
from megaprune.algorithms.algorithm import Algorithm
from megaprune.errors import InputError
from megaprune.trainer.run_dir import RunDir
from megaprune.weights.files.digests import CheckpointRecord


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


def test_a_torn_last_line_is_said(make, capsys):
    """A killed run leaves one; nothing else is made of it."""
    run = make()
    for step in (1, 2, 3):
        run.metrics({"step": step})
    with (run.path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 4, "name": "\xc3')
    run.rewind(3)
    assert steps(run) == [1, 2, 3]
    said = capsys.readouterr().err
    assert "metrics.jsonl: line 4 cannot be read as a step's numbers: left out\n" in said
    assert list(run.path.glob("damaged*")) == []


@pytest.mark.parametrize(
    "torn",
    [b'{"step": 2, "rew\n', b"\xff\xfe\n", b"[2]\n", b"null\n", b'{"step": "2"}\n', b"[" * 99999],
)
def test_a_damaged_line_is_said_and_kept_aside(make, capsys, torn):
    run = make()
    path = run.path / "metrics.jsonl"
    for step in (1, 2, 3, 4):
        run.metrics({"step": step})
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = torn.rstrip(b"\n") + b"\n"
    path.write_bytes(before := b"".join(lines))
    run.rewind(3)
    assert steps(run) == [1, 3]
    said = capsys.readouterr().err
    assert "line 2 cannot be read" in said
    assert "the file as it was is damaged_metrics.jsonl" in said
    assert "has no line of step 2: reports lack them" in said
    assert (run.path / "damaged_metrics.jsonl").read_bytes() == before
    run.rewind(3)
    assert "cannot be read" not in capsys.readouterr().err


def test_responses_of_steps_that_are_done_again_go(make, recorded_batch):
    batch, run = recorded_batch(Algorithm.from_spec({"reward": "truncate"})), make()
    for step in (0, 1, 2, 3):
        run.samples("validation", step, batch.rows())
        run.samples("samples", step, batch.rows())
    run.samples("failed", 3, batch.rows())
    run.wait()
    (run.path / "samples" / "step_mine.parquet").write_text("of somebody else")
    run.rewind(1)
    left = {path.relative_to(run.path).as_posix() for path in run.path.glob("*/*")}
    assert left == {
        "samples/step_000000.parquet", "samples/step_000001.parquet", "samples/step_mine.parquet",
        "validation/step_000000.parquet", "validation/step_000001.parquet",
        "failed/step_000003.parquet",
    }  # fmt: skip


def test_fewer_steps_than_are_done(make):
    """Refused, and nothing is changed: its report would say "5 of 4"."""
    make("steps=8").close()
    run = make("steps=8")
    checkpoint = run.path / "checkpoints" / "iter_0000005"
    checkpoint.mkdir(parents=True)
    CheckpointRecord(5).write(checkpoint)
    run.close()
    config = (run.path / "config.yaml").read_bytes()
    with pytest.raises(InputError, match="has done 5 steps, more than steps=4: nothing was chan"):
        make("steps=4")
    assert (run.path / "config.yaml").read_bytes() == config
    make("steps=5").close()


@pytest.mark.parametrize(
    "content", [b"", b"[1, 2]", b"nothing", b"\xff\xfe", b"steps: {", b"seed: yes please", b"- a\n"]
)
def test_an_edited_configuration(make, content):
    run = make()
    run.close()
    (run.path / "config.yaml").write_bytes(content)
    with pytest.raises(
        InputError, match=r"config\.yaml cannot be read|is the folder of another run"
    ):
        make()
    assert (run.path / "config.yaml").read_bytes() == content


def test_samples_are_the_batch(make, recorded_batch):
    """Every response, with what it was worth, in the columns of the schema."""
    algorithm = Algorithm.from_spec({"reward": "truncate", "filter": "none"})
    batch, run = recorded_batch(algorithm), make()
    run.samples("samples", 3, batch.rows())
    run.wait()
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
    with pytest.raises(InputError, match=f"is being written by process {os.getpid()} of"):
        make()
