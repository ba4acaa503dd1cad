"""Configurations from key=value."""

from dataclasses import replace

import pytest
import yaml

from megaprune.config.fields import describe, field, leaves, may_change, section
from megaprune.config.read import differences, read_fields, to_yaml
from megaprune.errors import InputError


@section("inner")
class Inner:
    size: int = field(default=3, gt=0, doc="How large.", unit="tokens")
    share: float | None = field(default=None, gt=0, le=1, doc="Of the whole.", may_change=True)
    names: dict[str, str] = field(default={}, doc="By source.")


@section()
class Outer:
    place: str = field(doc="Where.", may_change=True)
    limits: list[int] = field(default=[], doc="One for each round.")
    files: list[str] = field(default=[], doc="Parquet files.")
    fast: bool = field(default=False, doc="Whether to hurry.")
    kind: str = field(default="x", choices=("x", "y"), doc="Which.")
    inner: Inner = Inner()


def test_values_have_their_types():
    config = read_fields(
        Outer,
        ["place=here", "limits=4000,3000", "files=[a.parquet,b.parquet]", "fast=true",
         "inner.size=5", "inner.share=0.5", "inner.names.aime24=strict"],
    )  # fmt: skip
    inner = Inner(size=5, share=0.5, names={"aime24": "strict"})
    assert config == Outer(
        place="here",
        limits=[4000, 3000],
        files=["a.parquet", "b.parquet"],
        fast=True,
        inner=inner,
    )


def test_text_stays_as_it_is_written():
    places = [read_fields(Outer, [f"place={text}"]).place for text in ("1.10", "007", "true", "a")]
    assert places == ["1.10", "007", "true", "a"]


def test_one_value_is_a_list_too():
    config = read_fields(Outer, ["place=x", "limits=7", "files=one.parquet"])
    assert (config.limits, config.files) == ([7], ["one.parquet"])


def test_later_ones_win_over_the_recipe(tmp_path):
    recipe = tmp_path / "own.yaml"
    recipe.write_text("place: there\ninner:\n  size: 9\n  share: 0.25\n")
    config = read_fields(Outer, [f"recipe={recipe}", "inner.size=1"])
    assert config == Outer(place="there", inner=Inner(size=1, share=0.25))


def test_what_is_written_is_read_back(tmp_path):
    config = Outer(
        place="x",
        limits=[3, 2],
        files=["a"],
        fast=True,
        inner=Inner(size=4, share=None, names={"a": "b"}),
    )
    (tmp_path / "x.yaml").write_text(to_yaml(config))
    assert read_fields(Outer, [f"recipe={tmp_path / 'x.yaml'}"]) == config
    assert yaml.safe_load(to_yaml(config))["inner"]["names"] == {"a": "b"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["place=x", "inner.sise=3"], ["no field 'inner.sise'", "inner.size"]),
        (["place=x", "size=3"], ["no field 'size'", "inner.size"]),
        (["place=x", "inner=3"], ["no field 'inner'", "did you mean inner."]),
        (["place=x", "inner.size=three"], ["inner.size='three'", "expected a whole number"]),
        (["place=x", "inner.size=1.5"], ["inner.size=1.5", "expected a whole number"]),
        (["place=x", "inner.size=true"], ["inner.size=true", "expected a whole number"]),
        (["place=x", "inner.share=much"], ["inner.share='much'", "expected a number or null"]),
        (["place=x", "fast=maybe"], ["fast='maybe'", "expected true or false"]),
        (["place="], ["place=null", "expected text"]),
        (["place=x", "limits=4,many"], ["limits: 'many'", "expected a list of whole numbers"]),
        (["place=x", "limits=[4"], ["limits=[4 cannot be read"]),
        (["place=${nowhere}"], ["place: Interpolation key 'nowhere' not found"]),
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


@pytest.mark.parametrize(
    ("values", "argument", "words"),
    [
        ({"size": 0}, "inner.size=0", "inner.size=0; expected more than 0"),
        ({"share": 1.5}, "inner.share=1.5", "inner.share=1.5; expected 1 at most"),
        ({"share": 2}, "inner.share=2", "inner.share=2.0; expected 1 at most"),
        ({"share": float("nan")}, "inner.share=nan", "inner.share=nan; expected a finite number"),
        ({"size": "many"}, "inner.size=many", "inner.size='many'; expected a whole number"),
        ({"sise": 1}, "inner.sise=1", "there is no field 'inner.sise'; did you mean inner.size?"),
    ],
)
def test_python_refuses_in_the_same_words_as_the_command_line(values, argument, words):
    with pytest.raises(InputError) as in_python:
        Inner(**values)
    with pytest.raises(InputError) as on_the_command_line:
        read_fields(Outer, ["place=x", argument])
    assert str(in_python.value).startswith(words)
    assert str(on_the_command_line.value).startswith(words)


def test_choices_and_sections():
    with pytest.raises(InputError, match=r"kind='z'; expected one of x, y"):
        Outer(place="x", kind="z")
    with pytest.raises(InputError, match=r"place must be given, as place=\.\.\."):
        Outer()
    with pytest.raises(InputError, match=r"inner=3; expected Inner\(\.\.\.\)"):
        Outer(place="x", inner=3)
    with pytest.raises(InputError, match=r"expected more than 0"):
        replace(Inner(), size=-1)


def test_differences_name_both_values():
    before, now = Outer(place="x", limits=[1]), Outer(place="y", limits=[1, 2])
    assert differences(now, to_yaml(before)) == ["limits=[1, 2] (the run's: [1])"]


def test_a_configuration_may_fix_what_its_sections_leave_free():
    @section(fixed=["inner.share"])
    class Fixed(Outer):
        pass

    assert may_change(Outer) == {"place", "inner.share"}
    assert may_change(Fixed) == {"place"}
    with pytest.raises(TypeError, match="has no field inner.shape"):

        @section(fixed=["inner.shape"])
        class Misspelt(Outer):
            pass


def test_leaves_have_dotted_names():
    names = [name for name, _ in leaves(Outer(place="x"))]
    assert sorted(names) == sorted(doc.name for doc in describe(Outer))
    assert "inner.size" in names


def test_a_description_has_all_that_was_declared():
    docs = {doc.name: doc for doc in describe(Outer)}
    share, size, place = docs["inner.share"], docs["inner.size"], docs["place"]
    assert (share.type, share.bounds) == ("a number or null", "more than 0 and 1 at most")
    assert (share.default, share.may_change) == ("null", True)
    assert (size.default, size.unit, size.doc) == ("3", "tokens", "How large.")
    assert place.default is None
    assert docs["kind"].choices == ("x", "y")
