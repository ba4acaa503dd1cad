"""Training arguments against what Megatron-core builds of them, on checkpoints that it saved.

Every argument is set otherwise, by itself. Either the checkpoint is refused and the argument is
named, or the exported model has the logits of the model that Megatron-core builds with it.
"""

import argparse
import dataclasses
import json
import warnings

import pytest
import torch

from megaprune.errors import InputError
from megaprune.recipes.tiny_models import make_tiny
from megaprune.weights.argument_names import SUBJECTS
from megaprune.weights.arguments import compare_arguments
from megaprune.weights.boxes import Box
from megaprune.weights.files.folder import Rearranged
from megaprune.weights.files.megatron_folder import MegatronFolder
from megaprune.weights.layouts import hf_layout

pytest.importorskip("megatron.core", reason="megatron-core is not installed: pip install '.[cpu]'")

SILU = torch.nn.functional.silu
IDS = torch.randint(1, 300, (2, 24), generator=torch.Generator().manual_seed(0))

# What Megatron-LM's own parser has beside the fields of TransformerConfig, as it is set for Qwen2.
MEGATRON_LM = {
    "norm_epsilon": 1e-6, "apply_layernorm_1p": False, "swiglu": True, "squared_relu": False,
    "quick_geglu": False, "openai_gelu": False, "untie_embeddings_and_output_weights": True,
    "group_query_attention": True, "position_embedding_type": "rope", "rotary_base": 10000,
    "rotary_percent": 1.0, "rotary_interleaved": False, "use_rope_scaling": False,
    "rope_scaling_factor": 8.0, "rotary_seq_len_interpolation_factor": None, "rope_type": None,
    "use_rotary_position_embeddings": False, "add_position_embedding": True,
    "num_experts": None, "padded_vocab_size": 320, "vocab_size": 300,
    "make_vocab_size_divisible_by": 128, "max_position_embeddings": 256, "seq_length": 256,
    "spec": None, "use_legacy_models": False, "retro_add_retriever": False,
    "hybrid_override_pattern": None, "hybrid_attention_ratio": 0.0, "hybrid_mlp_ratio": 0.0,
    "heterogeneous_layers_config_path": None, "heterogeneous_layers_config_encoded_json": None,
    "lr": 1e-4, "weight_decay": 0.01, "train_iters": 100, "seed": 1234, "save": "/checkpoints",
    "attention_dropout": 0.1, "tokenizer_type": "HuggingFaceTokenizer",
}  # fmt: skip
MODEL = {
    "num_layers": 2, "hidden_size": 64, "ffn_hidden_size": 112, "num_attention_heads": 4,
    "num_query_groups": 2, "kv_channels": 16, "normalization": "RMSNorm", "add_bias_linear": False,
    "add_qkv_bias": True, "hidden_dropout": 0.0, "params_dtype": torch.float32,
}  # fmt: skip
# Fields that Megatron-LM has another name for, functions, and what is not for users.
NOT_STORED = {
    "_cpu_offloading_context", "activation_func", "embedding_init_method", "gated_linear_unit", "init_method",
    "layernorm_epsilon", "layernorm_zero_centered_gamma", "num_moe_experts",
    "output_layer_init_method",
}  # fmt: skip
FAMILIES = {
    "qwen2": {},
    "qwen3": {"add_qkv_bias": False, "qk_layernorm": True},
    "llama": {"add_qkv_bias": False, "untie_embeddings_and_output_weights": False},
}


def arguments(**changed):
    """Arguments as Megatron-LM stores them: all fields of the configuration, and those above."""
    from megatron.core.transformer.transformer_config import TransformerConfig

    fields = {f.name: f.default for f in dataclasses.fields(TransformerConfig)}
    plain = {n: v for n, v in fields.items() if v is not dataclasses.MISSING}
    for name in NOT_STORED:
        del plain[name]
    return argparse.Namespace(**{**plain, **MEGATRON_LM, **MODEL, **changed})


