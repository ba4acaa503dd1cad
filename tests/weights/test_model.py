import json
import subprocess
import sys

import pytest

from megaprune.errors import InputError
from megaprune.weights.families import QWEN3
from megaprune.weights.model import Model, config_differences, read_config

CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 5120,
    "intermediate_size": 27648,
    "num_hidden_layers": 64,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "vocab_size": 152064,
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}


def test_qwq_32b_has_771_tensors_and_32_8_billion_parameters():
    tensors = Model.from_config(CONFIG).tensors()
    assert len(tensors) == 771
    assert tensors["model.layers.63.self_attn.k_proj.bias"] == (1024,)
    assert sum(a * (s[0] if s else 1) for a, *s in tensors.values()) == 32_763_876_352


def test_defaults_are_those_of_transformers():
    transformers = pytest.importorskip("transformers")
    for name in ("Llama", "Qwen2", "Qwen3"):
        theirs = getattr(transformers, f"{name}Config")()
        ours = Model.from_config(
            {
                "architectures": [f"{name}ForCausalLM"],
                "hidden_size": theirs.hidden_size,
                "intermediate_size": theirs.intermediate_size,
                "num_hidden_layers": theirs.num_hidden_layers,
                "num_attention_heads": theirs.num_attention_heads,
                "num_key_value_heads": theirs.num_key_value_heads,
                "vocab_size": theirs.vocab_size,
            }
        )
        assert ours.head_dim == theirs.head_dim if hasattr(theirs, "head_dim") else True
        assert ours.tied == theirs.tie_word_embeddings
        defaults = {"rms_norm_eps": theirs.rms_norm_eps, "rope_parameters": theirs.rope_parameters}
        assert config_differences(defaults, {}) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"architectures": ["GPT2LMHeadModel"]},
            "GPT2LMHeadModel is not supported; supported are Llama",
        ),
        ({"architectures": None}, r"architecture \(none\) is not supported"),
        ({"num_hidden_layers": None}, "num_hidden_layers is None; expected a positive integer"),
        ({"hidden_size": "5120"}, "hidden_size is '5120'"),
        ({"num_key_value_heads": 7}, "=40 is not a multiple of num_key_value_heads=7"),
        (
            {"num_attention_heads": 48, "num_key_value_heads": 8},
            "hidden_size=5120 is not a multiple",
        ),
        (
            {"architectures": ["LlamaForCausalLM"], "attention_bias": True},
            "attention_bias=True is not what LlamaForCausalLM",
        ),
    ],
)
def test_unusable_configurations_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        Model.from_config({**CONFIG, **change})


def test_qwen3_sets_head_dim_apart():
    config = {**CONFIG, "architectures": ["Qwen3ForCausalLM"], "hidden_size": 1024}
    model = Model.from_config({**config, "num_attention_heads": 16})
    assert (model.family, model.head_dim) == (QWEN3, 128)
    assert model.tensors()["model.layers.0.self_attn.q_proj.weight"] == (2048, 1024)


@pytest.mark.parametrize(
    ("change", "differing"),
    [
        ({}, []),
        ({"torch_dtype": "bfloat16", "use_cache": False, "transformers_version": "9"}, []),
        ({"rope_theta": 10000.0}, ["rope_theta"]),
        ({"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, []),
        (
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0}},
            ["rope_type"],
        ),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, ["rope_type"]),
        ({"rms_norm_eps": 1e-6}, ["rms_norm_eps"]),
        ({"hidden_act": "gelu"}, ["hidden_act"]),
        ({"sliding_window": 4096, "head_dim": None}, []),
        ({"use_sliding_window": True}, ["use_sliding_window"]),
        ({"tie_word_embeddings": True}, ["tie_word_embeddings"]),
    ],
)
def test_configurations_of_different_models_differ(change, differing):
    seen = config_differences(
        CONFIG, {k: v for k, v in {**CONFIG, **change}.items() if v is not None}
    )
    assert [line.split(":")[0] for line in seen] == differing


def test_a_missing_field_counts_as_its_default():
    without = {k: v for k, v in CONFIG.items() if k not in ("rope_theta", "rms_norm_eps")}
    fields = [line.split(":")[0] for line in config_differences(CONFIG, without)]
    assert fields == ["rms_norm_eps", "rope_theta"]


def test_read_config_names_the_file(tmp_path):
    with pytest.raises(InputError, match=r"config.json is missing"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config.json is not valid JSON"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps([1]))
    with pytest.raises(InputError, match="holds a list"):
        read_config(tmp_path)


def test_the_algebra_imports_neither_torch_nor_an_engine():
    code = (
        "import sys, megaprune.cli.main, megaprune.cli.convert, megaprune.weights.copy_plan;"
        "import megaprune.weights.layouts;"
        "print([m for m in ('torch', 'numpy', 'megatron', 'vllm') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
    code = (
        "import sys, megaprune.weights.convert, megaprune.weights.verify, megaprune.weights.inspect;"
        "print([m for m in ('megatron', 'vllm', 'transformers') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
