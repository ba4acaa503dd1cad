"""What is asked before a run, besides what the command line's own tests refuse."""

import shutil
from types import SimpleNamespace

import pytest

from megaprune import validate
from megaprune.config.run import read_config
from megaprune.errors import InputError

RUN = ["recipe=tiny_overthinker", "processes=1"]


@pytest.fixture
def config(tmp_path):
    return lambda *fields: read_config([*RUN, f"out={tmp_path / 'run'}", *fields])


@pytest.fixture
def full_disk(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))


@pytest.fixture
def small_gpu(monkeypatch):
    monkeypatch.setattr(validate, "gpu_memory_bytes", lambda: [1 << 28] * 2)


def test_a_full_disk_is_a_warning_that_strict_makes_an_error(config, full_disk, capsys, tmp_path):
    validate.check_run(config(), 1)
    words = capsys.readouterr().err
    assert words.startswith("megaprune: warning: out=")
    assert "checkpoints may take 0.1 GB (checkpoint.keep_last=2)" in words
    with pytest.raises(InputError, match=r"strict=true, and out=.*free"):
        validate.check_run(config("strict=true"), 1)
    assert not (tmp_path / "run").exists()


def test_memory_is_what_the_plan_says(config, small_gpu, capsys):
    validate.check_run(config(), 1)
    assert "of a GPU (stage 0), more than the 0.3" in capsys.readouterr().err
    with pytest.raises(InputError, match="strict=true, and .*of a GPU"):
        validate.check_run(config("strict=true"), 1)


def test_nothing_is_said_where_all_is_well(config, capsys, tmp_path):
    validate.check_run(config("strict=true"), 1)
    assert capsys.readouterr().err == ""
    assert not (tmp_path / "run").exists()


def test_stored_responses_that_no_micro_batch_holds(config, monkeypatch):
    monkeypatch.setattr(
        validate,
        "read_rollouts",
        lambda _, problems, n: (
            problems[:1],
            {problems[0].name: [SimpleNamespace(length=5000)] * n},
        ),
    )
    with pytest.raises(InputError, match=r"actor.max_tokens=2048.*a response in data.rollouts"):
        validate.check_run(config("data.rollouts=elsewhere"), 1)


def test_an_order_that_is_not_there(config):
    with pytest.raises(InputError, match="data.order=sorted; expected shuffled"):
        validate.check_run(config("data.order=sorted"), 1)
