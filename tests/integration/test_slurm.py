"""Jobs of a real Slurm: two nodes, signals, requeues, nodes that fail, and what is refused."""

import importlib.util
import json
import socket
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from slurm_cluster import Cluster, missing

from launch import few_problems, few_training_problems
from megaprune.cli.main import main

REPOSITORY = Path(__file__).parents[2]
VENV = Path(sys.executable).parents[1]
WHY = missing()
pytestmark = [
    pytest.mark.skipif(WHY is not None, reason=f"Slurm cannot run here: {WHY}"),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
    pytest.mark.timeout(900),
]

SMALL = [
    "recipe=tiny_overthinker", "data.train_batch_size=8", "rollout.n=4", "rollout.max_response_length=120",
    "validation.max_response_length=24", "validation.n=1", "validation.every=100", "validation.first=false",
    "checkpoint.every=100", "optimizer.lr=3e-4", f"data.validation={few_problems()}",
    f"data.train={few_training_problems()}",
]  # fmt: skip
TIMES = ("seconds/", "share/", "tokens_per_second", "sync/", "validation/seconds")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    made = Cluster(tmp_path_factory.mktemp("slurm"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def whole(cluster, tmp_path_factory):
    """A training of 4 steps on two nodes, that nothing happens to: its folder."""
    folder = tmp_path_factory.mktemp("whole")
    job = submit(cluster, folder, "train", *SMALL, "steps=4", "out=run")
    found = cluster.ended(job)
    assert found["JobState"] == "COMPLETED", log(folder)
    return folder


def submit(cluster, folder, *words, options=("--nodelist=node1,node2",), **variables):
    return cluster.submit(
        "--nodes=2", "--gpus-per-node=0", "--mem=1000", "--time=120", "--output=job-%j.log",
        *options, REPOSITORY / "slurm" / "run.sbatch", *words, cwd=folder,
        **{"VENV": str(VENV), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **variables},
    )  # fmt: skip


def log(folder):
    return "\n".join(path.read_text() for path in sorted(folder.glob("job-*.log")))


def metrics(folder):
    """What was measured in each line, without what is a matter of time."""
    path = folder / "run" / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [{k: v for k, v in json.loads(s).items() if not k.startswith(TIMES)} for s in lines]


def wait(folder, seen, seconds=200, every=0.1):
    end = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < end, log(folder)
        time.sleep(every)


def wait_for_step(folder, step):
    wait(folder, lambda: len(metrics(folder)) >= step)


def wait_for_words(folder, words):
    wait(folder, lambda: words in log(folder), seconds=100)


def weights(folder):
    return (folder / "run" / "model" / "model.safetensors").read_bytes()


def same_as(folder, other):
    assert metrics(folder) == metrics(other), log(folder)
    assert weights(folder) == weights(other)


def test_two_nodes(whole):
    said = log(whole)
    assert "2 nodes agree" in said
    assert len(metrics(whole)) == 5  # and a validation at the end
    (logs,) = (whole / "logs").glob("megaprune-*.0")
    for node in ("node1", "node2"):
        assert list((logs / node).rglob("0/stderr.log"))
    assert "step 4/4" in said
    assert any(line["grad_norm"] > 0 for line in metrics(whole) if "reward" in line)


def test_told_before_the_time_is_up(cluster, whole, tmp_path):
    """By Slurm's own clock; the run saves, goes back into the queue, and goes on."""
    words = ["train", *SMALL, "steps=4", "out=run"]
    options = ["--nodelist=node1,node2", "--signal=B:USR1@60"]
    job = submit(cluster, tmp_path, *words, options=options)
    wait_for_step(tmp_path, 1)
    with cluster.held(job):
        hours, minutes, _ = cluster.job(job)["RunTime"].split(":")
        limit = 60 * int(hours) + int(minutes) + 2  # told within the next minute
        cluster.call(f"scontrol update JobId={job} TimeLimit={limit}")
        wait_for_words(tmp_path, "the time is nearly up")
    wait_for_words(tmp_path, "back into the queue")
    cluster.call(f"scontrol update JobId={job} TimeLimit=120")
    found = cluster.ended(job)
    said = log(tmp_path)
    assert found["JobState"] == "COMPLETED", said
    assert found["Restarts"] == "1"
    assert "steps are done and saved" in said
    assert "back into the queue" in said
    same_as(tmp_path, whole)
    assert len(list((tmp_path / "logs").glob("megaprune-*.*"))) == 2


def test_no_more_restarts_than_allowed(cluster, tmp_path):
    job = submit(cluster, tmp_path, "train", *SMALL, "steps=99", "out=run", MAX_RESTARTS="0")
    wait_for_step(tmp_path, 1)
    cluster.call(f"scancel --batch --signal=USR1 {job}")
    assert cluster.ended(job)["JobState"] == "FAILED"
    said = log(tmp_path)
    assert "steps are done and saved" in said
    assert "submit it again to go on" in said


def test_cancelled_while_it_saves(cluster, whole, tmp_path):
    words = ["train", *SMALL, "steps=4", "out=run"]
    job = submit(cluster, tmp_path, *words, "checkpoint.every=2")
    saving = tmp_path / "run" / "checkpoints"
    wait(tmp_path, lambda: list(saving.glob(".iter_*.megaprune-*")), every=0.005)
    cluster.call(f"scancel {job}")
    assert cluster.ended(job)["JobState"] == "CANCELLED"
    job = submit(cluster, tmp_path, *words)
    assert cluster.ended(job)["JobState"] == "COMPLETED", log(tmp_path)
    same_as(tmp_path, whole)


def test_another_job_takes_its_place(cluster, whole, tmp_path):
    """Slurm ends it for one of a partition that comes first, and begins it again after that."""
    words = ["train", *SMALL, "steps=4", "out=run", "checkpoint.every=1"]
    job = submit(cluster, tmp_path, *words)
    wait_for_step(tmp_path, 2)
    first = cluster.submit(
        "--partition=urgent", "--nodes=3", "--exclusive", "--wrap=true", cwd=tmp_path
    )
    assert cluster.ended(first)["JobState"] == "COMPLETED"
    found = cluster.ended(job)
    assert (found["JobState"], found["Restarts"]) == ("COMPLETED", "1"), log(tmp_path)
    assert "goes on after step" in log(tmp_path)
    same_as(tmp_path, whole)


def test_a_node_that_fails(cluster, whole, tmp_path):
    """Slurm begins the job again with the node that is spare."""
    words = ["train", *SMALL, "steps=4", "out=run", "checkpoint.every=1"]
    job = submit(cluster, tmp_path, *words, options=())
    wait_for_step(tmp_path, 2)
    assert cluster.job(job)["NodeList"] == "node[1-2]"
    cluster.kill_node("node2")
    found = cluster.ended(job)
    cluster.start_node("node2")
    assert found["JobState"] == "COMPLETED", log(tmp_path)
    assert (found["Restarts"], found["NodeList"]) == ("1", "node[1,3]")
    assert "goes on after step" in log(tmp_path)
    same_as(tmp_path, whole)


def test_a_run_that_fails_fails_its_job(cluster, tmp_path):
    words = ["train", *SMALL, "steps=4", "out=run", "max_mismatch=1e-30"]
    job = submit(cluster, tmp_path, *words)
    after = submit(
        cluster, tmp_path, "evaluate", "model=run/model",
        options=[f"--dependency=afterok:{job}", "--kill-on-invalid-dep=yes"],
    )  # fmt: skip
    found = cluster.ended(job)
    assert (found["JobState"], found["Restarts"]) == ("FAILED", "0")
    assert found["ExitCode"] == "1:0"
    assert "more than max_mismatch" in log(tmp_path)
    assert cluster.ended(after)["JobState"] == "CANCELLED"


def test_a_pruning_and_then_an_evaluation(cluster, tmp_path):
    small = [
        word
        for word in SMALL
        if not word.startswith(("rollout.max_response_length", "validation.every"))
    ]
    job = submit(
        cluster, tmp_path, "prune", *small, "limits=32,28", "steps=1", "validation.every=1",
        "out=prune",
    )  # fmt: skip
    after = submit(
        cluster, tmp_path, "evaluate", "recipe=tiny_overthinker_test", f"data={few_problems()}", "n=1",
        "max_response_length=24", "budgets=10", "model=prune/model", "out=test",
        options=[f"--dependency=afterok:{job}", "--kill-on-invalid-dep=yes"],
    )  # fmt: skip
    assert cluster.ended(job)["JobState"] == "COMPLETED", log(tmp_path)
    assert cluster.ended(after)["JobState"] == "COMPLETED", log(tmp_path)
    assert (tmp_path / "test" / "summary.json").is_file()


def test_the_arrays_of_a_study(cluster, tmp_path, capsys):
    words = [
        "study", f"out={tmp_path / 'study'}", "evaluate.recipe=tiny_overthinker_test",
        f"evaluate.data={few_problems()}", "evaluate.n=1", "evaluate.max_response_length=24",
        "evaluate.budgets=10", *(f"run.{word}" for word in SMALL if "validation" not in word),
        "run.steps=1", "run.processes=1", "grid.algorithm.reward.name=truncate",
    ]  # fmt: skip

    def array(indices, *options):
        job = submit(
            cluster, tmp_path, *words, options=["--nodes=1", f"--array={indices}", *options]
        )
        first, _, last = indices.partition("%")[0].partition("-")
        return job, [f"{job}_{index}" for index in range(int(first), int(last) + 1)]

    before, (start,) = array("0-0")
    _, runs = array("1-1%1", f"--dependency=afterok:{before}", "--kill-on-invalid-dep=yes")
    for task in (start, *runs):
        assert cluster.ended(task)["JobState"] == "COMPLETED", log(tmp_path)
    assert not (tmp_path / "study" / "report").exists()
    assert main(words) == 0  # nothing is left but the page
    assert "2 jobs, 2 of them done" in capsys.readouterr().out
    rows = pq.read_table(tmp_path / "study" / "report" / "runs.parquet").to_pylist()
    assert [row["name"] for row in rows] == ["start", "truncate_seed_0"]
    assert {row["problems"] for row in rows} == {64}


def refused(cluster, folder, *words, seconds=90, **variables):
    """What a job that cannot be says, soon."""
    start = time.monotonic()
    job = submit(cluster, folder, *(words or ["train", *SMALL, "out=run"]), **variables)
    found = cluster.ended(job, seconds)
    assert found["JobState"] == "FAILED", log(folder)
    assert not (folder / "run" / "metrics.jsonl").exists()
    print(f"{time.monotonic() - start:.0f} s")
    return log(folder)


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("actor.tp=4", "which does not divide the 2 that the job has"),
        ("rollout.tp=3", "rollout.tp=3 does not divide the 2 processes"),
    ],
)
def test_what_cannot_be_divided(cluster, tmp_path, field, said):
    assert said in refused(cluster, tmp_path, "train", *SMALL, "out=run", field)


