"""What becomes of rounds: each one's run, when to stop, what is taken. No engine is needed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from megaprune.errors import InputError
from megaprune.pruning.config import read_prune_config
from megaprune.pruning.rounds import Rounds
from megaprune.rules import prune_problems, refuse

TINY = ["recipe=tiny_overthinker", "limits=160,112,72"]


@pytest.fixture
def config(tmp_path):
    return read_prune_config([*TINY, f"out={tmp_path}", "data.train=made/train_{limit}.parquet"])


def rounds(config, *measured, base=(0.98, 170.0)):
    """The state after rounds with these (accuracy, length)."""
    done = [
        {
            "round": number, "limit": limit, "folder": f"round_{number}_limit_{limit}",
            "step": 10, "accuracy": accuracy, "length": length,
            "model": f"round_{number}_limit_{limit}/model",
        }
        for number, (limit, (accuracy, length)) in enumerate(
            zip(config.limits, measured, strict=False), 1
        )
    ]  # fmt: skip
    said = {"base": dict(zip(("accuracy", "length"), base, strict=True)), "rounds": done}
    (Path(config.out) / "rounds.json").write_text(json.dumps(said))
    return Rounds(config)


def test_rounds_are_a_group_for_trackers(config):
    own = Rounds(config).config(2, "model").wandb
    assert (own.group, own.name) == (Path(config.out).name, None)
    named = replace(config, wandb=replace(config.wandb, name="mine"))
    own = Rounds(named).config(2, "model").wandb
    assert (own.group, own.name) == ("mine", "mine round_2_limit_112")
    grouped = replace(config, wandb=replace(config.wandb, group="all", mode="offline"))
    own = Rounds(grouped).config(1, "model").wandb
    assert (own.group, own.name, own.mode) == ("all", None, "offline")


def test_a_round_is_a_run_of_its_own(config):
    run = Rounds(config).config(2, "the/chosen/model")
    assert run.model == "the/chosen/model"
    assert run.out == f"{config.out}/round_2_limit_112"
    assert run.data.train == "made/train_112.parquet"
    assert run.data.validation == config.data.validation
    assert run.rollout == replace(config.rollout, max_response_length=112)
    assert run.seed == config.seed + 1
    assert (run.optimizer, run.algorithm) == (config.optimizer, config.algorithm)


@pytest.mark.parametrize(("context", "limit"), [(None, 640), (1024, 640), (400, 336)])
def test_all_rounds_are_measured_under_one_limit(config, tmp_path, context, limit):
    """Under a limit of its own, each round's model would look worse before the round than after."""
    model = tmp_path / "base"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"max_position_embeddings": context}))
    validation = replace(config.validation, max_response_length=None)
    config = replace(config, model=str(model), validation=validation)
    for number in (1, 2, 3):
        run = Rounds(config).config(number, "a/chosen/model")
        assert run.validation.max_response_length == limit


def test_rounds_follow_each_other(config):
    assert (Rounds(config).next, Rounds(config).model) == (1, config.model)
    one = rounds(config, (0.98, 120))
    assert (one.next, one.model) == (2, f"{config.out}/round_1_limit_160/model")
    assert rounds(config, (0.98, 120), (0.97, 90)).next == 3
    assert rounds(config, (0.98, 120), (0.97, 90), (0.97, 60)).next is None


def test_the_first_round_is_measured_before_it(config):
    config = replace(config, validation=replace(config.validation, first=False))
    assert Rounds(config).config(1, "m").validation.first
    assert not Rounds(config).config(2, "m").validation.first


def test_too_much_lost_is_the_end(config):
    """3 points of 98 %: 95 % is enough, 94.9 % is not."""
    assert rounds(config, (0.98, 120), (0.9501, 90)).next == 3
    assert rounds(config, (0.98, 120), (0.9499, 90)).next is None
    more = replace(config, max_drop=4.0)
    assert rounds(more, (0.98, 120), (0.9499, 90)).next == 3


def test_a_gain_makes_no_room_for_a_loss(config):
    """Measured from the start, not from the best round."""
    assert rounds(config, (0.999, 120), (0.955, 90)).next == 3


def test_more_rounds_may_be_added_but_not_others(config):
    rounds(config, (0.98, 120), (0.97, 90), (0.97, 60))
    assert Rounds(replace(config, limits=[160, 112, 72, 64])).next == 4
    with pytest.raises(InputError, match=r"had \[160, 112, 72\]"):
        Rounds(replace(config, limits=[160, 100, 72]))


def test_rounds_that_cannot_be_read(config):
    (Path(config.out) / "rounds.json").write_text("{")
    with pytest.raises(InputError, match=r"rounds.json cannot be read"):
        Rounds(config)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (["limits=72,112"], "limits=.*fall"),
        (["limits=72,72"], "limits=.*fall"),
        (["limits=72,0"], "limits=.*fall"),
        (["limits=[]"], "limits=.*fall"),
        (["rollout.max_response_length=72"], "each round's own"),
        (["max_drop=-1"], "max_drop"),
        (["data.validation=null"], "data.validation"),
        (["validation.every=0"], "validation.every"),
        (["checkpoint.keep_best=false"], "keep_best"),
        (["limitz=72"], "did you mean limits"),
    ],
)
def test_refused(fields, words):
    with pytest.raises(InputError, match=words):
        refuse(prune_problems(read_prune_config([*TINY, *fields])))
