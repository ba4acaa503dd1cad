"""An evaluation of the start model that a harmonizing takes for its own."""

import json
from dataclasses import replace

import pytest

from megaprune import recipes, schema
from megaprune.config.read import to_yaml
from megaprune.data import load_tokenizer
from megaprune.errors import InputError
from megaprune.evaluation.identity import model_identity
from megaprune.harmonizing.presampled import check_measured
from megaprune.harmonizing.rounds import evaluations_of_test
from megaprune.harmonizing.run import _set_aside_test_of_other_model
from megaprune.recipes.tiny import FOLDER


@pytest.fixture
def tokenizer():
    return load_tokenizer(FOLDER / "model")


@pytest.fixture
def expected(tmp_path, tokenizer):
    """The evaluation that would be made, whose folder has one that was made alike."""
    config = recipes.tiny_overthinker_harmonize()
    folder = tmp_path / "before"
    config = replace(config, test=replace(config.test, before=str(folder)))
    before, after = evaluations_of_test(config, config.model)
    assert (before.out, after.baseline) == (str(folder), str(folder))
    folder.mkdir()
    write(before)
    identity = model_identity(FOLDER / "model", tokenizer)
    (folder / schema.IDENTITY_FILE).write_text(json.dumps(identity))
    (folder / schema.SUMMARY_FILE).write_text("{}")
    return before


def write(config, **changes):
    path = f"{config.out}/{schema.CONFIG_FILE}"
    with open(path, "w") as file:
        file.write(to_yaml(replace(config, **changes)))


def test_the_same_is_taken(expected, tokenizer):
    write(expected, budgets=[7], processes=1)  # they do not change what is compared
    check_measured(expected, tokenizer)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 3}, "n is 3 there; expected 1: give both the same, or measure it anew"),
        ({"problems": 5}, "problems is 5 there; expected null"),
        ({"max_response_length": 9}, "max_response_length is 9 there; expected 512"),
        ({"temperature": 0.5, "top_p": 0.9}, r"temperature is 0\.5 there; top_p is 0\.9 there"),
        ({"data": ["other.parquet"]}, r"data is \[other.parquet\] there"),
    ],
)
def test_one_with_other_settings_is_refused(expected, tokenizer, changes, message):
    write(expected, **changes)
    with pytest.raises(InputError, match=message):
        check_measured(expected, tokenizer)


def test_one_that_has_not_ended_is_refused(expected, tokenizer, tmp_path):
    (tmp_path / "before" / schema.SUMMARY_FILE).unlink()
    with pytest.raises(InputError, match="that evaluation has not ended; go on with it first"):
        check_measured(expected, tokenizer)


def test_one_of_another_model_is_refused(expected, tokenizer, tmp_path):
    file = tmp_path / "before" / schema.IDENTITY_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"weights": "0"}))
    with pytest.raises(InputError, match=r"it is not of model=.*: .*weights"):
        check_measured(expected, tokenizer)


def test_no_evaluation_is_refused(expected, tokenizer, tmp_path):
    (tmp_path / "before" / schema.CONFIG_FILE).unlink()
    with pytest.raises(InputError, match=r"test.before=.*expected the folder of a `megaprune eva"):
        check_measured(expected, tokenizer)


def test_the_test_of_an_earlier_round_s_model_is_kept(tmp_path):
    """After more rounds were asked for, another model is tested."""
    config = replace(recipes.tiny_overthinker_harmonize(), out=str(tmp_path))
    models = [str(tmp_path / f"round_{number}" / "train" / "model") for number in (1, 2)]
    _, after = evaluations_of_test(config, models[0])
    folder = tmp_path / schema.AFTER_FOLDER
    folder.mkdir()
    write(after)
    _set_aside_test_of_other_model(folder, models[0])
    assert folder.is_dir()
    _set_aside_test_of_other_model(folder, models[1])
    assert [path.name for path in tmp_path.iterdir()] == ["earlier_after"]
