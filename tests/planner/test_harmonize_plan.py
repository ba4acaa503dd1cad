"""Plans of a harmonizing: what is drawn before, what a step learns from, and that recipes fit."""

import json
from dataclasses import replace

import pytest

from megaprune.cli.main import main
from megaprune.planner import plan
from megaprune.planner.hardware import HardwareSpec
from megaprune.planner.request import (
    HarmonizePlanConfig,
    PlanConfig,
    plan_kind,
    read_plan_config,
    with_steps,
)
from megaprune.planner.run_plan import plan_run
from megaprune.planner.speed import generate_seconds
from megaprune.recipes import qwq_32b_preview_harmonize
from megaprune.recipes.length_harmonizing import GPUS

QWQ = "recipe=qwq_32b_preview_harmonize"


@pytest.mark.parametrize("name", GPUS)
def test_recipes_fit_their_gpus_of_80_gb(name):
    planned = plan_run(
        with_steps(read_plan_config([f"recipe={name}"]), 5000), HardwareSpec(gpus=GPUS[name])
    )
    assert planned.problems == []
    assert planned.fits
    assert planned.gpu.peak < 77e9


def test_frozen_layers_have_neither_gradients_nor_optimizer_state():
    """48 layers of QwQ-32B-Preview over 8 GPUs; a layer's numbers are those of its config.json."""
    hidden, ffn, kv = 5120, 27648, 8 * 128
    layer = hidden * (hidden + 2 * kv) + hidden + 2 * kv + hidden * hidden + 3 * hidden * ffn
    divided, whole = layer // 8, 2 * hidden  # norms are on each rank
    trained = 48 * (divided + whole)
    parts = plan_run(read_plan_config([QWQ]), HardwareSpec(gpus=8)).gpu.phases
    assert parts["train"]["gradients"] == pytest.approx(4 * trained, rel=1e-3)
    assert parts["update"]["optimizer"] == pytest.approx(12 * trained, rel=1e-3)
    every = 64 * (divided + whole) + 2 * 152064 * hidden // 8
    assert parts["train"]["weights"] == pytest.approx(2 * every, rel=1e-3)


def test_engines_are_beside_the_model_only_to_measure_it():
    """Otherwise there are only engines to draw, and then only the model to train."""
    alone = plan_run(read_plan_config([QWQ, "actor.offload=all"]), HardwareSpec(gpus=8))
    training = alone.gpu.phases["train"]
    assert alone.gpu.phases["generate"] == alone.gpu.phases["sync"] == {}
    assert not any(name.startswith("engine") for name in training)
    assert alone.traffic is None
    # Nothing has to leave for an engine, whatever actor.offload says.
    assert {"weights", "gradients", "optimizer"} <= training.keys()
    assert alone.host["offloaded"] == 0
    (time,) = alone.rounds
    assert time.seconds["offload"] == time.seconds["sync"] == 0
    assert alone.engine.cache_tokens == pytest.approx(
        (0.9 * 80e9 - 65.53e9 / 4 - alone.engine.workspace) / alone.engine.cache_token, rel=1e-3
    )
    measured = [QWQ, "actor.offload=all", "data.validation=held_out.parquet"]
    beside = plan_run(read_plan_config(measured), HardwareSpec(gpus=8))
    assert "engine: CUDA graphs" in beside.gpu.phases["train"]
    assert "optimizer" not in beside.gpu.phases["train"]
    assert beside.host["offloaded"] > 0
    assert beside.rounds[0].seconds["sync"] > 0
    assert beside.gpu.phases["generate"]["engine: key-value cache"] == beside.engine.cache


def test_both_engines_must_hold_a_sequence():
    """The one that draws has 0.9 of a GPU, and the one beside the model what is given."""
    fields = [QWQ, "data.validation=held_out.parquet", "rollout.gpu_memory_utilization=0.2"]
    planned = plan_run(read_plan_config(fields), HardwareSpec(gpus=8))
    assert ["rollout.gpu_memory_utilization=0.2 leaves" in line for line in planned.problems] == [
        True
    ]
    for division in planned.fastest:
        assert division.config.rollout.gpu_memory_utilization > 0.2


def test_the_stage_that_needs_most_is_shown():
    """Of four stages the first has no trained layer, and neither gradients nor their optimizer."""
    fields = [QWQ, "actor.tp=2", "actor.pp=4", "actor.recompute=full"]
    gpu = plan_run(read_plan_config(fields), HardwareSpec(gpus=8)).gpu
    assert gpu.stage > 0
    assert gpu.phases["train"]["gradients"] > 0


@pytest.mark.parametrize("gpu", ["l40s", "a100-40gb"])
def test_smaller_gpus_are_not_refused_for_the_engine_that_draws(gpu):
    """It takes what there is, of any GPU; the model's memory decides."""
    fields = ["recipe=marco_o1_7b_harmonize", "actor.recompute=full"]
    assert plan_run(read_plan_config(fields), HardwareSpec.of_type(gpu, gpus=8)).fits