def built(args):
    """The model that Megatron-LM builds of its arguments, as its `gpt_builder` does."""
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.transformer.transformer_config import TransformerConfig

    names = {f.name for f in dataclasses.fields(TransformerConfig)}
    fields = {name: value for name, value in vars(args).items() if name in names}
    fields |= {
        "layernorm_epsilon": args.norm_epsilon,
        "layernorm_zero_centered_gamma": args.apply_layernorm_1p,
        "num_moe_experts": args.num_experts,
        "num_query_groups": args.num_query_groups if args.group_query_attention else None,
        "use_cpu_initialization": True,
        "perform_initialization": True,
    }
    if args.swiglu:
        fields |= {"gated_linear_unit": True, "activation_func": SILU}
    transformer = TransformerConfig(**fields)
    for name, value in vars(args).items():
        if name.startswith("yarn_"):
            setattr(transformer, name, value)
    return GPTModel(
        config=transformer,
        transformer_layer_spec=get_gpt_layer_local_spec(
            normalization=args.normalization, qk_layernorm=args.qk_layernorm
        ),
        vocab_size=args.padded_vocab_size,
        max_sequence_length=args.max_position_embeddings,
        share_embeddings_and_output_weights=not args.untie_embeddings_and_output_weights,
        position_embedding_type=args.position_embedding_type,
        rotary_percent=args.rotary_percent,
        rotary_base=args.rotary_base,
        rope_scaling=args.use_rope_scaling,
        rope_scaling_factor=args.rope_scaling_factor,
        seq_len_interpolation_factor=args.rotary_seq_len_interpolation_factor,
    ).eval()


def logits(model):
    length = IDS.shape[1]
    positions = torch.arange(length).expand_as(IDS)
    mask = torch.triu(torch.ones(1, 1, length, length, dtype=torch.bool), 1)
    with torch.no_grad():
        return model(IDS, positions, mask)[..., :300]


@pytest.fixture(scope="module")
def megatron_core(alone):
    """Megatron-core with its groups, on this process alone."""
    # Loaded first, so that it too is redirected to the CPU.
    from megatron.core.dist_checkpointing.strategies import torch as _  # noqa: F401

    from megaprune.actor.build import start_megatron
    from megaprune.parallelism import Parallel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start_megatron(Parallel())
        yield


class Saved:
    """A checkpoint that Megatron-core saved, beside a config.json; and the weights in it."""

    def __init__(self, root, family):
        from megatron.core import dist_checkpointing

        self.args = arguments(**FAMILIES[family])
        model = built(self.args)
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            for name, parameter in model.named_parameters():
                parameter.normal_(1.0 if "norm" in name else 0.0, 0.1)
                if parameter.shape[0] == self.args.padded_vocab_size:
                    parameter[300:] = 0
        self.weights = model.state_dict()
        self.hf = make_tiny(
            root / "hf", family, vocab_size=300, hidden_size=64, intermediate_size=112,
            num_hidden_layers=2, head_dim=16, max_position_embeddings=256, rms_norm_eps=1e-6,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4},
            tie_word_embeddings=not self.args.untie_embeddings_and_output_weights,
        )  # fmt: skip
        self.config = json.loads((self.hf / "config.json").read_text())
        self.path = root / "megatron"
        self.path.mkdir()
        state = {"args": self.args, "model": model.sharded_state_dict(), "iteration": 1}
        dist_checkpointing.save({**state, "checkpoint_version": 3.0}, str(self.path))

    def opened(self, args, config=None):
        """Open it with these arguments, beside a config.json with these keys."""
        content = {**self.config, **(config or {})}
        (self.hf / "config.json").write_text(json.dumps(content))
        torch.save({"args": args, "iteration": 1}, self.path / "common.pt")
        return MegatronFolder(self.path, self.hf)

    def hugging_face_logits(self, args, config=None):
        """The logits of what is exported, computed by transformers."""
        from transformers import AutoConfig, AutoModelForCausalLM

        folder = self.opened(args, config)
        weights = Rearranged(folder, hf_layout(folder.model))
        state = {p.name: weights.read(p.name, Box.whole(p.shape)) for p in weights.parameters()}
        if folder.model.tied:
            state["lm_head.weight"] = state["model.embed_tokens.weight"]
        model = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(self.hf), attn_implementation="eager"
        )
        model.load_state_dict(state)
        with torch.no_grad():
            return model.eval()(IDS).logits

    def megatron_logits(self, args):
        """The logits of what Megatron-core builds of these arguments, with the saved weights."""
        model = built(args)
        model.load_state_dict(self.weights)
        return logits(model)


@pytest.fixture(scope="module")
def saved(megatron_core, tmp_path_factory):
    return {name: Saved(tmp_path_factory.mktemp(name), name) for name in FAMILIES}