def test_a_port_that_is_taken(cluster, tmp_path):
    with socket.create_server(("", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = refused(cluster, tmp_path, PORT=port)
    assert f"port {port}" in said
    assert "node1" in said


def test_logs_that_cannot_be_written(cluster, tmp_path):
    (tmp_path / "file").write_text("")
    said = refused(cluster, tmp_path, LOGS=str(tmp_path / "file"))
    assert "set LOGS to a shared folder with room" in said


def test_no_environment_at_all(cluster, tmp_path):
    said = refused(cluster, tmp_path, VENV="nowhere")
    assert f"{tmp_path}/nowhere/bin/megaprune" in said


@pytest.fixture
def odd_node(cluster):
    """Restart node2 so that it sees some folder otherwise; afterwards it is as it was."""

    def restart(**how):
        cluster.stop_node("node2")
        cluster.start_node("node2", **how)

    yield restart
    restart()


def test_an_environment_that_one_node_lacks(cluster, odd_node, tmp_path):
    """The other has all of it, so that it waits and cannot be the first to fail."""
    own = tmp_path / "venv" / "bin"
    own.mkdir(parents=True)
    for name in ("pyvenv.cfg", "lib"):
        (own.parent / name).symlink_to(VENV / name)
    for name in ("megaprune", "python", "torchrun"):
        (own / name).symlink_to(VENV / "bin" / name)
    (own / "megaprune-node").write_text((VENV / "bin" / "megaprune-node").read_text())
    (own / "megaprune-node").chmod(0o755)
    odd_node(hidden=tmp_path / "venv")
    said = refused(cluster, tmp_path, VENV=str(tmp_path / "venv"))
    assert "node2" in said
    assert "venv/bin/megaprune-node" in said


@pytest.mark.parametrize("how", ["hidden", "read_only"])
def test_a_shared_folder_that_one_node_sees_otherwise(cluster, odd_node, tmp_path, how):
    logs = tmp_path / "logs"
    logs.mkdir()
    odd_node(**{how: logs})
    said = refused(cluster, tmp_path, LOGS=str(logs), seconds=120)
    assert "node2" in said, said
    assert str(logs) in said


def test_a_conversion(cluster, tmp_path):
    script = REPOSITORY / "slurm" / "convert.sbatch"
    variables = {"VENV": str(VENV), "HF": str(REPOSITORY / "recipes/overthinker/model")}
    options = ["--mem=1000", "--output=job-%j.log", script]
    job = cluster.submit(*options, cwd=tmp_path, OUT="made", **variables)
    assert cluster.ended(job)["JobState"] == "COMPLETED", log(tmp_path)
    assert (tmp_path / "made" / "metadata.json").is_file() or list((tmp_path / "made").iterdir())
    job = cluster.submit(*options, cwd=tmp_path, OUT="other", **{**variables, "HF": "nowhere"})
    assert cluster.ended(job)["JobState"] == "FAILED"
    assert not (tmp_path / "other").exists()
