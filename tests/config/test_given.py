"""What the environment gives to a configuration is used, and written as it was given."""

import os

import pytest

from megaprune.config.given import hidden
from megaprune.config.read import as_written, differences, to_yaml
from megaprune.config.run import Config, read_config
from megaprune.config.upgrade import upgraded
from megaprune.errors import InputError
from megaprune.evaluation.config import read_evaluate_config
from megaprune.pruning.config import read_prune_config
from megaprune.pruning.rounds import Rounds

SECRET, FOLDER = "hush-58135813-hush", "/hush/5813/folder"
NEEDED = {"model": "m", "out": "o", "data.train": "t"}


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name, value in {"SECRET": SECRET, "FOLDER": FOLDER, "NUMBER": "58135813"}.items():
        monkeypatch.setenv(name, value)


def arguments(*fields):
    given = NEEDED | dict(field.split("=", 1) for field in fields)
    return [f"{key}={value}" for key, value in given.items()]


def value_of(config, name):
    for part in name.split("."):
        config = config[part] if isinstance(config, dict) else getattr(config, part)
    return config


FIELDS = [
    ("model=${oc.env:FOLDER}", FOLDER),
    ("model=${oc.env:FOLDER}/model", f"{FOLDER}/model"),
    ("data.train=a/${oc.env:SECRET}/b_{limit}.parquet", f"a/{SECRET}/b_4000.parquet"),
    ("data.validation=${data.train}", None),
    ("data.order=${ oc.env : SECRET }", SECRET),
    ("data.order=${oc.env:${data.rollouts}}", SECRET),
    ("data.order=${oc.${wandb.name}:SECRET}", SECRET),
    ("data.order=${oc.env:'SECRET'}", SECRET),
    ('data.order=${oc.env:"SECRET"}', SECRET),
    ("data.order=${oc.env:NOT_THERE,${oc.env:SECRET}}", SECRET),
    ("data.order=${oc.decode:${oc.env:SECRET}}", SECRET),
    ("data.order=${oc.select:data.train,${oc.env:SECRET}}", None),
    ("wandb.project=${oc.env:SECRET}", SECRET),
    ("steps=${oc.decode:${oc.env:NUMBER}}", 58135813),
    ("seed=${oc.decode:'${oc.env:NUMBER}'}", 58135813),
    ("optimizer.weight_decay=${oc.decode:${oc.env:NUMBER}.5}", 58135813.5),
    ("grading.default=${oc.env:SECRET}:f", f"{SECRET}:f"),
    ("grading.graders.aime=${oc.env:SECRET}", SECRET),
    ("grading.graders={a: '${oc.env:SECRET}', b: c}", {"a": SECRET, "b": "c"}),
    ("grading.environment=['${oc.env:SECRET}',B]", [SECRET, "B"]),
]


def with_helpers(field):
    """Some interpolations lean on other fields."""
    more = []
    if "${data.rollouts}" in field:
        more = ["data.rollouts=SECRET"]
    if "${wandb.name}" in field:
        more = ["wandb.name=env"]
    if "${data.train}" in field:
        more = ["data.train=${oc.env:SECRET}"]
    return arguments(*more, field)


@pytest.mark.parametrize(("field", "value"), FIELDS, ids=[field for field, _ in FIELDS])
@pytest.mark.parametrize("recipe", [False, True])
def test_the_value_is_used_and_not_written(tmp_path, field, value, recipe):
    given = with_helpers(field)
    config = read_config(given)
    if recipe:
        (tmp_path / "recipe.yaml").write_text(to_yaml(config))
        config = read_config([f"recipe={tmp_path / 'recipe.yaml'}"])
    name = field.partition("=")[0]
    if value is not None:
        assert value_of(config, name) == value
    text = to_yaml(config)
    assert "5813" not in text.split("# ")[0]
    assert SECRET not in text
    assert FOLDER not in text
    assert "5813" not in str(as_written(config))
    # It is the same run, also for who gives the values themselves; and it can be read again.
    assert differences(read_config(given), text) == []
    plain = read_config(arguments(f"{name}={value}")) if isinstance(value, str) else config
    assert not [line for line in differences(plain, text) if line.startswith(f"{name}=")]
    assert upgraded(text, (Config,)) == (text, [])


