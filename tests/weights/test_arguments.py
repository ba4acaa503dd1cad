"""What training arguments say of a model, beside its config.json, without building either."""

import argparse
import io
import os
import pickle
import shutil
import types

import pytest
import torch
from test_bad_input import AGREEING, PADDING

from megaprune.weights.argument_names import HARMLESS, ROUNDING, SUBJECTS
from megaprune.weights.arguments import compare_arguments
from megaprune.weights.model import Model

CONFIG = {
    "architectures": ["Qwen2ForCausalLM"], "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 509,
    "rms_norm_eps": 1e-5, "rope_theta": 1e6,
}  # fmt: skip
TRUSTED = [
    "num_attention_heads", "head_dim", "num_key_value_heads", "rms_norm_eps", "normalization",
    "apply_layernorm_1p", "hidden_act", "use_sliding_window", "rope_theta",
    "partial_rotary_factor", "rotary_interleaved", "position_embedding_type", "rope_scaling",
    "rotary_seq_len_interpolation_factor",
]  # fmt: skip
SAID = {
    "num_attention_heads": 4, "kv_channels": 16, "group_query_attention": True,
    "num_query_groups": 2, "norm_epsilon": 1e-5, "normalization": "RMSNorm",
    "apply_layernorm_1p": False, "swiglu": True, "window_size": None, "rotary_base": 1000000,
    "rotary_percent": 1.0, "rotary_interleaved": False, "position_embedding_type": "rope",
    "use_rope_scaling": False, "rotary_seq_len_interpolation_factor": None,
}  # fmt: skip


def compared(args, ignored=(), **config):
    content = {**CONFIG, **config}
    return compare_arguments(args, content, Model.from_config(content), 512, ignored)


def test_what_nothing_says_is_named():
    assert compared({}).trusted == TRUSTED
    everything = compared(SAID)
    assert everything.trusted == []
    assert everything.differences == everything.unknown == everything.unknown_off == []
    for name in SAID.keys() - {"group_query_attention", "num_query_groups"}:
        without = {key: value for key, value in SAID.items() if key != name}
        assert len(compared(without).trusted) == 1, name


@pytest.mark.parametrize(
    ("args", "config", "differing"),
    [
        # Values that mean the same, in Megatron-LM's several words.
        ({"window_size": (-1, 0)}, {}, []),
        ({"window_size": [-1, -1]}, {}, []),
        ({"window_size": (128, 0)}, {}, ["window_size"]),
        ({"no_rope_freq": [0, 0, 0, 0]}, {}, []),
        ({"no_rope_freq": [0, 0, 0, 1]}, {}, ["no_rope_freq"]),
        ({"no_rope_freq": 4}, {}, ["no_rope_freq"]),
        ({"softmax_scale": 0.25}, {}, []),
        ({"softmax_scale": 0.125}, {}, ["softmax_scale"]),
        ({"spec": ["local"]}, {}, []),
        ({"spec": ["megatron.core.models.gpt.gpt_layer_specs", "any"]}, {}, []),
        ({"spec": ["megatron.core.models.mamba.mamba_layer_specs", "any"]}, {}, ["spec"]),
        ({"kv_channels": None}, {}, []),
        ({"kv_channels": None}, {"head_dim": 32}, ["kv_channels"]),
        ({"activation_func": "torch.nn.functional.silu"}, {}, []),
        ({"activation_func": "torch.nn.functional.gelu"}, {}, ["activation_func"]),
        ({"num_experts": 0, "num_moe_experts": None}, {}, []),
        ({"rotary_seq_len_interpolation_factor": 1}, {}, []),
        # Groups count only where they are used.
        ({"group_query_attention": False, "num_query_groups": 1}, {"num_key_value_heads": 4}, []),
        ({"group_query_attention": False}, {}, ["group_query_attention"]),
        ({"num_query_groups": None}, {"num_key_value_heads": 4}, []),
        ({"num_query_groups": None}, {}, ["num_query_groups"]),
        # The older word for the rotation counts only without the newer one.
        ({"use_rotary_position_embeddings": True}, {}, []),
        ({"use_rotary_position_embeddings": False}, {}, ["use_rotary_position_embeddings"]),
        (
            {"use_rotary_position_embeddings": False, "position_embedding_type": "rope"}, {}, [],
        ),
        ({"position_embedding_type": "mrope", "mrope_section": [8, 4, 4]}, {},
         ["position_embedding_type", "mrope_section"]),
        # A vocabulary that config.json pads itself.
        ({"vocab_size": 500, "padded_vocab_size": 512}, {}, []),
        ({"padded_vocab_size": None, "vocab_size": None}, {}, []),
        ({"vocab_size": 513}, {}, ["vocab_size"]),
        # Words of the other families.
        ({"qk_layernorm": True}, {}, ["qk_layernorm"]),
        ({"qk_layernorm": True, "add_qkv_bias": False, "kv_channels": 128},
         {"architectures": ["Qwen3ForCausalLM"]}, []),
        ({"add_qkv_bias": True}, {"architectures": ["LlamaForCausalLM"]}, ["add_qkv_bias"]),
        ({"add_bias_linear": True}, {"architectures": ["LlamaForCausalLM"]}, ["add_bias_linear"]),
        # A rotation that Megatron-core does not have, and its own where config.json has none.
        ({"position_embedding_type": "rope"}, {"rope_scaling": {"type": "longrope", "factor": 2.0}},
         ["position_embedding_type"]),
        ({"position_embedding_type": "yarn"}, {}, ["position_embedding_type"]),
        ({"use_rope_scaling": True, "rope_scaling_factor": 8.0}, {}, ["use_rope_scaling"]),
        ({"use_rope_scaling": False, "rope_scaling_factor": 2.0}, {}, []),
    ],
)  # fmt: skip
def test_values(args, config, differing):
    seen = compared(args, **config)
    names = {line.split(",")[0].split(" against ")[-1].split("=")[0] for line in seen.differences}
    assert names == {*differing}
    assert seen.unknown == []


