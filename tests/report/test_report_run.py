"""Reading a run's folder: what is torn is left out and told, what is no run is refused."""

import json

import pytest

from megaprune import schema
from megaprune.cli import main as cli
from megaprune.errors import InputError
from megaprune.report.run_records import read_answers, read_first_answers, read_run, read_texts


def append(run, text):
    with open(run / "metrics.jsonl", "a") as file:
        file.write(text)


def test_reads_all(run):
    read = read_run(run)
    assert [*read.metrics] == [0, 1, 2, 3, 4]
    assert read.metrics[4]["validation/accuracy"] == 0.75
    assert read.metrics[4]["reward"] == pytest.approx(0.8)
    assert [*read.validations] == [0, 4]
    assert [*read.samples] == [1, 2, 3, 4]
    assert read.setting("rollout.max_response_length") == 1000
    assert read.setting("rollout.max_response_length.more") is None
    assert read.notes == ()
    steps, values = read.series("validation/accuracy")
    assert (steps.tolist(), values.tolist()) == ([0, 4], [0.625, 0.75])


def test_a_torn_last_line_is_left_out_and_told(run):
    append(run, '{"step": 5, "rewa')
    read = read_run(run)
    assert 5 not in read.metrics
    assert "the last line is torn" in read.notes[0]


def test_a_line_torn_before_a_resume_is_told_by_number(run):
    append(run, '{"step": 5, "rewa{"step": 5}\n{"step": 6, "reward": 1}\n')
    read = read_run(run)
    assert 5 not in read.metrics
    assert read.metrics[6] == {"reward": 1.0}
    assert "line 7 is torn" in read.notes[0]


def test_a_step_done_again_counts_as_it_was_last(run):
    append(run, json.dumps({"step": 2, "reward": 0.9}) + "\n")
    metrics = read_run(run).metrics
    assert metrics[2]["reward"] == 0.9
    assert [*metrics] == [0, 1, 2, 3, 4]


def test_what_is_not_a_number_is_no_metric(run):
    append(
        run, '{"step": 5, "reward": NaN, "text": "x", "list": [1], "none": null, "kl": Infinity}\n'
    )
    read = read_run(run)
    assert read.metrics[5].keys() == {"reward", "kl"}
    assert str(read.series("kl")[1][-1]) == "nan"


def test_torn_and_empty_files_of_answers_are_left_out_and_told(run):
    whole = (run / "validation/step_000004.parquet").read_bytes()
    (run / "validation/step_000002.parquet").write_bytes(whole[:-20])
    (run / "validation/step_000003.parquet").write_bytes(b"")
    (run / "validation/step_x.parquet").write_bytes(b"")
    read = read_run(run)
    assert [*read.validations] == [0, 4]
    assert len(read.notes) == 2


def test_answers_of_steps_to_be_done_again_are_left_out(run):
    """Killed after step 4 and begun again from step 2, it has step 4's files until it is there."""
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:3]))
    read = read_run(run)
    assert [*read.validations] == [0]
    assert [*read.samples] == [1, 2]


@pytest.mark.parametrize("text", ["", "\n\n", "not json\n", "[1]\n", '{"reward": 1}\n'])
def test_metrics_without_a_step_are_refused(run, text):
    (run / "metrics.jsonl").write_text(text)
    with pytest.raises(InputError, match="expected a line like"):
        read_run(run)


def test_what_is_no_run_is_refused(run, tmp_path, capsys):
    with pytest.raises(InputError, match="no such folder; expected the folder of a run"):
        read_run(tmp_path / "nothing")
    (run / "metrics.jsonl").unlink()
    assert cli.main(["report", str(run)]) == 1
    said = capsys.readouterr().err
    assert "metrics.jsonl: no such file; `megaprune train` writes it with its first step" in said
    assert not (run / "report").exists()


@pytest.mark.parametrize("text", [None, "a: [", "just text"])
def test_without_a_configuration_it_says_so(run, text):
    (run / "config.yaml").unlink()
    if text is not None:
        (run / "config.yaml").write_text(text)
    read = read_run(run)
    assert "config.yaml" in read.notes[0]
    assert read.setting("seed") is None


def test_another_parquet_file_is_refused_by_name(run):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = run / "validation/step_000000.parquet"
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(InputError, match=r"step_000000\.parquet: cannot be read"):
        read_answers(path)


def test_a_folder_named_like_a_partition_adds_no_column(run):
    folder = run.rename(run.with_name("number=7"))
    path = read_run(folder).validations[0]
    first = read_first_answers(path)
    assert {row["number"] for row in first.values()} == {0}
    assert read_texts(first["sums", "b"] | {"number": 1})["length"] == 500


def test_a_run_with_older_names_is_read_as_one_of_today(run):
    today = read_run(run)
    older = {new: old for old, new in schema.OLD_METRICS.items()}
    text = (run / "metrics.jsonl").read_text()
    for new, old in older.items():
        text = text.replace(f'"{new}"', f'"{old}"').replace(f'/{new}"', f'/{old}"')
    (run / "metrics.jsonl").write_text(text)
    assert '"length/mean"' in text
    assert read_run(run).metrics == today.metrics


def test_renamed_fields_of_an_older_run_have_their_names_of_today(run):
    text = "model: m\nrollout: {limit: 72, n: 2}\nalgorithm: {estimator: group_std, kl: 0.1}\n"
    (run / "config.yaml").write_text(text)
    read = read_run(run)
    assert read.config_text == text
    assert read.config == {
        "model": "m",
        "rollout": {"n": 2, "max_response_length": 72},
        "algorithm": {"advantage": {"name": "group_std"}, "loss": {"kl_coef": 0.1}},
    }
