"""Models that Megatron-core builds of Megatron-LM's training arguments, as its `gpt_builder` does."""

import argparse
import dataclasses

import torch

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
    "no_persist_layer_norm": True, "fp8_param_gather": False, "bias_swiglu_fusion": True,
    "bias_gelu_fusion": True, "init_method_xavier_uniform": False, "fp16_lm_cross_entropy": False,
    "decoder_first_pipeline_num_layers": None, "decoder_last_pipeline_num_layers": None,
    "yaml_cfg": None, "kitchen_config_file": None, "kitchen_recipe_number": None,
    "te_precision_config_file": None, "moe_use_legacy_grouped_gemm": False,
    "transformer_impl": "local",
    "use_mup": False,
}  # fmt: skip
MODEL = {
    "num_layers": 2, "hidden_size": 64, "ffn_hidden_size": 112, "num_attention_heads": 4,
    "num_query_groups": 2, "kv_channels": 16, "normalization": "RMSNorm", "add_bias_linear": False,
    "add_qkv_bias": True, "hidden_dropout": 0.0, "params_dtype": torch.float32,
}  # fmt: skip
# Fields that Megatron-LM has another name for, and what is not for users.
NOT_STORED = {
    "_cpu_offloading_context", "activation_func", "gated_linear_unit", "layernorm_epsilon",
    "layernorm_zero_centered_gamma", "num_moe_experts",
}  # fmt: skip
PARAMETERS = {
    "config": (),
    "transformer_layer_spec": (
        "spec", "transformer_impl", "experimental_attention_variant", "num_experts",
        "heterogeneous_layers_config_path", "moe_grouped_gemm", "moe_use_legacy_grouped_gemm",
        "multi_latent_attention", "normalization", "qk_layernorm", "qk_l2_norm", "use_kitchen",
        "use_kitchen_attention", "kitchen_attention_backend",
    ),
    "vocab_size": ("padded_vocab_size",),
    "max_sequence_length": ("max_position_embeddings",),
    "fp16_lm_cross_entropy": ("fp16_lm_cross_entropy",),
    "share_embeddings_and_output_weights": ("untie_embeddings_and_output_weights",),
    "position_embedding_type": ("position_embedding_type", "use_rotary_position_embeddings"),
    "rotary_percent": ("rotary_percent",),
    "rotary_base": ("rotary_base",),
    "rope_scaling": ("use_rope_scaling",),
    "rope_scaling_factor": ("rope_scaling_factor",),
    "seq_len_interpolation_factor": ("rotary_seq_len_interpolation_factor",),
    "mtp_block_spec": ("mtp_num_layers",),
}  # fmt: skip
"""The parameters of GPTModel, and the arguments that Megatron-LM's `gpt_builder` makes each of."""
OF_PROCESSES = (
    "pre_process", "post_process", "parallel_output", "scatter_embedding_sequence_parallel",
    "pg_collection", "vp_stage",
)  # fmt: skip
"""Parameters of GPTModel that say which part of a model a process has; no argument sets them."""
READ = {
    "apply_layernorm_1p", "bias_gelu_fusion", "bias_swiglu_fusion", "config_logger_dir",
    "cp_comm_type", "decoder_first_pipeline_num_layers", "decoder_last_pipeline_num_layers",
    "fp8_param_gather", "group_query_attention", "heterogeneous_layers_config_path",
    "init_method_xavier_uniform", "is_hybrid_model", "kitchen_config_file",
    "kitchen_recipe_number", "multi_latent_attention", "no_persist_layer_norm", "norm_epsilon",
    "num_experts", "overlap_p2p_comm", "quick_geglu", "rope_type", "seed", "squared_relu",
    "swiglu", "te_precision_config_file", "use_legacy_models", "yaml_cfg",
}  # fmt: skip
"""What Megatron-LM reads to make a configuration, besides arguments with the names of its fields."""

FAMILIES = {
    "qwen2": {},
    "qwen3": {"add_qkv_bias": False, "qk_layernorm": True},
    "llama": {"add_qkv_bias": False, "untie_embeddings_and_output_weights": False},
}


def defaults():
    """The fields of TransformerConfig that arguments set, by name, with their defaults."""
    from megatron.core.transformer.transformer_config import TransformerConfig

    fields = dataclasses.fields(TransformerConfig)
    made = {f.name: f.default_factory() for f in fields if callable(f.default_factory)}
    given = {f.name: f.default for f in fields if f.default is not dataclasses.MISSING}
    return {n: value for n, value in {**given, **made}.items() if n not in NOT_STORED}


def arguments(**changed):
    """Arguments as Megatron-LM stores them: all fields of the configuration, and those above."""
    return argparse.Namespace(**{**defaults(), **MEGATRON_LM, **MODEL, **changed})