def test_a_run_from_stored_responses_has_no_engine():
    """Without validation; with it, an engine is there to measure the model."""
    stored = ["model=QwQ-32B", "data.rollouts=stored", "actor.tp=8", "actor.offload=all"]
    planned = plan_run(read_plan_config(stored), HardwareSpec(gpus=32))
    assert planned.engine is None
    assert planned.gpu.phases["generate"] == {}
    assert planned.rounds[0].seconds["generate"] == planned.rounds[0].seconds["sync"] == 0
    measured = [*stored, "data.validation=held_out.parquet"]
    planned = plan_run(read_plan_config(measured), HardwareSpec(gpus=32))
    assert planned.engine is not None
    assert planned.rounds[0].seconds["generate"] == 0 < planned.rounds[0].validation_seconds


def test_responses_are_drawn_once_and_the_reference_is_passed_over_once():
    hardware = HardwareSpec(gpus=8, training_problems=4000)
    planned = plan_run(read_plan_config([QWQ]), hardware)
    (time,) = planned.rounds
    # Two responses to each of 4,000 problems, 32 in a step; 12 are drawn to each.
    assert time.steps == 250
    assert time.seconds["generate"] == time.seconds["reference and old log-probs"] == 0
    assert planned.host["reference"] == 0
    config, shape = planned.config, planned.shape
    alone = replace(config, rollout=replace(config.rollout, gpu_memory_utilization=0.9))
    drawn = generate_seconds(alone, shape, hardware, 4000, 12, 8192)
    assert (time.sequences, time.before["responses"]) == drawn
    tokens = 8000 * 4096  # where they are cut
    least = 2 * (shape.parameters - 152064 * 5120) * tokens / (8 * hardware.flops("bfloat16") * 0.5)
    assert least < time.before["log-probs of the reference"] < 2 * least
    assert time.total_seconds == pytest.approx(250 * time.step_seconds + sum(time.before.values()))
    # What a step learns from takes 32 x 4,096 tokens; 16 layers have no backward pass.
    step = 32 * 4096 * 6 * shape.parameters * (48 * 3 + 16) / (64 * 3)
    assert time.seconds["train"] > 0.9 * step / (8 * hardware.flops("bfloat16") * 0.5)
    assert time.tokens == 32 * 8192 * 0.75


@pytest.mark.parametrize(
    ("fields", "steps", "passes"),
    [
        (["method=sft"], 312, False),  # two of each problem
        (["method=dpo"], 156, True),
        (["method=simpo"], 156, False),
        (["presample.problems=null"], 312, True),
        (["presample.problems=640"], 40, True),
        (["harmonize.responses=all"], 1875, True),
        (["epochs=2"], 625, True),
        (["epochs=2", "steps=9"], 9, True),
    ],
)
def test_steps_follow_from_the_method(fields, steps, passes):
    planned = plan_run(read_plan_config([QWQ, *fields]), HardwareSpec(gpus=8))
    (time,) = planned.rounds
    assert time.steps == steps
    assert ("log-probs of the reference" in time.before) == passes
    assert planned.fits


def test_what_is_planned():
    assert plan_kind([QWQ]) is HarmonizePlanConfig
    assert plan_kind(["model=Marco-o1", "presample.n=4"]) is HarmonizePlanConfig
    assert plan_kind(["model=Marco-o1", "method=sft"]) is HarmonizePlanConfig
    assert plan_kind(["recipe=qwq_32b"]) is PlanConfig
    assert plan_kind(["model=Marco-o1", "rollout.n=4"]) is PlanConfig
    assert plan_kind(["recipe=not_there"]) is PlanConfig


def test_rounds_are_planned_each():
    planned = plan_run(read_plan_config([QWQ, "rounds=2"]), HardwareSpec(gpus=8))
    first, second = planned.rounds
    assert first == second
    assert planned.gpu_hours == pytest.approx(8 * 2 * first.total_seconds / 3600)


def test_the_command(tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    assert main(["plan", QWQ, "presample.n=4", "--print-config"]) == 0
    file.write_text(capsys.readouterr().out)
    assert main(["plan", f"recipe={file}", "--training-problems", "64", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["rounds"][0]["steps"] == 4
    assert shown["rounds"][0]["before"].keys() == {"responses", "log-probs of the reference"}
    assert shown["assumed"]["training_problems"] == 64
    assert main(["plan", QWQ]) == 0
    printed = capsys.readouterr().out
    assert "of them responses" in printed
    assert "of 5000 problems (312 steps of a round" in printed
    assert main(["plan", QWQ, "--help-fields", "presample"]) == 0
    assert "presample.top_p" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (["rollout.n=4"], "rollout.n is not a harmonizing's to set; give presample.n"),
        (["harmonize.responses=20"], "harmonize.responses=20 with presample.n=12"),
        (["data.train_batch_size=100000"], "data.train_batch_size=100000 with epochs=1, and 10000"),
    ],
)
def test_what_cannot_be(fields, message, capsys):
    assert main(["plan", QWQ, *fields]) == 2
    assert message in capsys.readouterr().err


def test_a_pair_that_no_micro_batch_holds(capsys):
    assert main(["plan", QWQ, "method=dpo", "actor.max_tokens=4096"]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "does not fit: actor.max_tokens=4096, and a sample may have 8192 tokens" in printed


def test_an_engine_that_cannot_hold_a_sequence(capsys):
    fields = ("rollout.tp=1", "presample.max_response_length=30000")
    assert main(["plan", QWQ, *fields]) == 1
    assert "rollout.gpu_memory_utilization=0.9 leaves" in " ".join(capsys.readouterr().out.split())


def test_from_python():
    assert plan(qwq_32b_preview_harmonize(), gpus=8).fits
