"""Recipes and overrides of anyone's making: read or refused, in bounded time, never a traceback."""

import re
import time
from collections import Counter

import pytest
from mutations import ODD, TOKENS, damaged, draws

from megaprune.cli.main import main
from megaprune.config.fields import describe
from megaprune.config.read import differences, from_yaml, to_yaml, yaml_mapping
from megaprune.config.run import Config, read_config
from megaprune.config.upgrade import upgraded
from megaprune.data.templates import TEMPLATES, load_template
from megaprune.errors import InputError
from megaprune.evaluation.config import EvaluateConfig
from megaprune.pruning.config import PruneConfig
from megaprune.yaml_text import load_yaml

NEEDED = ["model=m", "out=o", "data.train=t"]
GOOD = to_yaml(read_config(NEEDED))
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)  # fmt: skip
BAD = {
    "nothing": "", "null": "null", "number": "5", "text": "abc", "list": "[1, 2]", "nul": "a: \x00",
    "escape": "a: \x1b[2J", "laughs": LAUGHS, "itself": "data: &x [*x]", "itself 2": "&x data: *x",
    "itself 3": "data: &x {train: *x}", "deep": "[" * 100_000, "deep 2": "{a: " * 5000,
    "deep 3": "- " * 5000, "deep 4": "data:\n" + "".join(" " * n + "a:\n" for n in range(1, 400)),
    "long": "model: " + "x" * (1 << 20), "python": "model: !!python/object/apply:os.system [true]",
    "python 2": "model: !!python/name:os.system", "tag": "model: !foo x", "int": "steps: !!int x",
    "float": "steps: !!float x", "date": "steps: !!timestamp 9999-99-99", "set": "data: !!set {a}",
    "binary": "model: !!binary x", "key": "? [a, b]\n: 1", "key 2": "? {a: b}\n: 1", "key 3": "1: 2",
    "key 4": "true: 1", "key 5": "null: 1", "key 6": "1.5: {a: 1}", "dotted": "data.train: x",
    "merge": "<<: 5", "merge 2": "<<: [1]", "two": "a: 1\n---\nb: 1", "twice": "steps: 1\nsteps: 2",
    "version": "%YAML 9.9\n---\nsteps: 1", "alias": "steps: *nothing", "open": "model: ${",
    "open 2": "model: ${oc.env:", "open 3": "model: '${a.b'", "loop": "model: ${out}\nout: ${model}",
    "loop 2": "model: ${model}", "nobody": "model: ${nobody}", "resolver": "model: ${no.such:x}",
    "section": "data: 5", "section 2": "data: [1]", "section 3": "rollout: text",
    "section 4": "data: {train: {a: b}}", "missing": "model: ???", "digits": "steps: " + "9" * 5000,
    "nan": "optimizer: {lr: .nan}", "inf": "steps: .inf", "huge": "steps: 1e999",
    "algorithm": "algorithm: 5", "algorithm 2": "algorithm: [a]", "algorithm 3": "algorithm: {a: {b: c}}",
    "algorithm 4": "algorithm: {rewards: 5}", "algorithm 5": "algorithm: {rewards: [{name: 5}]}",
    "algorithm 6": "algorithm: {loss: {name: [a]}}", "algorithm 7": "algorithm: null",
    "table": "grading: {graders: 5}", "table 2": "grading: {graders: {a: [b]}}",
    "table 3": "grading: {graders: {1: b}}", "texts": "grading: {environment: 5}",
    "texts 2": "grading: {environment: [[a]]}", "tab": "\tmodel: x", "colon": ": x", "nested": "a: b: c",
}  # fmt: skip


@pytest.fixture
def recipe(tmp_path):
    def written(content):
        path = tmp_path / "recipe.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return written


def assert_refused(action, *arguments):
    begin = time.process_time()
    with pytest.raises(InputError) as error:
        action(*arguments)
    assert time.process_time() - begin < 5
    return str(error.value)


@pytest.mark.parametrize("name", BAD)
def test_a_recipe_that_is_none(recipe, name):
    path = recipe(BAD[name])
    assert_refused(read_config, [f"recipe={path}"])
    assert_refused(from_yaml, Config, BAD[name])
    assert_refused(differences, read_config(NEEDED), BAD[name])
    assert_refused(upgraded, BAD[name], (Config, PruneConfig, EvaluateConfig))


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe",
        b"model: \xff",
        b"\xed\xa0\x80",
        b"\x00",
        b"\xef\xbb\xbf\xff",
        GOOD.encode("utf-16"),
    ],
)
def test_a_recipe_that_is_no_text(recipe, content):
    said = assert_refused(read_config, [f"recipe={recipe(content)}"])
    assert "recipe.yaml" in said


