"""NeMo-Run for real: from its own environment, on this host and on a Slurm with accounting.

MEGAPRUNE_LAUNCH names the python of an environment with megaprune[launch] (tests/run.sh makes one).
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_cluster import ACCOUNTING, Cluster, missing

from launch import few_problems, few_training_problems

REPOSITORY = Path(__file__).parents[2]
VENV = Path(sys.executable).parents[1]
# Absolute, since the tests run in other folders; not resolved, since that leaves the environment.
LAUNCH = os.environ.get("MEGAPRUNE_LAUNCH", "") and os.path.abspath(os.environ["MEGAPRUNE_LAUNCH"])
pytestmark = [
    pytest.mark.skipif(not LAUNCH, reason="MEGAPRUNE_LAUNCH names no python that has NeMo-Run"),
    pytest.mark.timeout(900),
]
with_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vllm is not installed"
)
SMALL = [
    "data.train_batch_size=4", "rollout.n=2", "validation.max_response_length=24", "validation.n=1", "validation.every=1",
    "validation.first=false", "steps=1", f"data.validation={few_problems()}",
    f"data.train={few_training_problems()}",
]  # fmt: skip


def ran(folder, *words, environment=os.environ, seconds=400):
    done = subprocess.run(
        [*map(str, words)], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=seconds,
        env={
            **environment, "NEMORUN_HOME": str(folder / "nemo"), "COLUMNS": "300",
            "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
        },
    )  # fmt: skip
    return done.returncode, done.stdout


def recipe(folder, name, *words, **more):
    return ran(folder, LAUNCH, REPOSITORY / "recipes" / f"{name}.py", *words, **more)


def test_it_needs_neither_torch_nor_vllm():
    """What it imports is light, so that it can be installed where nothing else is."""
    look = "import sys, megaprune.launch.nemo; print({'torch', 'vllm'} & sys.modules.keys())"
    status, said = ran(REPOSITORY / "tests", LAUNCH, "-c", look)
    assert (status, said.splitlines()[-1]) == (0, "set()"), said


def test_a_dry_run_of_qwq(tmp_path):
    """ThinkPrune's settings (arXiv 2504.01296), on 4 nodes of 8, in a script without NeMo-Run."""
    status, said = recipe(
        tmp_path, "qwq_32b", "limits=4000,2000", "--account", "me", "--partition", "gpu", "--image",
        "registry/megaprune:1", "--mounts", "/a:/a,/b:/c", "--hf-home", "/shared/hf", "--dryrun",
    )  # fmt: skip
    assert status == 0, said
    lines = [line.strip() for line in said.splitlines()]
    for line in (
        "- 4000",
        "- 2000",
        "train_batch_size: 128",
        "'n': 16",
        "lr: 1.0e-06",
        "tp: 2",
        "pp: 8",
        "tp: 4",
    ):
        assert line in lines, line
    assert "- 3000" not in lines
    words = ".venv/bin/megaprune-node prune recipe=qwq_32b limits=4000,2000"
    assert any(line.endswith(words) for line in lines)
    for option in (
        "account=me", "partition=gpu", "nodes=4", "ntasks-per-node=1", "gpus-per-node=8", "requeue",
        "exclusive", "signal=USR1@1800", "time=24:00:00",
    ):  # fmt: skip
        assert f"#SBATCH --{option}" in said, option
    assert "export HF_HOME=/shared/hf" in said
    assert "--container-image registry/megaprune:1" in said
    assert "/a:/a,/b:/c" in said
    assert not list(tmp_path.glob("nemo/experiments/*/*/*/checkpoints"))


def test_a_dry_run_of_a_harmonizing(tmp_path):
    """O1-Pruner's settings (arXiv 2501.12570), on one node of 8; converted before, if that is asked."""
    words = ["qwq_32b_preview_harmonize", "--account", "me", "--dryrun"]
    launch = LAUNCH, "-m", "megaprune.launch.nemo"
    status, said = ran(tmp_path, *launch, *words, "presample.n=8", "--checkpoint", "a/iter_1")
    assert status == 0, said
    lines = [line.strip() for line in said.splitlines()]
    for line in ("trainable_layers: 48", "lr: 2.0e-06", "lam: 5.0", "'n': 8", "#SBATCH --nodes=1"):
        assert line in lines, line
    ends = (
        "convert to-hf --megatron a/iter_1 --out models/QwQ-32B-Preview",
        "megaprune-node harmonize recipe=qwq_32b_preview_harmonize presample.n=8",
    )
    for end in ends:
        assert any(line.endswith(end) for line in lines), end
    for more, error in (
        (["--test", "n=1"], "evaluations between rounds (test) are of a pruning"),
        (["actor.tp=3"], "not on 1 nodes of 8"),
        (["rollout.n=3"], "rollout.n is not a harmonizing's to set"),
    ):
        status, said = ran(tmp_path, *launch, *words, *more)
        assert status == 1, said
        assert error in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["rollout.max_response_lenth=3"],
            "no field 'rollout.max_response_lenth'; did you mean rollout.max_response_length",
        ),
        (["steps=many"], "steps='many'; expected a whole number"),
        (["--nodes", "1"], "not on 1 nodes of 8"),
        (["actor.tp=3"], "not on 4 nodes of 8"),
        (["--nodes", "3"], "not on 3 nodes of 8"),
        (["--time", "tomorrow"], "time=tomorrow is no time that Slurm takes"),
    ],
)
def test_what_cannot_be_is_refused_here(tmp_path, words, said):
    status, found = recipe(tmp_path, "qwq_32b", *words, "--dryrun")
    assert status == 1, found
    (error,) = [line for line in found.splitlines() if "error" in line]
    assert said in error
    assert not (tmp_path / "nemo").exists()


