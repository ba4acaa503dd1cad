"""The jobs of a harmonizing's rounds, and what is recorded of them."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

from megaprune import schema
from megaprune.errors import InputError
from megaprune.harmonizing import run as harmonizing
from megaprune.harmonizing.config import read_harmonize_config
from megaprune.harmonizing.rounds import Round, evaluations_of_test, steps_of
from megaprune.trainer import checkpoint
from megaprune.trainer.learner import learning_rate


@pytest.fixture
def config(tmp_path):
    fields = ["recipe=tiny_overthinker_harmonize", f"out={tmp_path}", "seed=3", "presample.seed=5"]
    return lambda *more: read_harmonize_config([*fields, *more])


def test_the_published_schedule(config):
    """9,999 responses in batches of 32: 312 steps, 32 of them of warm-up, and these rates."""
    shared = config("data.train_batch_size=32", "epochs=1", "optimizer.lr=2e-7")
    run = Round(shared, 1, "model").run(9999)
    assert run.steps == 312
    assert run.optimizer.warmup_steps == 32
    rates = {step: learning_rate(run.optimizer, step, run.steps) for step in (0, 1, 32, 156, 311)}
    expected = {0: 0, 1: 6.25e-9, 32: 2e-7, 156: 1.178557e-7, 311: 6.294e-12}
    assert rates == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("fields", "groups", "steps"),
    [
        (["epochs=1"], 640, 10),
        (["epochs=2.5"], 640, 25),
        (["epochs=1"], 703, 10),
        (["epochs=1", "steps=4"], 640, 4),
        (["epochs=0.5"], 128, 1),
    ],
)
def test_steps_follow_from_epochs(config, fields, groups, steps):
    assert steps_of(config("data.train_batch_size=64", *fields), groups) == steps


def test_less_than_a_batch_is_refused(config):
    with pytest.raises(InputError, match="not one whole batch; .*data.train_batch_size=63 or less"):
        steps_of(config("data.train_batch_size=64", "epochs=1"), 63)


def test_a_single_step_has_no_warm_up(config):
    run = Round(config("data.train_batch_size=8", "warmup_ratio=0.5", "epochs=1"), 1, "m").run(8)
    assert (run.steps, run.optimizer.warmup_steps) == (1, 0)


def test_rounds_have_their_own_model_seed_and_responses(config, tmp_path):
    shared = config("presample.folder=given", "rounds=2")
    first, second = Round(shared, 1, "start"), Round(shared, 2, "end of the first")
    assert str(first.rollouts) == "given"
    assert second.rollouts == tmp_path / "round_2" / "presample"
    drawn = second.presample()
    assert (drawn.model, drawn.seed, drawn.out) == ("end of the first", 6, str(second.rollouts))
    assert (drawn.n, drawn.problems) == (shared.presample.n, shared.presample.problems)
    run = second.run(1000)
    assert (run.model, run.seed) == ("end of the first", 4)
    assert run.data.weights == str(tmp_path / "round_2")
    assert run.data.rollouts == str(second.rollouts)
    assert run.rollout.temperature == 1


def test_the_test_is_of_both_models_alike(config):
    before, after = evaluations_of_test(config("grading.default=last_box"), "new")
    assert after == replace(before, model="new", out=after.out, baseline=before.out)
    assert after.grading.default == "last_box"


@pytest.mark.parametrize(("choose", "step"), [("last", 4), ("best", 2)])
def test_the_model_of_a_round(config, tmp_path, monkeypatch, choose, step):
    shared = config(
        "data.train_batch_size=8", "epochs=1", f"choose={choose}", "data.validation=v.parquet"
    )
    current = Round(shared, 1, "start")
    run = current.run(32)
    current.folder.mkdir()
    statistics = {"responses": 8}
    (current.folder / schema.STATISTICS_FILE).write_text(json.dumps(statistics))
    exported = []
    best = SimpleNamespace(step=2, accuracy=0.5, length=20.0)
    monkeypatch.setattr(checkpoint, "best_whole", lambda folder, config: best)
    monkeypatch.setattr(checkpoint, "export", lambda *where: exported.append(where[:2]))
    record = harmonizing.Record(shared)
    assert (record.next, record.model) == (1, shared.model)
    record.add(current, run)
    again = harmonizing.Record(shared)
    assert again.next is None
    folder = tmp_path / "round_1" / "train"
    name = schema.MODEL_FOLDER if choose == "last" else schema.CHOSEN_FOLDER
    assert again.model == str(folder / name)
    assert [str(to) for _, to in exported] == [again.model] * (choose == "best")
    (of_round,) = json.loads((tmp_path / schema.HARMONIZE_FILE).read_text())["rounds"]
    assert (of_round["step"], of_round["steps"]) == (step, 4)
    assert of_round["statistics"] == statistics
    assert harmonizing.Record(replace(shared, rounds=2)).next == 2


def test_a_record_that_cannot_be_read(config, tmp_path):
    (tmp_path / schema.HARMONIZE_FILE).write_text("{")
    with pytest.raises(InputError, match="remove it: it is made again"):
        harmonizing.Record(config())


def test_the_warm_up_is_rounded_up(config):
    run = Round(config("data.train_batch_size=8", "warmup_ratio=0.1", "epochs=1"), 1, "m").run(88)
    assert run.optimizer.warmup_steps == math.ceil(1.1)
