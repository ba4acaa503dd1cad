"""Which keys of a config.json a family obeys, which change nothing, and which are refused."""

import json
from dataclasses import replace

import pytest

from megaprune.cli.main import main
from megaprune.errors import InputError
from megaprune.weights import families
from megaprune.weights.families import FAMILIES, LLAMA, QWEN2, Family, config_problems
from megaprune.weights.model import Model, config_differences
from megaprune.weights.rope import check_supported

# As published on the hub.
QWQ_32B = {
    "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
    "eos_token_id": 151645, "hidden_act": "silu", "hidden_size": 5120, "initializer_range": 0.02,
    "intermediate_size": 27648, "max_position_embeddings": 40960, "max_window_layers": 64,
    "model_type": "qwen2", "num_attention_heads": 40, "num_hidden_layers": 64,
    "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0,
    "sliding_window": 32768, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "transformers_version": "4.43.1", "use_cache": True, "use_sliding_window": False,
    "vocab_size": 152064,
}  # fmt: skip
R1_DISTILL_1_5B = {
    **QWQ_32B, "eos_token_id": 151643, "hidden_size": 1536, "intermediate_size": 8960,
    "max_position_embeddings": 131072, "max_window_layers": 21, "num_attention_heads": 12,
    "num_hidden_layers": 28, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 10000,
    "sliding_window": 4096, "use_mrope": False, "vocab_size": 151936,
}  # fmt: skip
DEEPSCALER = {**R1_DISTILL_1_5B, "_name_or_path": "checkpoint", "pad_token_id": 151643,
              "sliding_window": None}  # fmt: skip
QWEN3_8B = {
    "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu",
    "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 12288,
    "max_position_embeddings": 40960, "max_window_layers": 36, "model_type": "qwen3",
    "num_attention_heads": 32, "num_hidden_layers": 36, "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.51.0",
    "use_cache": True, "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
R1_0528_QWEN3_8B = {
    **QWEN3_8B, "eos_token_id": 151645, "max_position_embeddings": 131072,
    "rope_scaling": {"attn_factor": 0.8782488562869419, "factor": 4.0,
                     "original_max_position_embeddings": 32768, "rope_type": "yarn"},
}  # fmt: skip
LLAMA_3_1_8B = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "hidden_act": "silu",
    "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
    "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "llama",
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
    "pretraining_tp": 1, "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                     "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    "rope_theta": 500000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "transformers_version": "4.42.3", "use_cache": True, "vocab_size": 128256,
}  # fmt: skip
PUBLISHED = {
    "QwQ-32B": QWQ_32B, "R1-Distill-Qwen-1.5B": R1_DISTILL_1_5B, "DeepScaleR": DEEPSCALER,
    "Qwen3-8B": QWEN3_8B, "R1-0528-Qwen3-8B": R1_0528_QWEN3_8B, "Llama-3.1-8B": LLAMA_3_1_8B,
}  # fmt: skip


@pytest.fixture
def mistral(monkeypatch):
    """Mistral, as whoever adds a family by its table alone would write it."""
    family = replace(LLAMA, architecture="MistralForCausalLM", model_type="mistral", fixed=())
    monkeypatch.setitem(families.FAMILIES, family.architecture, family)
    return {
        **LLAMA_3_1_8B, "architectures": ["MistralForCausalLM"], "model_type": "mistral",
        "rope_scaling": None, "attention_bias": None, "mlp_bias": None,
    }  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations_are_known(name):
    config = PUBLISHED[name]
    assert list(config_problems(FAMILIES[config["architectures"][0]], config)) == []
    assert Model.from_config(config).hidden == config["hidden_size"]


def test_a_rotation_can_be_converted_that_cannot_be_trained():
    with pytest.raises(InputError, match="rope_scaling has attn_factor=0.878"):
        check_supported(R1_0528_QWEN3_8B)
    for name in PUBLISHED.keys() - {"R1-0528-Qwen3-8B"}:
        check_supported(PUBLISHED[name])


@pytest.mark.parametrize("architecture", FAMILIES)
@pytest.mark.parametrize("release", ["to_dict", "to_diff_dict"])
def test_what_transformers_writes_is_known(architecture, release):
    """With every field that transformers has, as well as with those that differ from defaults."""
    transformers = pytest.importorskip("transformers")
    name = architecture.removesuffix("ForCausalLM")
    config = getattr(transformers, f"{name}Config")(
        architectures=[architecture], pad_token_id=0, dtype="bfloat16"
    )
    written = json.loads(json.dumps(getattr(config, release)()))
    assert list(config_problems(FAMILIES[architecture], written)) == []


@pytest.mark.parametrize("architecture", FAMILIES)
def test_keys_that_are_left_out_are_what_transformers_takes(architecture):
    """A family that is added without its defaults, as Mistral's window, does not get past here."""
    transformers = pytest.importorskip("transformers")
    family, name = FAMILIES[architecture], architecture.removesuffix("ForCausalLM")
    theirs = getattr(transformers, f"{name}Config")
    defaults = json.loads(json.dumps(theirs().to_dict()))
    for key in defaults.keys() & {key for key, _ in (*families.FIXED, *family.fixed)}:
        assert family.default(key) == defaults[key], key
    least = {
        "architectures": [architecture], "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 32, "vocab_size": 300,
    }  # fmt: skip
    for more in ({}, {"num_key_value_heads": None}, {"head_dim": 16}, {"num_key_value_heads": 8}):
        config = theirs(**{**least, **more})
        head_dim = getattr(config, "head_dim", None) or 64 // 32
        model = Model.from_config({**least, **more})
        assert (model.kv_heads, model.head_dim) == (config.num_key_value_heads, head_dim)
    assert Model.from_config(least).tied == theirs(**least).tie_word_embeddings