OTHERWISE = {
    "num_layers": 3, "hidden_size": 128, "num_attention_heads": 8, "ffn_hidden_size": 128,
    "normalization": "LayerNorm", "softmax_type": "off-by-one", "window_size": (4, 0),
    "position_embedding_type": "none", "no_rope_freq": [0, 1], "spec": ["my.models", "spec"],
    "experimental_attention_variant": "dsa", "padded_vocab_size": 384, "vocab_size": 316,
}  # fmt: skip
"""What an argument is set to, where its opposite, double or another word will not do."""

REFUSED = {
    "activation_func_clamp_value", "add_bias_linear", "add_qkv_bias", "apply_layernorm_1p",
    "apply_residual_connection_post_layernorm", "attention_output_gate",
    "experimental_attention_variant", "ffn_hidden_size", "glu_linear_offset",
    "group_query_attention", "heterogeneous_block_specs",
    "heterogeneous_layers_config_encoded_json", "heterogeneous_layers_config_path",
    "hidden_size", "hybrid_attention_ratio", "hybrid_mlp_ratio", "hybrid_override_pattern",
    "is_hybrid_model", "kv_channels", "linear_attention_freq", "mrope_section", "mtp_num_layers",
    "multi_latent_attention", "no_rope_freq", "norm_epsilon", "normalization",
    "num_attention_heads", "num_experts", "num_layers", "num_query_groups", "openai_gelu",
    "padded_vocab_size", "position_embedding_type", "qk_l2_norm", "qk_layernorm", "quick_geglu",
    "retro_add_retriever", "rope_type", "rotary_base", "rotary_interleaved", "rotary_percent",
    "rotary_seq_len_interpolation_factor", "softmax_scale", "softmax_type", "spec",
    "squared_relu", "swiglu", "untie_embeddings_and_output_weights", "use_legacy_models",
    "use_rope_scaling", "vocab_size", "window_size",
}  # fmt: skip
NOT_BUILT = {
    # They need Transformer Engine, apex or CUDA.
    "apply_rope_fusion", "batch_invariant_mode", "context_parallel_size", "cpu_offloading",
    "enable_cuda_graph", "fine_grained_activation_offloading", "fused_single_qkv_rope",
    "gradient_accumulation_fusion", "memory_efficient_layer_norm", "persist_layer_norm",
    "symmetric_ar_type", "use_te_activation_func",
    # They need several processes, or experts.
    "defer_embedding_wgrad_compute", "delay_wgrad_compute",
    "ep_overlap_early_attn_memory_release", "expert_model_parallel_size",
    "num_layers_in_first_pipeline_stage", "num_layers_in_last_pipeline_stage",
    "pipeline_model_parallel_layout", "pipeline_model_parallel_size", "sequence_parallel",
    "tensor_model_parallel_size", "variable_seq_lengths", "virtual_pipeline_model_parallel_size",
    # It writes files.
    "config_logger_dir",
    # They are types of elements, which the weights keep.
    "bf16", "fp16", "params_dtype",
}  # fmt: skip
"""What changes nothing and cannot be built here with the same weights, to show it."""


