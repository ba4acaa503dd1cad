"""Studies of runs beside harmonizings and evaluations: which command each variant is of."""

import json

import pytest

from megaprune import schema
from megaprune.cli.main import main
from megaprune.config.fields import leaves
from megaprune.errors import InputError
from megaprune.evaluation.config import EvaluateConfig
from megaprune.harmonizing.config import HarmonizeConfig
from megaprune.recipes.tiny import FOLDER
from megaprune.study.config import read_study_config
from megaprune.study.jobs import jobs_of

METHODS = [
    "variants.pruned.recipe=tiny_overthinker",
    "variants.sft={recipe: tiny_overthinker_harmonize, method: sft, harmonize.responses: 2}",
    "variants.o1_pruner={recipe: tiny_overthinker_harmonize, harmonize: o1_pruner_paper}",
    "evaluate.recipe=tiny_overthinker_test",
]


def study(tmp_path, *words):
    return read_study_config([f"out={tmp_path}/study", *words])


def by_name(config):
    return {job.name: job for job in jobs_of(config)}


def test_every_command_has_its_variants(tmp_path):
    faster = "variants.fast_prompt.data=fast.parquet"
    jobs = by_name(study(tmp_path, *METHODS, faster, "seeds=0,4"))
    assert [*jobs][:4] == ["start", "presample_seed_0", "presample_seed_4", "pruned_seed_0"]
    words = {name: job.words[0] for name, job in jobs.items() if job.seed == 4}
    assert words == {
        "pruned_seed_4": "train", "sft_seed_4": "harmonize", "o1_pruner_seed_4": "harmonize",
        "fast_prompt_seed_4": "evaluate",
    }  # fmt: skip
    sft = jobs["sft_seed_4"].config
    assert isinstance(sft, HarmonizeConfig)
    assert (sft.method, sft.harmonize.responses, sft.seed) == ("sft", 2, 4)
    assert jobs["o1_pruner_seed_4"].config.harmonize.normalize == "data_set"
    fast, start = jobs["fast_prompt_seed_4"].config, jobs["start"].config
    different = {name for name, value in leaves(fast) if value != dict(leaves(start))[name]}
    assert different == {"data", "out", "seed", "wandb.group"}


def test_harmonizings_are_measured_as_the_start_model_is(tmp_path):
    jobs = by_name(study(tmp_path, *METHODS, "evaluate.n=3", "evaluate.budgets=50,100"))
    start, tested = jobs["start"].config, jobs["sft_seed_0"].config.test
    assert tested.before == start.out
    for name in ("data", "n", "max_response_length", "temperature", "top_p", "budgets"):
        assert getattr(tested, name) == getattr(start, name), name
    assert tested.n == 3


def test_responses_are_drawn_once_for_all_that_draw_them_alike(tmp_path):
    more = "variants.more={recipe: tiny_overthinker_harmonize, presample.n: 16}"
    given = "variants.given={recipe: tiny_overthinker_harmonize, presample.folder: /mine}"
    jobs = by_name(study(tmp_path, *METHODS, more, given, "seeds=2,5"))
    drawn = {name: job.config for name, job in jobs.items() if name.startswith("presample")}
    assert [*drawn] == [
        "presample_seed_2", "presample_seed_2_more", "presample_seed_5", "presample_seed_5_more",
    ]  # fmt: skip
    assert [config.seed for config in drawn.values()] == [2, 2, 5, 5]
    assert [config.n for config in drawn.values()] == [8, 16, 8, 16]
    assert {tuple(config.data) for config in drawn.values()} == {
        (str(FOLDER / "data" / "train.parquet"),)
    }
    for seed in (2, 5):
        for name, folder in (("sft", ""), ("o1_pruner", ""), ("more", "_more")):
            job, shared = jobs[f"{name}_seed_{seed}"], f"presample_seed_{seed}{folder}"
            assert job.config.presample.folder == drawn[shared].out
            assert job.needs == ("start", shared)
        assert jobs[f"given_seed_{seed}"].config.presample.folder == "/mine"
        assert jobs[f"given_seed_{seed}"].needs == ("start",)
        assert jobs[f"pruned_seed_{seed}"].needs == ()


