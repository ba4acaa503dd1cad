"""Rules of fields, with a model, on ranks: each names the field that is to be changed."""

import pytest

from megaprune.config.run import EngineConfig, read_config
from megaprune.errors import InputError
from megaprune.evaluation.config import read_evaluate_config
from megaprune.recipes.models import shape_of
from megaprune.rules import (
    cache_problems,
    context_problems,
    evaluate_problems,
    frozen_problems,
    mark_problems,
    node_problems,
    parallelism_problems,
    refuse,
    run_problems,
    shaping_problems,
)

TINY = ["recipe=tiny_overthinker"]
QWQ = shape_of("QwQ-32B")


def of_run(*fields):
    return list(run_problems(read_config([*TINY, *fields])))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            ["algorithm.length=thought", "grading.thought=none"],
            "algorithm.length=thought with grading.thought=none: no mark",
        ),
        (["algorithm.num_minibatches=3"], "algorithm.num_minibatches=3 does not divide data.train"),
        (["rollout.n=1"], "rollout.n=1 with algorithm.advantage.name=group_mean; expected n=2"),
        (
            ["actor.frozen_layers=1", "actor.trainable_layers=1"],
            "actor.frozen_layers=1 with actor.trainable_layers=1; expected one of them",
        ),
        (["actor.sequence_parallel=true"], "actor.sequence_parallel=true with actor.tp=1"),
        (
            ["optimizer.schedule=cosine", "optimizer.warmup_steps=9", "steps=9"],
            "optimizer.warmup_steps=9 with optimizer.schedule=cosine; expected less than steps=9",
        ),
        (
            ["optimizer.on_cpu=0.5", "optimizer.distributed=false"],
            "optimizer.on_cpu=0.5 with optimizer.distributed=false",
        ),
        (
            ["optimizer.on_cpu=1", "optimizer.distributed=true", "dtype=float32"],
            "optimizer.on_cpu=1 with optimizer.distributed=true and dtype=float32; expected",
        ),
        (["algorithm.reward.name=harmonize"], "reward harmonize compares with responses of the re"),
        (
            ["algorithm.reward.name=gate", "algorithm.reward.of.name=profile"],
            "reward gate compares with responses of the reference model; expected data.references",
        ),
        (["data.weights=some"], "data.weights=some without data.rollouts"),
        (
            [
                "data.weights=some",
                "data.rollouts=some",
                "algorithm.rewards=[{name: truncate}, {name: correct}]",
            ],
            "algorithm.rewards has 2 rewards, and the weights of data.weights take their place",
        ),
        (
            [
                "data.weights=some",
                "data.rollouts=some",
                "algorithm.loss.kl_coef=1",
                "algorithm.loss.kl_in=reward",
            ],
            "algorithm.loss.kl_in=reward with weights of responses",
        ),
        (["actor.max_tokens=135"], "actor.max_tokens=135, and a sample may have 136 tokens"),
    ],
)
def test_fields_that_cannot_be_together(fields, words):
    (problem,) = of_run(*fields)
    assert problem.startswith(words)
    with pytest.raises(InputError) as error:
        refuse([problem, "another"])
    assert str(error.value) == f"{problem}; another"


def test_a_smooth_penalty_that_a_deviation_takes_the_strength_of():
    def warnings(*fields):
        return list(shaping_problems(read_config([*TINY, *fields]).algorithm))

    std = "algorithm.advantage.name=group_std"
    assert warnings() == warnings(std) == []
    (warning,) = warnings(std, "algorithm.reward.name=solve_rate")
    assert warning.startswith("algorithm.advantage.name=group_std with the reward solve_rate")
    assert warnings("algorithm.reward.name=solve_rate", "algorithm.advantage.name=batch_std") == []
    gate = "algorithm.reward.name=gate"  # its default is group_relative
    assert len(warnings(std, gate)) == 1