def otherwise(name, value):
    if name in OTHERWISE:
        return OTHERWISE[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return 2 * value or 1
    return 3 if value is None else f"{value}-other"


def test_each_argument_otherwise(saved):
    """By itself: refused by name, or the model that Megatron-core builds is the one exported."""
    model = saved["qwen2"]
    exported = model.hugging_face_logits(model.args)
    assert exported.abs().max() > 0.1
    assert (model.megatron_logits(model.args) - exported).abs().max() <= 1e-5
    refused, moved = set(), {}
    for name, value in vars(model.args).items():
        args = arguments(**{name: otherwise(name, value)})
        try:
            model.opened(args)
        except InputError as error:
            refused.add(name if f"{name}=" in str(error) else f"{name}: {error}")
            continue
        # What all names of a subject are about is not built, so that it cannot move anything.
        if name not in NOT_BUILT and not name.startswith(SUBJECTS):
            moved[name] = (model.megatron_logits(args) - exported).abs().max().item()
    assert refused == REFUSED
    assert {name: most for name, most in moved.items() if most > 1e-5} == {}
    assert len(moved) > 80


def test_all_settings_are_known(saved):
    """Megatron-LM takes each from the argument of that name."""
    from megatron.core.transformer.transformer_config import MLATransformerConfig

    fields = dataclasses.fields(MLATransformerConfig)
    args = {field.name: "on" for field in fields if not field.name.startswith("_")}
    model = saved["qwen2"].opened(saved["qwen2"].args)
    assert compare_arguments(args, model.config, model.model, 320).unknown == []
    assert len(args) > 200


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_other_families(saved, family):
    model = saved[family]
    exported = model.hugging_face_logits(model.args)
    assert (model.megatron_logits(model.args) - exported).abs().max() <= 1e-5
    for name in ("add_qkv_bias", "qk_layernorm", "untie_embeddings_and_output_weights"):
        args = arguments(**{**FAMILIES[family], name: not getattr(model.args, name)})
        with pytest.raises(InputError, match=f"{name}="):
            model.opened(args)


YARN = {
    "position_embedding_type": "yarn", "yarn_rotary_scaling_factor": 4.0,
    "yarn_original_max_position_embeddings": 8, "yarn_beta_fast": 32.0, "yarn_beta_slow": 1.0,
    "yarn_mscale": 1.0, "yarn_mscale_all_dim": 0.0, "yarn_correction_range_round_to_int": True,
}  # fmt: skip
ROTATIONS = {
    "default": ({}, {"rope_type": "default"}),
    "theta": ({"rotary_base": 500000}, {"rope_type": "default", "rope_theta": 5e5}),
    "linear": ({"rotary_seq_len_interpolation_factor": 4}, {"rope_type": "linear", "factor": 4.0}),
    "llama3": (
        {"use_rope_scaling": True, "rope_scaling_factor": 4.0},
        {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 8192},
    ),
    "llama3 by 8": (
        {"use_rope_scaling": True},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 8192},
    ),
    "yarn": (
        YARN, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}
    ),
    "yarn, other mscales": (
        {**YARN, "yarn_mscale": 0.7, "yarn_mscale_all_dim": 1.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8,
         "mscale": 0.7, "mscale_all_dim": 1.0},
    ),
}  # fmt: skip


@pytest.mark.parametrize("said", ROTATIONS)
def test_rotations_both_ways(saved, said):
    """The same rotation in both is the same model; any other pair of two is refused."""
    model = saved["qwen2"]
    for name, (changed, _) in ROTATIONS.items():
        rope = {"rope_theta": 1e4, **ROTATIONS[said][1]}
        args = arguments(**changed)
        if name == said:
            exported = model.hugging_face_logits(args, {"rope_parameters": rope})
            assert (model.megatron_logits(args) - exported).abs().max() <= 1e-5
        else:
            with pytest.raises(InputError, match="is another model than the arguments"):
                model.opened(args, {"rope_parameters": rope})


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"rms_norm_eps": 1e-5}, "rms_norm_eps: 1e-05 against norm_epsilon=1e-06"),
        ({"head_dim": 32, "num_attention_heads": 2}, "num_attention_heads=4, where .* has 2; head_"),
        ({"num_attention_heads": 8}, "num_attention_heads=4, where .* has 8"),
        ({"num_key_value_heads": 4}, "num_key_value_heads: 4 against num_query_groups=2"),
        ({"num_hidden_layers": 1}, "num_hidden_layers: 1 against num_layers=2"),
        ({"hidden_size": 128}, "hidden_size=64, where .* has 128"),
        ({"intermediate_size": 96}, "intermediate_size: 96 against ffn_hidden_size=112"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings: True against untie_embeddings"),
        ({"vocab_size": 299}, "cut off 1 row that is no padding: .* vocab_size=300"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 10000.5}}, "10000.5 against"),
        (
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "'dynamic' against position_embedding_type='rope'",
        ),
        (
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0,
                                 "low_freq_factor": 2.0, "high_freq_factor": 4.0,
                                 "original_max_position_embeddings": 8192}},
            "use_rope_scaling=False",
        ),
    ],
)  # fmt: skip
def test_each_key_of_the_configuration_otherwise(saved, config, line):
    model = saved["qwen2"]
    with pytest.raises(InputError, match=line):
        model.opened(model.args, config)


@pytest.mark.parametrize(
    "config",
    [
        {"max_position_embeddings": 512}, {"initializer_range": 0.5}, {"use_cache": False},
        {"eos_token_id": 7}, {"max_window_layers": 1},
    ],
)  # fmt: skip
def test_keys_that_change_nothing(saved, config):
    model = saved["qwen2"]
    plain = model.hugging_face_logits(model.args)
    assert torch.equal(model.hugging_face_logits(model.args, config), plain)