def test_a_sweep_of_a_harmonizing_s_field(tmp_path):
    """Without `evaluate`, models are measured as the harmonizing's own test does."""
    words = ["run.recipe=tiny_overthinker_harmonize", "grid.harmonize.lam=1,4"]
    start, presample, *jobs = jobs_of(study(tmp_path, *words))
    assert start.config.data == [str(FOLDER / "data" / "test.parquet")]
    assert (start.config.n, start.config.temperature, start.config.dtype) == (1, 1.0, "float32")
    assert isinstance(presample.config, EvaluateConfig)
    assert [job.name for job in jobs] == ["lam=1_seed_0", "lam=4_seed_0"]
    assert [job.config.harmonize.lam for job in jobs] == [1, 4]
    assert {job.config.presample.folder for job in jobs} == {presample.config.out}


def test_fields_alone_say_what_a_variant_is(tmp_path):
    model, data = FOLDER / "model", FOLDER / "data" / "train.parquet"
    words = [f"run.model={model}", f"run.data.train={data}", "run.test.data=a.parquet"]
    (*_, job) = jobs_of(study(tmp_path, *words, "run.test.n=1", "run.harmonize.lam=3"))
    assert isinstance(job.config, HarmonizeConfig)


def test_a_harmonizing_is_done_when_its_rounds_and_its_test_are(tmp_path):
    words = ["run.recipe=tiny_overthinker_harmonize", "run.rounds=2"]
    *_, job = jobs_of(study(tmp_path, *words))
    folder = tmp_path / "study" / "runs" / "run_seed_0"
    models = [f"round_{number}/train/model" for number in (1, 2)]
    for model in models:
        (folder / model).mkdir(parents=True)
    file, link = folder / schema.HARMONIZE_FILE, folder / schema.MODEL_FOLDER

    def write(rounds, test):
        entries = [{"model": model} for model in models[:rounds]]
        file.write_text(json.dumps({"rounds": entries, "test": test}))

    assert not job.done
    link.symlink_to(models[0])  # of a time when one round was all
    for rounds, test in ((1, {}), (2, None), (2, {})):
        write(rounds, test)
        assert not job.done
    link.unlink()
    assert not job.done  # its page is not there yet
    link.symlink_to(models[1])
    assert job.done
    write(2, None)
    assert not job.done
    file.write_text("{")
    assert not job.done


def test_mappings_reach_all_jobs(tmp_path):
    """Such as graders by data source, which decide what is right."""
    words = ["run.recipe=tiny_overthinker_harmonize", "run.grading.graders.arithmetic=math_verify"]
    jobs = jobs_of(study(tmp_path, *words))
    assert len(jobs) == 3
    assert {job.config.grading.graders["arithmetic"] for job in jobs} == {"math_verify"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["variants.a.data=a.parquet"], "every variant is an evaluation; expected one that is tr"),
        ([*METHODS, "variants.a={data: a.parquet, model: /b}"], "a_seed_0: model is not an evalua"),
        ([*METHODS, "variants.a.recipe=tiny_reasoner_test"], "a_seed_0: recipe is not an evaluati"),
        (
            [*METHODS, "variants.sft.data.max_prompt_length=99"],
            "sft_seed_0: .*max_prompt_length is",
        ),
        ([*METHODS, "evaluate.problems=5"], "evaluate: problems=5; expected null: runs are measu"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, words, message):
    with pytest.raises(InputError, match=message):
        jobs_of(study(tmp_path, *words))


def test_a_job_waits_for_those_that_it_needs(tmp_path, capsys):
    words = ["study", f"out={tmp_path}/study", *METHODS]
    assert main([*words, "--check"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if " sft_seed_0" in line)
    assert line.split()[:5] == ["3", "sft_seed_0", "to", "do", "0,1"]
    assert main([*words, "--index", "3"]) == 1
    said = capsys.readouterr().err
    assert "sft_seed_0 needs start, presample_seed_0 first: do --index 0,1" in said