def test_fields_that_can_be_together():
    assert of_run() == []
    assert of_run("algorithm.reward.name=harmonize", "data.references=drawn") == []
    assert of_run("actor.sequence_parallel=true", "actor.tp=2", "actor.max_tokens=136") == []
    assert of_run("rollout.n=1", "algorithm.advantage.name=batch_std") == []


def test_an_evaluations_fields():
    config = read_evaluate_config(["recipe=tiny_overthinker_test", "budgets=0", "exit_at=600"])
    assert [problem.split("=")[0] for problem in evaluate_problems(config)] == [
        "budgets",
        "exit_at",
    ]
    config = read_evaluate_config(["recipe=tiny_overthinker_test", "data=[]"])
    assert list(evaluate_problems(config))[0].startswith("data must be given")


def test_greedy_responses_are_one_of_each_problem():
    fields = ["model=x", "out=x", "data=[x]", "temperature=0"]
    assert not [*evaluate_problems(read_evaluate_config([*fields, "n=1"]))]
    assert not [*evaluate_problems(read_evaluate_config(fields))]
    (words,) = evaluate_problems(read_evaluate_config([*fields, "n=4"]))
    assert words.startswith("n=4 with temperature=0: all responses to a problem would be the same")


def test_a_model():
    config = read_config([*TINY, "actor.frozen_layers=64"])
    (words,) = frozen_problems(config, QWQ)
    assert words.startswith("actor.frozen_layers=64; the model has 64 layers")
    (words,) = frozen_problems(read_config([*TINY, "actor.trainable_layers=65"]), QWQ)
    assert words == "actor.trainable_layers=65; the model has 64 layers"
    assert not [*frozen_problems(read_config([*TINY, "actor.trainable_layers=64"]), QWQ)]
    long = read_config([*TINY, "validation.max_response_length=961"])
    (words,) = context_problems(long, 1024)
    assert words.startswith("validation.max_response_length=961 and data.max_prompt_length=64 are")
    assert list(context_problems(long, 0)) == []


def test_a_cache_that_holds_no_sequence():
    token = 2 * 64 * 1 * 128 * 2  # keys and values, layers, heads of a rank, their size, bytes
    for tokens, expected in ((1024, 0), (1025, 1)):
        engine = EngineConfig(tp=8, kv_cache_memory_bytes=1024 * token)
        assert len(list(cache_problems(engine, QWQ, "bfloat16", tokens))) == expected
    assert list(cache_problems(EngineConfig(), QWQ, "bfloat16", 10**9)) == []


def test_ranks():
    config = read_config([*TINY, "actor.tp=3", "rollout.tp=16"])
    actor, engine = parallelism_problems(config, QWQ, 32)
    assert actor.startswith("actor.tp=3 x actor.pp=1 is 3 ranks")
    assert engine.startswith("rollout: vLLM tp=16 does not divide num_attention_heads=40")
    fields = ["actor.pp=2", "actor.num_layers_in_first_pipeline_stage=64"]
    (words,) = parallelism_problems(read_config([*TINY, *fields]), QWQ, 2)
    assert words.startswith("actor: a stage of pp=2 would have none of the 64 layers")
    assert list(node_problems(8, 8)) == []
    (words,) = node_problems(16, 8)
    assert words == "rollout.tp=16 is more than the 8 GPUs of a node; choose 1, 2, 4 or 8"


@pytest.mark.parametrize(
    ("fields", "known", "is_wrong"),
    [
        ([], ["<Thought>", "hello"], True),
        ([], ["hello", "</think>"], False),
        ([], ["{{ x.split('</think>') }}"], False),
        ([], ["Reason within <think></think> tags."], False),
        (["grading.thought=none"], ["hello"], False),
        (["grading.thought=qwen3"], ["hello"], False),
        (["grading.default=last_box"], ["hello"], False),
    ],
)
def test_a_family_that_never_ends_a_thought(fields, known, is_wrong):
    config = read_config([*TINY, *fields])
    problems = list(mark_problems("some/model", known, config.grading))
    assert len(problems) == is_wrong
    assert not is_wrong or "expected grading.thought=none, or that of the family" in problems[0]
