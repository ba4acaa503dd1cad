"""Dataclasses from key=value."""

from dataclasses import dataclass, field

import pytest
import yaml

from megaprune.config.fields import (
    check_rules,
    differences,
    leaves,
    more_than_zero,
    one_of,
    read_fields,
    to_yaml,
)
from megaprune.errors import InputError


@dataclass
class Inner:
    size: int = 3
    share: float | None = None
    names: dict[str, str] = field(default_factory=dict)


@dataclass
class Outer:
    place: str = "???"
    limits: list[int] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    fast: bool = False
    inner: Inner = field(default_factory=Inner)


def test_values_have_their_types():
    made = read_fields(
        Outer,
        ["place=here", "limits=4000,3000", "files=[a.parquet,b.parquet]", "fast=true",
         "inner.size=5", "inner.share=0.5", "inner.names.aime24=strict"],
    )  # fmt: skip
    inner = Inner(5, 0.5, {"aime24": "strict"})
    assert made == Outer("here", [4000, 3000], ["a.parquet", "b.parquet"], True, inner)


def test_one_value_is_a_list_too():
    made = read_fields(Outer, ["place=x", "limits=7", "files=one.parquet"])
    assert (made.limits, made.files) == ([7], ["one.parquet"])


def test_later_ones_win_over_the_recipe(tmp_path):
    recipe = tmp_path / "own.yaml"
    recipe.write_text("place: there\ninner:\n  size: 9\n  share: 0.25\n")
    made = read_fields(Outer, [f"recipe={recipe}", "inner.size=1"])
    assert made == Outer("there", inner=Inner(1, 0.25))


def test_what_is_written_is_read_back(tmp_path):
    made = Outer("x", [3, 2], ["a"], True, Inner(4, None, {"a": "b"}))
    (tmp_path / "x.yaml").write_text(to_yaml(made))
    assert read_fields(Outer, [f"recipe={tmp_path / 'x.yaml'}"]) == made
    assert yaml.safe_load(to_yaml(made))["inner"]["names"] == {"a": "b"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["place=x", "inner.sise=3"], ["no field 'inner.sise'", "inner.size"]),
        (["place=x", "size=3"], ["no field 'size'", "inner.size"]),
        (["place=x", "inner.size=three"], ["inner.size", "a whole number"]),
        (["place=x", "inner.share=much"], ["inner.share", "a number or null"]),
        (["place=x", "limits=4,many"], ["limits", "many"]),
        (["place"], ["'place' is not of the form key=value"]),
        ([], ["place must be given"]),
        (["recipe=nothing"], ["no recipe 'nothing'", "tiny_overthinker"]),
        (["recipe=tiny_overthinkr"], ["did you mean tiny_overthinker"]),
        (["recipe=missing.yaml"], ["missing.yaml cannot be read"]),
    ],
)
def test_refused(arguments, words):
    with pytest.raises(InputError) as error:
        read_fields(Outer, arguments)
    assert [word for word in words if word not in str(error.value)] == [], error.value


def test_differences_name_both_values():
    before, now = Outer("x", [1]), Outer("y", [1, 2])
    found = differences(now, to_yaml(before), may_change=["place"])
    assert found == ["limits=[1, 2] (the run's: [1])"]


def test_rules():
    check_rules(Inner(1, None), [more_than_zero("size", "share")])  # null is no number
    with pytest.raises(InputError, match=r"size=0; expected more than 0"):
        check_rules(Inner(0), [more_than_zero("size", "share")])
    with pytest.raises(InputError, match=r"share=nan; expected a finite number"):
        check_rules(Inner(1, float("nan")), [])
    with pytest.raises(InputError, match=r"place='z'; expected one of x, y"):
        check_rules(Outer("z"), [one_of("place", ("x", "y"))])


def test_leaves_have_dotted_names():
    names = [name for name, _ in leaves(Outer("x"))]
    assert names == [
        "place", "limits", "files", "fast", "inner.size", "inner.share", "inner.names",
    ]  # fmt: skip