@pytest.mark.parametrize("value", [10**400, -(10**400), float("nan"), float("inf"), "1", [1], -1e9])
def test_numbers_that_cannot_be_meant_are_differences(value):
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    for name in ("yarn_mscale", "yarn_mscale_all_dim", "yarn_beta_fast", "rotary_base"):
        args = {"yarn_mscale": 1.0, "yarn_mscale_all_dim": 0.0, name: value}
        assert compared(args, rope_parameters=yarn).differences


@pytest.mark.parametrize(
    "args",
    [
        {"attention_logit_cap": 50.0}, {"embedding_multiplier": 12}, {"new_switch": True},
        {"layer_types": ["sliding", "full"]}, {"residual_scale": "depth"},
    ],
)  # fmt: skip
def test_what_is_not_known_is_named(args):
    ((name, value),) = args.items()
    assert compared(args).unknown == [f"{name}={value!r}"]
    assert compared(args, ignored=[name]).unknown == []
    for off in (None, False, 0, 0.0, "", [], (), {}):
        seen = compared({name: off})
        assert (seen.unknown, seen.unknown_off) == ([], [name])


def test_training_itself_is_let_through():
    args = {
        "lr": 1e-4, "min_lr": 1e-5, "adam_beta1": 0.9, "weight_decay": 0.1, "train_iters": 500,
        "global_batch_size": 512, "tensor_model_parallel_size": 8, "seq_length": 4096,
        "max_position_embeddings": 4096, "attention_dropout": 0.1, "hidden_dropout": 0.1,
        "recompute_granularity": "full", "use_flash_attn": True, "wandb_project": "x",
        "moe_router_topk": 2, "mamba_state_dim": 128, "kv_lora_rank": 32, "bf16": True,
    }  # fmt: skip
    seen = compared(args)
    assert seen.differences == seen.unknown == seen.unknown_off == seen.rounding == []
    assert compared({"fp8": "hybrid", "fp4": None}).rounding == ["fp8='hybrid'"]


def test_no_name_is_in_two_lists():
    facts = {
        "num_layers", "rotary_base", "swiglu", "normalization", "window_size", "num_experts",
        "softmax_scale", "multi_latent_attention", "spec", "norm_epsilon",
    }  # fmt: skip
    assert not HARMLESS & {*facts, *ROUNDING}
    assert [name for name in HARMLESS if name.startswith(SUBJECTS)] == []


def test_commands_name_what_they_trust_and_what_is_not_known(hf, megatron, tmp_path, convert):
    shutil.rmtree(megatron / "hf")
    export = ("to-hf", "--megatron", megatron, "--hf", hf, "--out", tmp_path / "out")

    def store(args):
        torch.save({"args": args}, megatron / "common.pt")

    store(argparse.Namespace(**AGREEING))
    done = convert(*export, "--json")
    assert done.status == 0
    trust, padding = done.json["notes"]
    assert trust == (
        f"taken on trust from {hf}, and from what its architecture is, since neither the "
        f"checkpoint's arguments nor its tensors show it: normalization, apply_layernorm_1p, "
        f"hidden_act, use_sliding_window, partial_rotary_factor, rotary_interleaved, "
        f"position_embedding_type, rope_scaling, rotary_seq_len_interpolation_factor"
    )
    assert padding == PADDING

    store(argparse.Namespace(**{**AGREEING, **SAID, "fp8": "hybrid", "new_switch": None}))
    done = convert(*export, "--overwrite", "--json")
    unknown, rounding, padding = done.json["notes"]
    assert unknown.startswith("training arguments that are not known here are off")
    assert unknown.endswith("and are taken to change nothing: new_switch")
    assert "(fp8='hybrid')" in rounding

    store(argparse.Namespace(**AGREEING, logit_cap=50.0, temperature_of_attention=2))
    refused = convert(*export)
    assert refused.status == 1
    assert "not known here, and may change the model: logit_cap=50.0, temperature_of" in (
        refused.text
    )
    assert convert("verify", hf, megatron).status == 1
    ignored = ("--ignore-argument", "logit_cap", "--ignore-argument", "temperature_of_attention")
    done = convert(*export, *ignored, "--overwrite")
    assert done.status == 0
    assert "logit_cap=50.0, temperature_of_attention=2 were ignored, as asked for" in done.text
    assert convert("verify", hf, megatron, *ignored).status == 0
    # What is known and contradicts config.json cannot be waved through.
    store(argparse.Namespace(**{**AGREEING, "rotary_interleaved": True}))
    assert convert(*export, "--ignore-argument", "rotary_interleaved", "--overwrite").status == 1