@pytest.mark.parametrize("name", ["laughs", "deep", "escape", "python", "key", "two"])
def test_the_command_says_it_in_a_line(recipe, capsys, name):
    assert main(["train", f"recipe={recipe(BAD[name])}", "--print-config"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith(f"megaprune: error: recipe {recipe(BAD[name])}")
    assert "\x1b" not in line


def test_a_tag_runs_nothing(recipe, tmp_path):
    made = tmp_path / "made"
    for tag in ("python/object/apply:os.mkdir", "python/object/new:os.mkdir"):
        path = recipe(f"model: !!{tag} ['{made}']")
        assert_refused(read_config, [f"recipe={path}", *NEEDED])
    assert not made.exists()


def test_a_table_may_have_dotted_names():
    config = read_config([*NEEDED, "grading.graders={a.b: c}"])
    assert config.grading.graders == {"a.b": "c"}
    assert differences(config, to_yaml(config)) == []


@pytest.mark.parametrize("name", sorted(set(BAD) - {"nothing", "null"}))
def test_a_template_that_is_none(recipe, name):
    assert "recipe.yaml" in assert_refused(load_template, str(recipe(BAD[name])))


def test_any_recipe_is_read_or_refused(recipe):
    """Of damaged ones. What is read is the same when it is written and read again."""
    outcomes = Counter()
    for rng in draws(150):
        path = recipe(damaged(rng, GOOD.encode()))
        begin = time.process_time()
        try:
            config = read_config([f"recipe={path}"])
        except InputError as error:
            outcomes["refused" if str(error) else "no words"] += 1
        else:
            outcomes["read"] += 1
            assert from_yaml(Config, to_yaml(config)) == config
            assert differences(config, to_yaml(config)) == []
        assert time.process_time() - begin < 5
    assert outcomes.keys() == {"read", "refused"}
    assert min(outcomes.values()) > sum(outcomes.values()) // 20


def test_any_override_is_read_or_refused():
    names = [doc.name for doc in describe(Config)]
    outcomes = Counter()
    for rng in draws(300):
        given = dict(argument.split("=") for argument in NEEDED)
        for _ in range(rng.choice([1, 1, 2, 4])):
            name = rng.choice(names)
            name += rng.choice(["", "", "", "", ".a", ".name", ".", ".a.b", "[0]", " "])
            value = rng.choice(
                [str(rng.choice(ODD)), rng.choice(TOKENS).decode("utf-8", "replace")]
            )
            if rng.random() < 0.3:
                value = damaged(rng, value.encode("utf-8", "replace")).decode("utf-8", "replace")
            given[name] = value
        begin = time.process_time()
        try:
            config = read_config([f"{key}={value}" for key, value in given.items()])
        except InputError as error:
            outcomes["refused" if str(error) else "no words"] += 1
        else:
            outcomes["read"] += 1
            assert differences(config, to_yaml(config)) == []
        assert time.process_time() - begin < 5
    assert outcomes.keys() == {"read", "refused"}


def test_any_template_is_read_or_refused(recipe):
    from megaprune.data import templates

    good = (templates._FOLDER / f"{TEMPLATES[0]}.yaml").read_bytes()
    outcomes = Counter()
    for rng in draws(200):
        path = recipe(damaged(rng, good))
        try:
            template = load_template(str(path))
        except InputError as error:
            outcomes["refused" if "recipe.yaml" in str(error) else "no file"] += 1
        else:
            outcomes["read"] += 1
            assert template.messages("what?", 100)
    assert outcomes.keys() == {"read", "refused"}


def chain_of_references(count):
    """A list in which each entry holds the one before, by a reference."""
    return "- &a0 []\n" + "".join(f"- &a{n} [*a{n - 1}]\n" for n in range(1, count))


def test_references_that_are_few_are_followed():
    assert yaml_mapping("data: &a {train: x}\nrollout: *a") == {
        "data": {"train": "x"}, "rollout": {"train": "x"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 50 + "]" * 50, None),
        ("[" * 51 + "]" * 51, "values more than 50 deep in others"),
        ("\n".join(" " * n + f"k{n}:" for n in range(50)), None),
        ("\n".join(" " * n + f"k{n}:" for n in range(51)), "values more than 50 deep in others"),
        (chain_of_references(49), None),
        (chain_of_references(51), "by references (&, *)"),
        (f"a: {'x' * ((1 << 18) - 3)}", None),
        (f"a: {'x' * ((1 << 18) - 2)}", "262145 characters; expected 262144 at most"),
        (LAUGHS, "more than 100000 values, with its references (&, *) followed"),
    ],
)
def test_limits(text, reason):
    """Each limit holds by itself, and what is just within it is read."""
    if reason is None:
        load_yaml(text)
    else:
        with pytest.raises(InputError, match=re.escape(reason)):
            load_yaml(text)
