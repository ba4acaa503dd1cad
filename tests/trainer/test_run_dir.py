"""What a run keeps of its responses."""

import threading

import pyarrow.parquet as pq
import pytest
import torch.distributed as dist

from megaprune import schema
from megaprune.config.run import Config, DataConfig, SamplesConfig
from megaprune.errors import InputError
from megaprune.trainer.run_dir import RunDir, write_samples

ROW = {
    "problem": "a",
    "data_source": "sums",
    "number": 0,
    "length": 3,
    "tokens": [1, 2, 3],
    "prompt_tokens": [4],
    "log_probs": [-0.5, -1.0, -0.25],
    "policy_version": 7,
}


@pytest.fixture(autouse=True)
def world(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def run_dir(tmp_path, **samples):
    data, out = DataConfig(train="d"), str(tmp_path / "run")
    return RunDir(Config(model="m", out=out, data=data, samples=SamplesConfig(**samples)))


def steps_kept(tmp_path, keep_last, steps=5):
    folder = run_dir(tmp_path, keep_last=keep_last)
    for step in range(1, steps + 1):
        folder.samples(schema.SAMPLES_FOLDER, step, [ROW])
        folder.samples(schema.VALIDATION_FOLDER, step, [ROW])
    folder.samples(schema.FAILED_FOLDER, steps, [ROW])
    folder.close()
    kept = {
        path.name: sorted(schema.step_of_file(file.name) for file in path.glob("*.parquet"))
        for path in (tmp_path / "run").iterdir()
        if path.is_dir()
    }
    assert kept[schema.VALIDATION_FOLDER] == [*range(1, steps + 1)]
    assert kept[schema.FAILED_FOLDER] == [steps]
    return kept[schema.SAMPLES_FOLDER]


@pytest.mark.parametrize(
    ("keep_last", "steps"), [(None, [1, 2, 3, 4, 5]), (2, [4, 5]), (9, [1, 2, 3, 4, 5]), (0, [])]
)
def test_training_responses_are_kept_as_long_as_is_said(tmp_path, keep_last, steps):
    assert steps_kept(tmp_path, keep_last) == steps


def test_tables_have_all_columns_and_what_a_row_lacks_is_null(tmp_path):
    write_samples(tmp_path / "a" / "b.parquet", [ROW])
    table = pq.read_table(tmp_path / "a" / "b.parquet")
    assert table.schema == schema.samples_schema()
    (row,) = table.to_pylist()
    assert row == dict.fromkeys(schema.samples_schema().names) | ROW
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.parquet"]


def test_tokens_are_left_out_where_they_are_not_wanted(tmp_path):
    folder = run_dir(tmp_path, tokens=False)
    folder.samples(schema.SAMPLES_FOLDER, 1, [ROW])
    folder.close()
    table = pq.read_table(tmp_path / "run" / schema.SAMPLES_FOLDER / schema.step_file(1))
    assert table.schema == schema.samples_schema()
    (row,) = table.to_pylist()
    assert (row["tokens"], row["prompt_tokens"], row["log_probs"]) == (None, None, None)
    assert (row["step"], row["length"], row["policy_version"]) == (1, 3, 7)


def test_responses_are_written_while_the_run_goes_on(tmp_path):
    folder, disk_is_free = run_dir(tmp_path), threading.Event()
    folder._writer.submit(disk_is_free.wait)
    folder.samples(schema.SAMPLES_FOLDER, 1, [ROW])
    written = tmp_path / "run" / schema.SAMPLES_FOLDER / schema.step_file(1)
    assert not written.exists()
    disk_is_free.set()
    folder.wait()
    assert written.exists()


@pytest.mark.parametrize("then", ["the next step", "a checkpoint", "the end"])
def test_responses_that_cannot_be_written_end_the_run(tmp_path, then):
    folder = run_dir(tmp_path)
    samples = tmp_path / "run" / schema.SAMPLES_FOLDER
    samples.rmdir()
    samples.write_text("a file in the place of the folder")
    folder.samples(schema.SAMPLES_FOLDER, 1, [ROW])
    actions = {
        "the next step": lambda: folder.samples(schema.SAMPLES_FOLDER, 2, [ROW]),
        "a checkpoint": folder.wait,
        "the end": folder.close,
    }
    with pytest.raises(InputError, match="cannot write .*step_000001.parquet"):
        actions[then]()
    folder.close()
    samples.unlink()
    run_dir(tmp_path).close()  # the folder is nobody's any more