@pytest.mark.parametrize(
    "store",
    [
        lambda args: args,
        lambda args: argparse.Namespace(**args),
        lambda args: types.SimpleNamespace(**args),
        # As of a YAML file, in groups.
        lambda args: types.SimpleNamespace(lr=1e-4, language_model=types.SimpleNamespace(**args)),
    ],
)
def test_arguments_are_found_in_any_wrapping(hf, megatron, tmp_path, convert, store):
    silu = torch.nn.functional.silu
    for args, status in (
        ({"rotary_base": 1}, 1), ({"rotary_base": 1000000}, 0),
        ({"activation_func": silu, "params_dtype": torch.bfloat16}, 0),
        ({"activation_func": torch.nn.functional.gelu}, 1),
    ):  # fmt: skip
        torch.save({"args": store(args)}, megatron / "common.pt")
        done = convert("to-hf", "--megatron", megatron, "--out", tmp_path / "out", "--overwrite")
        assert done.status == status, done.text
    assert "hidden_act: 'silu' against activation_func='torch._C._nn.gelu'" in done.text


def test_arguments_that_cannot_be_read_are_said(megatron, tmp_path, convert):
    for args in ([1, 2], 7, "rotary_base=1", {1: 2}):
        torch.save({"args": args}, megatron / "common.pt")
        refused = convert("to-hf", "--megatron", megatron, "--out", tmp_path / "out")
        assert refused.status == 1
        assert "has args of a kind that is not known" in refused.text


def beside_the_tensors(megatron, state):
    """Keep the common state as Megatron-core 0.19 does: as an object of `.metadata`."""
    from torch.distributed.checkpoint.filesystem import _StorageInfo
    from torch.distributed.checkpoint.metadata import BytesStorageMetadata, MetadataIndex

    (megatron / "common.pt").unlink(missing_ok=True)
    data = io.BytesIO()
    torch.save([state], data)
    file = megatron / "__1_0.distcp"
    file.write_bytes(bytes(100) + data.getvalue())
    metadata = pickle.loads((megatron / ".metadata").read_bytes())
    name = "common_state/shard_0_1"
    metadata.state_dict_metadata[name] = BytesStorageMetadata()
    place = _StorageInfo(file.name, 100, len(data.getvalue()))
    metadata.storage_data[MetadataIndex(name)] = place
    (megatron / ".metadata").write_bytes(pickle.dumps(metadata))
    return file


def test_arguments_beside_the_tensors(hf, megatron, tmp_path, convert):
    export = ("to-hf", "--megatron", megatron, "--out", tmp_path / "out", "--overwrite")
    file = beside_the_tensors(megatron, {"args": argparse.Namespace(**AGREEING)})
    assert convert(*export).status == 0
    assert convert("verify", hf, tmp_path / "out").status == 0

    other = argparse.Namespace(**{**AGREEING, "rotary_base": 1})
    beside_the_tensors(megatron, {"args": other})
    refused = convert(*export)
    assert refused.status == 1
    assert f"that training stored in {file}: rope_theta: 1000000.0 against" in refused.text

    # Where both are, Megatron-core reads common.pt.
    torch.save({"args": argparse.Namespace(**AGREEING)}, megatron / "common.pt")
    assert convert(*export).status == 0


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda file: file.unlink(), "is missing; it holds common_state/shard_0_1"),
        (lambda file: os.truncate(file, 150), "truncated: 150 bytes, but common_state/shard_0_1"),
        (lambda file: file.write_bytes(bytes(file.stat().st_size)), "cannot be read"),
    ],
)
def test_arguments_beside_the_tensors_that_are_damaged(megatron, tmp_path, convert, damage, line):
    damage(beside_the_tensors(megatron, {"args": argparse.Namespace(**AGREEING)}))
    refused = convert("to-hf", "--megatron", megatron, "--out", tmp_path / "out")
    assert refused.status == 1
    assert line in refused.text


def test_a_stranger_beside_the_tensors(megatron, tmp_path, convert):
    """Nothing that is named there is run."""
    trace = tmp_path / "trace"

    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(trace),)

    beside_the_tensors(megatron, {"args": Attack()})
    refused = convert("to-hf", "--megatron", megatron, "--out", tmp_path / "out")
    assert refused.status == 1
    assert "posix.mkdir" in refused.text
    assert not trace.exists()
