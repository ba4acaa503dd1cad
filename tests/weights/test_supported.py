"""Which rotations a config.json may ask for of a model that is trained."""

import pytest

from megaprune.errors import InputError
from megaprune.recipes.tiny_models import make_tiny
from megaprune.weights.families import FAMILIES
from megaprune.weights.model import read_config
from megaprune.weights.supported import check_supported, rotary

QWEN = {"architectures": ["Qwen2ForCausalLM"], "hidden_size": 8}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_scaling type 'yarn'"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "rope_scaling type 'dynamic'"),
        (
            {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            "has partial_rotary_factor, which is not supported",
        ),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 2.0}},
            "is not what Megatron-core has built in",
        ),
        ({"rope_theta": 10000.5}, "rope_theta=10000.5"),
    ],
)
def test_refused(config, words):
    with pytest.raises(InputError, match=r"rope_") as error:
        check_supported({**QWEN, **config})
    assert words in str(error.value)


def test_megatrons_arguments():
    assert rotary({**QWEN, "rope_theta": 1000000.0}) == {
        "rotary_base": 1000000, "rope_scaling": False, "rope_scaling_factor": 8.0,
    }  # fmt: skip


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_what_transformers_writes_is_known(family, tmp_path):
    config = read_config(make_tiny(tmp_path / family, family))
    assert config["architectures"][0] in FAMILIES
    check_supported(config)
