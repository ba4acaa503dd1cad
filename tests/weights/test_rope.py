"""What a config.json's rotation means, against transformers; and which ones are refused."""

import random

import pytest
import torch
from rotations import BUILT, LLAMA3, YARN, named_config, random_fields, transformers_rotation

from megaprune.errors import InputError
from megaprune.weights import rope
from megaprune.weights.families import FAMILIES
from megaprune.weights.model import Model, config_differences

NAMES = [name.removesuffix("ForCausalLM") for name in FAMILIES]


def same(a, b):
    """Whether two configurations rotate alike in transformers, within and beyond their context."""
    pairs = [[transformers_rotation(config, length) for config in (a, b)] for length in (1, 999)]
    return all(torch.equal(x[0], y[0]) and x[1] == y[1] for x, y in pairs)


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("name", BUILT)
def test_the_resolved_rotation_is_the_same_for_transformers(family, name):
    config = named_config(BUILT[name], family)
    resolved = named_config({"rope_parameters": rope.rope_parameters(config)}, family)
    assert same(config, resolved)
    assert rope.rope_differences(config, resolved) == []
    assert Model.from_config(config).layers == 2
    rope.check_supported(config)
    rope.check_supported(resolved)


def test_two_configurations_differ_as_they_do_for_transformers():
    rng, counts = random.Random(0), {True: 0, False: 0}
    for _ in range(150):
        a, b = (named_config(random_fields(rng)) for _ in range(2))
        equal = same(a, b)
        assert (config_differences(a, b) == []) == equal, (a, b)
        counts[equal] += 1
    assert min(counts.values()) > 15


@pytest.mark.parametrize(
    ("first", "second", "lines"),
    [
        (
            # transformers takes rope_scaling alone, and so the default base.
            {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 1e6},
            {"rope_scaling": {"type": "linear", "factor": 2.0},
             "rope_parameters": {"rope_theta": 1e6}},
            ["rope_theta: 1000000.0 against 10000.0"],
        ),
        (
            {"rope_scaling": YARN, "rope_parameters": LLAMA3},
            {"rope_parameters": LLAMA3},
            ["rope_type: 'yarn' against 'llama3'"],
        ),
        (
            {"rope_scaling": YARN},
            {"rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}},
            ["attention_factor: 1.138629436111989 against 1.0"],
        ),
        (
            {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
            {"rope_scaling": {"type": "dynamic", "factor": 4}},
            ["factor: 2.0 against 4.0"],
        ),
        (
            {"rope_scaling": {"type": "longrope", "factor": 2.0, "short_factor": [1.0, 2.0]}},
            {"rope_scaling": {"type": "longrope", "factor": 2.0, "short_factor": [1.0, 3.0]}},
            ["short_factor: [1.0, 2.0] against [1.0, 3.0]"],
        ),
        ({"rope_scaling": {"type": "twist"}}, {}, ["rope_type: 'twist' against 'default'"]),
        ({"rope_theta": None}, {}, ["rope_theta: None against 10000.0"]),
    ],
)  # fmt: skip
def test_what_differs_is_named(first, second, lines):
    assert config_differences(named_config(first), named_config(second)) == lines


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
            "rope_scaling of type 'dynamic' is not supported (its angles depend on how long",
        ),
        (
            {"rope_parameters": {"rope_type": "longrope", "long_factor": [1.0], "factor": 2.0}},
            "rope_parameters of type 'longrope' is not supported",
        ),
        (
            {"rope_scaling": {"type": "twist"}},
            "'twist' is not supported (it is not known); supported are default, linear, llama3",
        ),
        ({"rope_scaling": {"type": None}}, "rope_scaling of type None is not supported (no type)"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling of type linear has no factor, which"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "has no factor, which it needs"),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "high_freq_factor": 4.0}},
            "rope_scaling of type llama3 has no low_freq_factor",
        ),
        ({"rope_parameters": {"rope_theta": None}}, "of type default has no rope_theta"),
        ({"rope_theta": None}, "of type default has no rope_theta"),
        (
            {"rope_scaling": {"rope_type": "yarn", "type": "linear", "factor": 2.0}},
            "rope_scaling has rope_type='yarn' and type='linear'; remove",
        ),
        (
            {"rope_scaling": {**YARN, "attn_factor": 0.878}},
            "rope_scaling has attn_factor=0.878, which some releases of vLLM read",
        ),
        (
            {"rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32}},
            "rope_scaling of type default has factor, which it does not read; remove it; ",
        ),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0, "mscale": 1.0}},
            "rope_scaling of type linear has mscale, which it does not read",
        ),
        (
            {"rope_scaling": {**LLAMA3, "high_freq_factor": 1.0}},
            "low_freq_factor=1.0; expected less than high_freq_factor=1.0",
        ),
        ({"rope_scaling": YARN, "rope_theta": 1.0}, "rope_theta=1.0 with type yarn"),
        (
            {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            "has partial_rotary_factor, which it does not read",
        ),
    ],
)
def test_what_is_not_built_is_refused_by_name(fields, words):
    with pytest.raises(InputError) as error:
        rope.check_supported(named_config(fields))
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rope_scaling": {**YARN, "beta_fast": "32"}}, "beta_fast='32'; expected a number above"),
        ({"rope_scaling": {**YARN, "attention_factor": 0}}, "attention_factor=0; expected"),
        ({"rope_parameters": {**YARN, "truncate": 1}}, "truncate=1; expected true or false"),
        ({"rope_parameters": {**LLAMA3, "low_freq_factor": -1}}, "low_freq_factor=-1; expected"),
        (
            {"original_max_position_embeddings": "long"},
            "original_max_position_embeddings='long'; expected a number",
        ),
        ({"rope_scaling": {"type": 3}}, "type=3; expected a word"),
    ],
)
def test_values_of_another_kind_are_refused(fields, words):
    with pytest.raises(InputError, match="expected") as error:
        Model.from_config(named_config(fields))
    assert words in str(error.value)


def test_values_of_another_kind_can_be_compared():
    """Two folders are compared before either is found to be no model."""
    values = ["a", [1], {"b": 1}, True, -1, 0, 10**400, None]
    for value in values:
        inside = dict.fromkeys(rope.KEYS - {"rope_type", "type"}, value)
        for kind in ("yarn", "llama3", "linear", "dynamic", "longrope", value):
            config = {"rope_scaling": {**inside, "rope_type": kind}, "rope_theta": value}
            assert rope.rope_differences(config, config) == []


def test_the_context_is_what_the_rotation_reaches():
    length = {
        "nothing said": 128, "linear": 512, "linear by a whole number": 256, "yarn": 128,
        "yarn, old": 512, "yarn, the original length beside": 256, "llama3": 128,
    }  # fmt: skip
    seen = {name: rope.context_of(named_config(BUILT[name])) for name in length}
    assert seen == length
    qwq = {"max_position_embeddings": 40960, "rope_scaling": {
        "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}}  # fmt: skip
    assert rope.context_of(qwq) == 131072
    assert rope.context_of({}) == 0


def test_defaults_are_those_of_transformers():
    transformers = pytest.importorskip("transformers")
    assert {
        architecture: getattr(
            transformers, f"{architecture.removesuffix('ForCausalLM')}Config"
        )().max_position_embeddings
        for architecture in FAMILIES
    } == rope.DEFAULT_CONTEXT