@pytest.mark.parametrize(("field", "value"), FIELDS[:2] + FIELDS[12:13] + FIELDS[17:])
def test_another_value_is_another_run(monkeypatch, field, value):
    given = with_helpers(field)
    text = to_yaml(read_config(given))
    monkeypatch.setenv("SECRET", "another-secret")
    monkeypatch.setenv("FOLDER", "/another/folder")
    found = differences(read_config(given), text)
    if "wandb" in field or "environment" in field:  # what a run may change
        assert found == []
        return
    (line,) = found
    assert "has another value than the run's" in line
    assert "another-secret" not in line
    assert SECRET not in line
    # And an explicit other value likewise, the right one not.
    name = field.partition("=")[0]
    if isinstance(value, str):
        assert differences(read_config(arguments(f"{name}={value}")), text) == []
        assert differences(read_config(arguments(f"{name}=x")), text) == found


def test_a_digest_is_too_short_to_find_the_value():
    text = to_yaml(read_config(arguments("model=${oc.env:SECRET}")))
    (line,) = [line for line in text.splitlines() if line.startswith("#")]
    assert len(line.rpartition(" ")[2]) == 4


def test_without_the_variable(monkeypatch):
    text = to_yaml(read_config(arguments("model=${oc.env:SECRET}")))
    monkeypatch.delenv("SECRET")
    with pytest.raises(InputError, match="Environment variable 'SECRET' not found"):
        differences(read_config(arguments("model=x")), text)


@pytest.mark.parametrize(
    "field",
    [
        "steps=${oc.env:SECRET}", "dtype=${oc.env:SECRET}", "algorithm=${oc.env:SECRET}",
        "algorithm.preset=${oc.env:SECRET}", "algorithm.loss.name=${oc.env:SECRET}",
        "rollout.n=${oc.decode:'[${oc.env:SECRET}'}", "strict=${oc.env:SECRET}",
        "optimizer.lr=${oc.env:SECRET}", "wandb.mode=${oc.env:SECRET}", "seed=-${oc.env:NUMBER}",
        "grading.environment=${oc.env:SECRET}", "grading.graders=${oc.env:SECRET}",
        "steps=${oc.${oc.env:SECRET}:x}", "steps=${${oc.env:SECRET}}",
        "data.train_batch_size=${oc.env:NOT_THERE,${oc.env:SECRET}}",
    ],
)  # fmt: skip
def test_errors_do_not_have_the_value(field):
    with pytest.raises(InputError) as error:
        read_config(arguments(field))
    assert "5813" not in str(error.value)


def test_references_to_other_fields_are_resolved():
    text = to_yaml(read_config(arguments("data.validation=${data.train}", "out=${model}/run")))
    assert "${" not in text
    assert "out: m/run" in text


def test_rounds_of_a_pruning():
    """What is made of a value has it no more than the value itself."""
    fields = ["model=${oc.env:FOLDER}/m", "out=${oc.env:FOLDER}/o", "limits=[4000,3000]",
              "data.train=${oc.env:FOLDER}/t_{limit}.parquet", "data.validation=v",
              "validation.max_response_length=16000"]  # fmt: skip  # there is no model to ask
    config = read_prune_config(fields)
    assert FOLDER not in to_yaml(config)
    for number, model in ((1, config.model), (2, f"{FOLDER}/o/round_1_limit_4000/model")):
        run = Rounds(config).config(number, model)
        assert run.data.train == f"{FOLDER}/t_{[4000, 3000][number - 1]}.parquet"
        text = to_yaml(run)
        assert FOLDER not in text
        assert differences(run, text) == []


def test_an_evaluation():
    fields = ["model=${oc.env:FOLDER}", "data=['${oc.env:SECRET}']", "out=${oc.env:FOLDER}/o"]
    config = read_evaluate_config(fields)
    assert config.model == FOLDER
    text = to_yaml(config)
    assert not {SECRET, FOLDER} & {word for word in text.split()}
    assert "5813" not in text.split("# ")[0]


@pytest.mark.parametrize("text", ["${a", "${a}", r"\${a}", "$" + "{oc.env:SECRET}", r"\\${a}"])
def test_text_that_only_looks_so(text):
    """Made in Python, not read: it is written so that it is read as it is."""
    config = read_config(arguments("steps=2"))
    from dataclasses import replace

    config = replace(config, model=text)
    assert differences(config, to_yaml(config)) == []
    assert SECRET not in to_yaml(config)


def test_short_values_are_not_looked_for_in_other_text(monkeypatch):
    monkeypatch.setenv("SHORT", "a")
    config = read_config(arguments("data.order=${oc.env:SHORT}", "wandb.name=banana"))
    text = to_yaml(config)
    assert "order: ${oc.env:SHORT}" in text
    assert "name: banana" in text


def test_hidden_is_what_is_told():
    read_config(arguments("model=${oc.env:FOLDER}/m"))
    assert hidden(f"from {FOLDER}/m to o") == "from ${oc.env:FOLDER}/m to o"
    assert os.environ["FOLDER"] == FOLDER