def transformer_config(args, unchecked=None):
    """The configuration that Megatron-LM makes of its arguments (`core_transformer_config_from_args`).

    Args:
        unchecked: fields that are set afterwards. Megatron-core refuses them by themselves.
    """
    from megatron.core.transformer.transformer_config import TransformerConfig

    known = defaults().keys()
    fields = {name: value for name, value in vars(args).items() if name in known}
    fields |= {
        "layernorm_epsilon": args.norm_epsilon,
        "layernorm_zero_centered_gamma": args.apply_layernorm_1p,
        "num_moe_experts": args.num_experts,
        "num_query_groups": args.num_query_groups if args.group_query_attention else None,
        "persist_layer_norm": args.persist_layer_norm or not args.no_persist_layer_norm,
        "num_layers_in_first_pipeline_stage": args.decoder_first_pipeline_num_layers,
        "num_layers_in_last_pipeline_stage": args.decoder_last_pipeline_num_layers,
        "fp8_param": args.fp8_param or args.fp8_param_gather,
        "bias_activation_fusion": args.bias_activation_fusion and args.bias_swiglu_fusion,
        "batch_p2p_comm": args.batch_p2p_comm and not args.overlap_p2p_comm,
        "inference_sampling_seed": args.seed,
        "use_cpu_initialization": True,
        "perform_initialization": True,
    }
    if args.swiglu:
        fields |= {"gated_linear_unit": True, "activation_func": SILU}
    if args.init_method_xavier_uniform:
        fields["init_method"] = torch.nn.init.xavier_uniform_
    config = TransformerConfig(**fields)
    rotation = {name: value for name, value in vars(args).items() if name.startswith("yarn_")}
    for name, value in {**rotation, **(unchecked or {})}.items():
        setattr(config, name, value)
    return config


def built(args, unchecked=None):
    """The model that Megatron-LM builds of its arguments, as its `gpt_builder` does."""
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import (
        get_gpt_layer_local_spec,
        get_gpt_layer_with_transformer_engine_spec,
    )

    # Megatron-core 0.17 has no such layers any more.
    legacy = {"moe_use_legacy_grouped_gemm"} & defaults().keys()
    options = {name: getattr(args, name) for name in legacy}
    spec = get_gpt_layer_with_transformer_engine_spec
    if args.transformer_impl != "transformer_engine":
        spec = get_gpt_layer_local_spec
        options["normalization"] = args.normalization
    return GPTModel(
        config=transformer_config(args, unchecked),
        transformer_layer_spec=spec(
            args.num_experts,
            args.moe_grouped_gemm,
            args.qk_layernorm,
            args.multi_latent_attention,
            args.experimental_attention_variant,
            **options,
        ),
        vocab_size=args.padded_vocab_size,
        max_sequence_length=args.max_position_embeddings,
        fp16_lm_cross_entropy=args.fp16_lm_cross_entropy,
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


OTHERWISE = {
    "num_layers": 3, "hidden_size": 128, "num_attention_heads": 8, "ffn_hidden_size": 128,
    "normalization": "LayerNorm", "softmax_type": "off-by-one", "window_size": (4, 0),
    "position_embedding_type": "none", "no_rope_freq": [0, 1], "spec": ["my.models", "spec"],
    "experimental_attention_variant": "dsa", "padded_vocab_size": 384, "vocab_size": 316,
    "recompute_granularity": "selective", "recompute_method": "uniform",
    "recompute_modules": ["core_attn", "mlp"],
    "embedding_init_method": torch.nn.init.zeros_, "init_method": torch.nn.init.zeros_,
    "output_layer_init_method": torch.nn.init.zeros_,
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
    "use_mup", "use_rope_scaling", "vocab_size", "window_size",
}  # fmt: skip
UNCHECKED = {
    "batch_invariant_mode", "cuda_graph_scope", "delay_wgrad_compute", "ep_overlap_early_attn_memory_release",
    "expert_model_parallel_size", "fp4_param", "fp8_param", "fp8_param_gather",
    "moe_enable_deepep", "moe_ffn_hidden_size", "moe_pad_expert_input_to_capacity",
    "moe_permute_fusion", "moe_router_enable_expert_bias", "moe_router_group_topk",
    "moe_router_padding_for_fp8", "moe_router_padding_for_quantization",
    "overlap_moe_expert_parallel_comm", "overlap_p2p_comm_warmup_flush", "symmetric_ar_type",
    "variable_seq_lengths",
    # Since Megatron-core 0.17.
    "fp8_output_proj", "inference_cuda_graph_scope",
    "inference_disable_triton_nvls_kernels", "moe_expert_rank_capacity_factor",
    "moe_single_grouped_bias", "moe_single_grouped_weight",
    "overlap_dispatch_backward_with_experts_wgrad",
}  # fmt: skip
"""What Megatron-core refuses by itself, on a CPU or in a dense model: it is built unchecked."""


WITH_TRANSFORMER_ENGINE = {
    "apply_rope_fusion", "cpu_offloading", "defer_embedding_wgrad_compute",
    "memory_efficient_layer_norm", "no_persist_layer_norm", "persist_layer_norm",
}  # fmt: skip
"""What changes nothing, and can be built only with layers of Transformer Engine."""


def otherwise(name, value):
    if name in OTHERWISE:
        return OTHERWISE[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return 2 * value or 1
    return 3 if value is None else f"{value}-other"
