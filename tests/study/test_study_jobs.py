"""The jobs of a study: which runs a grid makes, how they are measured, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from megaprune.algorithms.registry import components
from megaprune.cli.main import main
from megaprune.config.read import from_yaml, to_yaml
from megaprune.errors import InputError
from megaprune.recipes.tiny import FOLDER
from megaprune.study.config import StudyConfig, read_study_config
from megaprune.study.jobs import check_jobs, jobs_of, listing
from megaprune.study.variants import variants_of


def study(tmp_path, *words):
    return read_study_config([f"out={tmp_path}/study", "run.recipe=tiny_overthinker", *words])


def runs(config):
    return {job.name: job.config for job in jobs_of(config) if job.variant}


def test_variants_times_grid_times_seeds(tmp_path):
    config = study(
        tmp_path,
        "variants={plain: {}, kimi: {algorithm.reward: {name: minmax, w: 0.5}}}",
        "grid.optimizer.lr=1e-4,2e-4",
        "grid.algorithm.advantage.name=group_std,group_mean",
        "seeds=3,5",
    )
    made = runs(config)
    assert len(made) == 2 * 2 * 2 * 2
    # All of a seed come before those of the next: the page is whole early.
    assert [name.endswith("seed_3") for name in made] == [True] * 8 + [False] * 8
    run = made["kimi_lr=0.0002_group_mean_seed_5"]
    assert (run.seed, run.optimizer.lr) == (5, 2e-4)
    spec = run.algorithm.to_spec()
    assert spec["rewards"][0]["name"] == "minmax"
    assert spec["rewards"][0]["w"] == 0.5
    assert spec["advantage"]["name"] == "group_mean"
    assert run.out == f"{tmp_path}/study/runs/kimi_lr=0.0002_group_mean_seed_5"
    assert made["plain_lr=0.0001_group_std_seed_3"].algorithm.to_spec()["rewards"][0]["name"] == (
        "truncate"
    )


def test_a_grid_alone_names_its_variants(tmp_path):
    config = study(tmp_path, "grid.algorithm.reward.name=truncate,relative")
    assert [*runs(config)] == ["truncate_seed_0", "relative_seed_0"]
    assert [*runs(study(tmp_path))] == ["run_seed_0"]


def test_every_model_is_measured_alike(tmp_path):
    """The start model, and the last validation of each run: same problems, samples and limit."""
    config = study(tmp_path, "run.steps=7", "evaluate.recipe=tiny_overthinker_test", "evaluate.n=3")
    start, run = (job.config for job in jobs_of(config))
    assert (start.model, start.out) == (str(FOLDER / "model"), f"{tmp_path}/study/start")
    assert [run.data.validation] == start.data == [str(FOLDER / "data" / "test.parquet")]
    assert run.validation.n == start.n == 3
    assert run.validation.max_response_length == start.max_response_length == 512
    assert (run.validation.temperature, run.validation.top_p) == (start.temperature, start.top_p)
    assert (run.validation.every, run.validation.first) == (7, False)  # once, after the last step


def test_without_fields_of_its_own_an_evaluation_is_as_the_runs_validate(tmp_path):
    config = study(tmp_path, "run.validation.max_response_length=100", "run.validation.every=2")
    start, run = (job.config for job in jobs_of(config))
    assert start.data == [str(FOLDER / "data" / "validation.parquet")]
    assert (start.n, start.max_response_length, start.dtype) == (2, 100, "float32")
    assert start.budgets == [4, 7, 13, 25, 50, 100]
    assert start.grading == run.grading
    assert start.max_prompt_length == run.data.max_prompt_length
    assert run.validation.every == 2


def test_references_are_made_once_if_a_reward_needs_them(tmp_path):
    words = ["grid.algorithm.reward.name=truncate,harmonize", "references.n=2"]
    _, references, without, needs = jobs_of(study(tmp_path, *words))
    assert references.config.data == [str(FOLDER / "data" / "train.parquet")]
    assert references.config.n == 2
    assert needs.config.data.references == references.config.out
    assert without.config.data.references is None
    assert needs.needs == ("references",)
    assert without.needs == ()
    given = study(tmp_path, *words, f"run.data.references={tmp_path}/mine")
    assert needs.name in runs(given)
    assert runs(given)[needs.name].data.references == f"{tmp_path}/mine"


def test_a_study_s_yaml_is_a_recipe(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(
        f"out: {tmp_path}/s\n"
        "run: {recipe: tiny_overthinker, data.train_batch_size: 8}\n"
        "variants:\n"
        "  truncate:\n"
        "  relative: {algorithm.reward.name: relative}\n"
        "seeds: [0, 1]\n"
    )
    config = read_study_config([f"recipe={file}", "run.steps=3"])
    made = runs(config)
    assert [*made] == ["truncate_seed_0", "relative_seed_0", "truncate_seed_1", "relative_seed_1"]
    assert {(run.steps, run.data.train_batch_size) for run in made.values()} == {(3, 8)}
    assert from_yaml(StudyConfig, to_yaml(config)) == config


def test_the_listing_names_folders_within_the_study(tmp_path):
    config = study(tmp_path, "grid.algorithm.reward.name=truncate,relative", "evaluate.budgets=9,5")
    content = listing(config, jobs_of(config))
    assert content == json.loads(json.dumps(content))
    assert (content["start"], content["budgets"]) == ("start", [9, 5])
    assert content["runs"][1] == {
        "name": "relative_seed_0",
        "variant": "relative",
        "seed": 0,
        "folder": "runs/relative_seed_0",
        "fields": {"algorithm.reward.name": "relative"},
    }


def test_a_run_that_changed_is_refused_and_others_are_kept(tmp_path):
    before = study(tmp_path, "grid.algorithm.reward.name=truncate,relative", "run.steps=2")
    for job in jobs_of(before):
        folder = tmp_path / "study" / job.config.out
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(to_yaml(job.config))
    check_jobs(jobs_of(before))
    more = "grid.algorithm.reward.name=truncate,relative,minmax"
    check_jobs(jobs_of(study(tmp_path, more, "run.steps=3", "seeds=0,1")))
    with pytest.raises(InputError, match=r"truncate_seed_0: .*optimizer\.lr=0\.5.*another name"):
        check_jobs(jobs_of(study(tmp_path, more, "run.optimizer.lr=0.5")))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seeds=1,1"], r"seeds=\[1, 1\]; expected one or more, each once"),
        (["variants.a=3"], "variants.a=3; expected a mapping"),
        (["variants={a b: {}}"], "variant 'a b' cannot be the name of a folder"),
        (["variants={../a: {}}"], "cannot be the name of a folder"),
        (["grid.optimizer.lr=[]"], r"grid.optimizer.lr=\[\]; expected one value or more"),
        (["grid.optimizer.lr=1e-4,1e-4"], "two variants have the name 'lr=0.0001'"),
        (["variants.a.algorithm.reward.name=trunkate"], "a_seed_0: .*truncate"),
        (["variants.a.optimiser.lr=1"], "a_seed_0: there is no field 'optimiser.lr'.*optimizer.lr"),
        (["variants={a: {}, b: {model: /b}}"], "b_seed_0: model=/b, and others begin with"),
        (["run.data.validation=null"], "not said on which problems the models are measured"),
        (["evaluate.data=a.parquet,b.parquet"], "evaluate: .*expected one file or folder"),
        (["evaluate.nn=1"], "evaluate: there is no field 'nn'"),
        (["sedes=1"], "there is no field 'sedes'; did you mean seeds"),
    ],
)
def test_what_is_refused(tmp_path, words, message):
    with pytest.raises(InputError, match=message):
        jobs_of(study(tmp_path, *words))


def test_names_of_variants(tmp_path):
    config = study(tmp_path, "variants={a: {}}", "grid.algorithm.reward.name=my.py:Reward")
    assert [variant.name for variant in variants_of(config)] == ["a_my.py-Reward"]


def test_the_study_of_all_rewards(tmp_path):
    """The example has every reward that is no criterion beside others, each with three seeds."""
    file = Path(__file__).parents[2] / "examples" / "study_of_rewards.yaml"
    tiny = ["run.recipe=tiny_overthinker", "evaluate.recipe=tiny_overthinker_test"]
    made = runs(read_study_config([f"recipe={file}", f"out={tmp_path}/s", *tiny]))
    rewards = {run.algorithm.to_spec()["rewards"][0]["name"] for run in made.values()}
    assert rewards == set(components("reward")) - {"format", "repetition", "rechecks"}
    assert {run.seed for run in made.values()} == {0, 1, 2}
    assert len(made) % 3 == 0
    assert len(rewards) >= 20


def test_jobs_are_listed_without_torch(tmp_path):
    """Whoever submits them may have neither torch nor an engine."""
    words = [f"out={tmp_path}/s", "run.recipe=tiny_overthinker"]
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from megaprune.study.config import read_study_config\n"
        "from megaprune.study.jobs import jobs_of\n"
        "print([job.name for job in jobs_of(read_study_config(sys.argv[1:]))])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    )
    assert done.stdout == "['start', 'run_seed_0']\n"


def test_check_lists_the_jobs(tmp_path, capsys):
    words = ["study", f"out={tmp_path}/s", "run.recipe=tiny_overthinker", "seeds=0,1", "--check"]
    assert main(words) == 0
    said = capsys.readouterr().out
    for line in ("0 start to do", "1 run_seed_0 to do", "2 run_seed_1 to do"):
        assert line in " ".join(said.split())
    assert "2 runs and 1 evaluation; 0 of them done" in said
    assert not (tmp_path / "s").exists()
    assert main([*words, "--index", "3"]) == 1
    assert "the study has jobs 0 to 2" in capsys.readouterr().err
