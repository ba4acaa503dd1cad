"""Jobs of a study on this host: what is done is skipped, and a failure stops no other."""

from pathlib import Path

import pytest

from megaprune import schema
from megaprune.config.read import to_yaml
from megaprune.report import STEPS_META
from megaprune.study.config import read_study_config
from megaprune.study.jobs import jobs_of
from megaprune.study.local import run_here
from megaprune.weights.files.digests import CheckpointRecord


def numbered_jobs(tmp_path, *words):
    fields = [f"out={tmp_path}/study", "run.recipe=tiny_overthinker", "run.steps=2", *words]
    return dict(enumerate(jobs_of(read_study_config(fields))))


def finish(job):
    """Leave what a job leaves that is done."""
    folder = Path(job.config.out)
    folder.mkdir(parents=True)
    (folder / schema.CONFIG_FILE).write_text(to_yaml(job.config))
    if job.variant is None:
        (folder / schema.SUMMARY_FILE).write_text("{}")
        return
    (folder / schema.MODEL_FOLDER).mkdir()
    checkpoint = folder / schema.CHECKPOINTS_FOLDER / "iter_0000002"
    checkpoint.mkdir(parents=True)
    CheckpointRecord(2).write(checkpoint)
    (folder / schema.REPORT_FOLDER).mkdir()
    (folder / schema.REPORT_FOLDER / schema.PAGE_FILE).write_text(f'{STEPS_META}2">')


def test_states(tmp_path):
    jobs = numbered_jobs(tmp_path, "seeds=0,1")
    assert {job.state for job in jobs.values()} == {"to do"}
    finish(jobs[0])
    finish(jobs[1])
    assert [job.state for job in jobs.values()] == ["done", "done", "to do"]
    more = numbered_jobs(tmp_path, "seeds=0,1", "run.steps=3")
    assert [job.state for job in more.values()] == ["done", "begun", "to do"]


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_what_is_done_is_not_begun_and_a_failure_stops_no_other(tmp_path, capfd, n_jobs):
    jobs = numbered_jobs(tmp_path, "seeds=0,1,2")
    finish(jobs[0])
    finish(jobs[2])
    begun = []

    def command(numbers):
        begun.append(list(numbers))
        return ["report", ".", f"--nothing-{numbers[0]}"]  # ends at once, with an error

    failed = run_here(tmp_path, jobs, n_jobs, command)
    assert sorted(failed) == [1, 3]
    assert begun == ([[1, 3], [3]] if n_jobs == 1 else [[1], [3]])
    for number, why in failed.items():
        assert why.startswith(f"unrecognized arguments: --nothing-{number} [status 2; ")
    said = capfd.readouterr().out
    assert "2 of 4  run_seed_0: failed: " in said
    assert "4 of 4  run_seed_2: failed: " in said


def test_jobs_that_need_other_processes_get_them(tmp_path):
    jobs = numbered_jobs(tmp_path, "grid.processes=1,2", "evaluate.processes=1")
    begun = []

    def command(numbers):
        begun.append(list(numbers))
        return ["report", ".", "--nothing"]

    assert sorted(run_here(tmp_path, jobs, 1, command)) == [0, 1, 2]
    assert begun == [[0, 1], [1], [2]]