def test_a_family_says_all_of_its_keys():
    """There is no whitelist that a table gets by itself."""
    rows = (LLAMA.embedding, LLAMA.layer, LLAMA.final_norm, LLAMA.head)
    with pytest.raises(TypeError, match="'fixed', 'inert', and 'left_out'"):
        Family("MistralForCausalLM", "mistral", *rows)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pruned_heads": {"0": [1]}}, r"pruned_heads=\{'0': \[1\]\} is not what .* expected {}"),
        ({"sliding_windows": 8}, "sliding_windows=8 is not known of Qwen2ForCausalLM, and would"),
        ({"use_sliding_window": True}, "use_sliding_window=True is not what .* expected False"),
        ({"use_mrope": True}, "use_mrope=True is not what"),
        ({"attention_bias": False}, "attention_bias=False is not what .* expected True"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu' is not what .* expected 'silu'"),
        ({"attention_dropout": 0.1}, r"attention_dropout=0.1 is not what .* expected 0"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "expected full_attention alone"),
        ({"layer_types": "full_attention"}, "layer_types='full_attention' is not built here"),
        ({"model_type": "qwen3"}, "model_type='qwen3' is not what .* expected 'qwen2'"),
        ({"attn_logit_softcapping": 50.0}, "softcapping=50.0 is not known of .* must learn it"),
        ({"embedding_multiplier": 12}, "embedding_multiplier=12 is not known"),
        ({"quantization_config": {"bits": 4}}, "quantization_config=.* before quantization"),
        ({"auto_map": {"AutoModel": "my.My"}}, "auto_map=.* without trust_remote_code"),
        (
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
            "partial_rotary_factor=0.5 in rope_parameters is not known",
        ),
        ({"rope_scaling": {"type": "x", "twist": 2}}, "twist=2 in rope_scaling is not known"),
    ],
)
def test_what_would_be_ignored_is_refused_by_name(changes, words):
    with pytest.raises(InputError, match=words):
        Model.from_config({**QWQ_32B, **changes})


def test_all_problems_are_told_at_once():
    with pytest.raises(InputError, match="^here.json: use_mrope=True.*; mup=2 is not known"):
        Model.from_config({**QWQ_32B, "use_mrope": True, "mup": 2}, "here.json")


def test_null_is_as_good_as_absent():
    nulls = dict.fromkeys(("quantization_config", "auto_map", "anything", "layer_types"))
    assert Model.from_config({**QWQ_32B, **nulls}) == Model.from_config(QWQ_32B)
    full = {"layer_types": ["full_attention"] * 64, "partial_rotary_factor": 1.0}
    assert Model.from_config({**QWQ_32B, **full}).family == QWEN2


def test_a_family_by_its_table_alone_refuses_a_sliding_window(mistral):
    """Mistral's window is on whenever it is there: no switch says so."""
    assert Model.from_config({**mistral, "sliding_window": None}).layers == 32
    with pytest.raises(InputError, match="sliding_window=4096 is not known of MistralForCausalLM"):
        Model.from_config({**mistral, "sliding_window": 4096})
    differing = config_differences(mistral, {**mistral, "sliding_window": 4096})
    assert differing == ["sliding_window: None against 4096"]
    other = {**mistral, "sliding_window": 8}
    assert config_differences({**mistral, "sliding_window": 4096}, other)


def test_a_window_that_is_on_where_it_is_left_out(mistral, monkeypatch):
    """As of Mistral, whose configuration in transformers has a window of 4,096 by itself."""
    family = replace(
        FAMILIES["MistralForCausalLM"],
        fixed=(("sliding_window", None),),
        left_out=(("sliding_window", 4096),),
    )
    monkeypatch.setitem(FAMILIES, family.architecture, family)
    assert Model.from_config({**mistral, "sliding_window": None}).family == family
    with pytest.raises(InputError, match="sliding_window is left out, and transformers then takes"):
        Model.from_config(mistral)
    with pytest.raises(InputError, match="sliding_window=4096 is not what Mistral"):
        Model.from_config({**mistral, "sliding_window": 4096})
    windows = config_differences(mistral, {**mistral, "sliding_window": 8})
    assert windows == ["sliding_window: 4096 against 8"]


def test_commands_say_it(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({**QWQ_32B, "logit_scale": 0.1}))
    for words in (
        ["plan", f"model={tmp_path}"],
        ["convert", "inspect", str(tmp_path)],
        ["convert", "to-megatron", "--hf", str(tmp_path), "--out", str(tmp_path / "out")],
        ["convert", "verify", str(tmp_path), str(tmp_path)],
    ):
        assert main(words) in (1, 2)
        assert "logit_scale=0.1 is not known of Qwen2ForCausalLM" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