def test_when_a_job_is_told():
    """Half an hour before its time is up, but not before it has begun."""
    leads = {"40": 600, "20:00": 300, "00:20:00": 300, "1-0": 1800, "0-1:30": 1350, "2:00:01": 1800}
    look = f"from megaprune.launch.nemo import slurm; [print(slurm(time=t).signal) for t in {[*leads]}]"
    status, said = ran(REPOSITORY / "tests", LAUNCH, "-c", look)
    assert (status, said.split()) == (0, [f"USR1@{lead}" for lead in leads.values()]), said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["launch", "--factory", "qwq_32b_evaluate"], "megaprune-node evaluate recipe=qwq_32b_test"),
        (["launch", "--factory", "marco_o1_7b_harmonize"], "node harmonize recipe=marco_o1_7b_harmonize"),
        (["launch", "--factory", "r1_distill_qwen_1_5b_prune"], "node prune recipe=r1_distill_qwen_1_5b"),
        (["convert", "megatron=a/iter_1", "out=b"], "convert to-hf --megatron a/iter_1 --out b"),
    ],
)  # fmt: skip
def test_factories(tmp_path, words, said):
    status, found = ran(
        tmp_path, Path(LAUNCH).with_name("nemorun"), "megaprune", *words, "run.executor=slurm",
        "run.executor.nodes=4", "run.executor.account=me", "--dryrun", "--yes",
    )  # fmt: skip
    assert status == 0, found
    assert "#SBATCH --account=me" in found
    assert said in found


@with_vllm
def test_on_this_host(tmp_path):
    fields = " ".join([*SMALL, f"out={tmp_path}/run", "processes=1"])
    status, said = ran(
        tmp_path, Path(LAUNCH).with_name("nemorun"), "megaprune", "launch", "--factory",
        "tiny_overthinker", f"fields='{fields}'", f"venv={VENV}", "--yes",
    )  # fmt: skip
    assert status == 0, said
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file(), said


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    if (why := missing(*ACCOUNTING)) is not None:
        pytest.skip(f"Slurm cannot run here: {why}")
    made = Cluster(tmp_path_factory.mktemp("slurm"), accounting=True)
    yield made
    made.close()


@with_vllm
def test_a_chain_on_slurm(cluster, tmp_path):
    """Two rounds, each with an evaluation behind it; then the same chain with one that fails."""
    small = [word for word in SMALL if word != "validation.n=1"]
    test = (
        f"recipe=tiny_overthinker_test data={few_problems()} n=1 max_response_length=24 budgets=10"
    )
    words = [
        *small, "validation.n=1", "limits=32,28", "out=prune", "--nodes", 2, "--gpus-per-node", 0,
        "--time", "02:00:00", "--venv", VENV, "--test", test,
    ]  # fmt: skip
    status, said = ran(
        tmp_path, LAUNCH, "-m", "megaprune.launch.nemo", "tiny_overthinker_rounds", *words,
        environment=cluster.environment,
    )  # fmt: skip
    logs = "\n".join(p.read_text() for p in tmp_path.glob("nemo/experiments/*/*/*/*.out"))
    assert status == 0, said + logs[-6000:]
    for number in (1, 2):
        assert (tmp_path / "prune-test" / f"round_{number}" / "summary.json").is_file(), logs
    states = cluster.call("sacct -X -n -P -o JobName,State").split()
    names = [state.partition("|")[0].rpartition(".")[2] for state in states]
    assert names == ["round_1_limit_32", "evaluate_1", "round_2_limit_28", "evaluate_2"]
    assert all(state.endswith("|COMPLETED") for state in states)
    assert "SUCCEEDED" in said
    status, said = ran(
        tmp_path, LAUNCH, "-m", "megaprune.launch.nemo", "tiny_overthinker_rounds", *words,
        "out=other", "model=nowhere", environment=cluster.environment,
    )  # fmt: skip
    assert status == 1, said
    assert not (tmp_path / "other").exists()
