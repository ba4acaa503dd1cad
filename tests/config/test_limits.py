"""Limits of training and of validation."""

from dataclasses import replace

import pytest

from megaprune.config.limits import (
    longest_sequence,
    needs_engine,
    training_limits,
    validation_limit,
)
from megaprune.config.run import Config, DataConfig, read_config
from megaprune.pruning.config import read_prune_config

RUN = ["model=m", "out=o", "data.train=t", "data.validation=v", "data.max_prompt_length=100"]


def limit(context, *fields):
    return validation_limit(read_config([*RUN, *fields]), context)


def test_validation_has_room_by_default():
    """Under the training limit a model that is right at 94 % would look like 11 %."""
    assert limit(0) == limit(131072) == 4 * 4000
    assert limit(10_100) == 10_000  # as far as the model goes
    assert limit(4100) == limit(3000) == 4000  # never less than training
    assert limit(0, "rollout.max_response_length=72") == 288
    assert limit(0, "validation.max_response_length=24") == 24
    assert limit(0, "validation.every=0") is None
    assert validation_limit(read_config([*RUN, "data.validation=null"]), 0) is None


def test_rounds_are_measured_under_one_limit():
    config = read_prune_config([*RUN, "limits=4000,3000,2000"])
    assert training_limits(config) == [4000, 3000, 2000]
    assert validation_limit(config, 0) == 16000
    assert longest_sequence(config, 0) == 16100


@pytest.mark.parametrize(
    ("fields", "longest"),
    [
        ([], 16100),
        (["validation.every=0"], 4100),
        (["data.validation=null"], 4100),
        (["validation.max_response_length=24"], 4100),
        (["validation.max_response_length=5000", "validation.every=0"], 5100),
    ],
)
def test_what_an_engine_must_hold(fields, longest):
    config = read_config([*RUN, *fields])
    assert longest_sequence(config, 0) == longest
    assert longest_sequence(config, 8192) <= max(8192, 5100)
    shorter = replace(config, rollout=replace(config.rollout, max_response_length=10))
    assert longest_sequence(shorter, 0) <= longest


@pytest.mark.parametrize("rollouts", [None, "drawn"])
@pytest.mark.parametrize("validation", [None, "v.parquet"])
def test_a_run_that_neither_draws_nor_measures_needs_no_engine(rollouts, validation):
    data = DataConfig(train="t.parquet", rollouts=rollouts, validation=validation)
    config = Config(model="m", out="o", data=data)
    assert needs_engine(config) == (rollouts is None or validation is not None)
