"""Names of Megatron-LM's training arguments that change nothing that a trained model computes.

`weights.arguments` compares those that do, and names those that are in neither. Sources:
`megatron/training/arguments.py` of Megatron-LM, and `TransformerConfig` and `ModelParallelConfig`
of Megatron-core 0.16 to 0.19, all of whose fields Megatron-LM takes from its arguments by name.
"""

from __future__ import annotations

SUBJECTS = (
    # How training goes.
    "adam_", "grpo_", "langrl_", "lion_", "lr_", "muon_", "optimizer_", "rl_", "sgd_", "train_",
    # Data, logs, checkpoints and evaluation.
    "async_ckpt_", "ckpt_", "data_", "dataloader_", "dist_ckpt_", "eval_", "fim_", "log_",
    "logits_load_", "logits_save_", "non_persistent_", "null_tokenizer_", "one_logger_",
    "pytorch_profiler_", "save_", "tensorboard_", "tiktoken_", "tokenizer_", "wandb_",
    # Machines: memory, messages, kernels, restarts.
    "cpu_offloading_", "cuda_graph_", "ddp_", "distributed_", "fault_injector_",
    "flight_recorder_", "fsdp_", "ft_", "inprocess_", "inference_", "megatron_fsdp_", "overlap_",
    "profile_", "recompute_", "timing_", "tp_comm_",
    # Number formats of training; whether one is used is in `ROUNDING`.
    "fp4_", "fp8_",
    # Parts that other arguments switch on, which are compared: experts, state spaces, retrieval,
    # other kinds of attention, maximal update parametrization, and YaRN.
    "dsa_indexer_", "mamba_", "moe_", "mup_", "retro_", "yarn_",
    # Other models of the same program.
    "bert_", "biencoder_", "dino_", "ict_", "indexer_", "retriever_", "vision_",
)  # fmt: skip
"""Beginnings of names, each of which says what all arguments so named are about. Those that a
configuration takes change no logits of a dense model: tests build each, set otherwise."""

HARMLESS = frozenset(
    {
        # Batches, steps, losses and regularisation.
        "apply_wd_to_qk_layernorm", "attention_dropout", "batch_size", "calculate_per_token_loss",
        "clip_grad", "consumed_train_bins", "consumed_train_samples", "consumed_valid_samples",
        "curr_iteration", "decoupled_lr", "decoupled_min_lr", "decrease_batch_size_if_needed",
        "do_test", "do_train", "do_valid", "end_weight_decay", "eod_mask_loss", "finetune",
        "fp16_lm_cross_entropy", "freeze_all_layers", "global_batch_size", "hidden_dropout",
        "hysteresis", "initial_loss_scale", "iteration", "iterations_to_skip", "loss_scale",
        "loss_scale_window", "lr", "micro_batch_size", "min_loss_scale", "min_lr",
        "mtp_grad_scale_func", "mtp_loss_scaling_factor", "mtp_standalone",
        "no_weight_decay_cond_type", "num_floating_point_operations_so_far", "optimizer",
        "perform_rl_step", "phase_transition_iterations", "qk_clip", "qk_clip_alpha",
        "qk_clip_threshold", "rampup_batch_size", "seed", "sft", "sft_tokenizer_prompt_format",
        "skip_train", "skipped_train_samples", "start_eval_at_iter", "start_weight_decay",
        "step_batch_size_schedule", "test_mode", "warmup", "wd_incr_steps", "weight_decay",
        "weight_decay_incr_style", "wsd_decay_steps",
        # How weights began.
        "embedding_init_method", "embedding_init_method_std", "init_method", "init_method_std",
        "init_method_xavier_uniform", "init_model_with_meta_device", "output_layer_init_method",
        "perform_initialization", "pretrained_checkpoint", "use_cpu_initialization",
        # Data and tokenizer. What the tokenizer says of the vocabulary is looked at elsewhere.
        "allow_ambiguous_pad_tokens", "chat_template", "create_attention_mask_in_dataloader",
        "decoder_seq_length", "encoder_seq_length", "full_validation", "legacy_tokenizer",
        "make_vocab_size_divisible_by", "mask_prob", "max_position_embeddings", "merge_file",
        "metadata_path", "mid_level_dataset_surplus", "mmap_bin_files", "mock_data",
        "multiple_validation_sets", "num_dataset_builder_threads", "num_workers",
        "object_storage_cache_path", "pad_vocab_size", "per_dataset_sequences_path",
        "per_split_data_args_path", "reset_attention_mask", "reset_position_ids", "sample_rate",
        "seq_length", "short_seq_prob", "special_tokens", "split", "test_data_path",
        "trust_remote_code", "valid_data_path", "validation_set_names", "variable_seq_lengths",
        "vocab_extra_ids", "vocab_file",
        # Checkpoints, logs, errors.
        "adlr_autoresume", "adlr_autoresume_interval", "app_tag_run_name", "app_tag_run_version",
        "async_save", "async_strategy", "auto_detect_ckpt_format", "calc_ft_timeouts",
        "check_for_large_grads", "check_for_nan_in_loss_and_grad", "check_for_spiky_loss",
        "check_weight_hash_across_dp_replicas_interval", "config_logger_dir",
        "disable_msc_deprecated", "disable_straggler_on_startup",
        "distrib_optim_fully_reshardable_mem_efficient", "dump_param_to_param_group_map",
        "enable_experimental", "enable_ft_package", "enable_one_logger", "error_injection_rate",
        "error_injection_type", "exit_duration_in_mins", "exit_interval",
        "exit_on_missing_checkpoint", "exit_signal", "exit_signal_handler",
        "exit_signal_handler_for_dataloader", "exit_signal_handler_for_training", "filter_warnings",
        "gpu_sniff_test_interval", "hetereogenous_dist_checkpoint", "load",
        "load_main_params_from_ckpt", "logging_level", "memory_keys", "memory_snapshot_path",
        "modules_to_filter", "most_recent_k", "no_load_optim", "no_load_rng", "no_save_optim",
        "no_save_rng", "nvtx_ranges", "override_ckpt_iteration", "override_opt_param_scheduler",
        "profile", "record_memory_history", "record_shapes", "replication", "replication_factor",
        "replication_jump", "rerun_mode", "result_rejected_tracker_filename",
        "run_workload_inspector_server", "runtime_time_unit", "save", "set_level_for_all_loggers",
        "straggler_ctrlr_port", "straggler_minmax_count", "stream_ckpt_dequant",
        "strict_fsdp_dtensor_load", "throughput_window_size", "use_checkpoint_args",
        "use_checkpoint_opt_param_scheduler", "use_dist_ckpt", "use_dist_ckpt_deprecated",
        "use_mp_args_from_checkpoint_args", "use_persistent_ckpt_worker", "use_pytorch_profiler",
        "use_tokenizer_model_from_checkpoint_args", "verify_integrity", "yaml_cfg",
        # Number formats of the optimizer and of sums, which weights do not remember.
        "accumulate_allreduce_grads_in_fp32", "autocast_dtype", "bf16",
        "disable_bf16_reduced_precision_matmul", "enable_autocast", "exp_avg_dtype",
        "exp_avg_sq_dtype", "first_last_layers_bf16", "fp16", "grad_reduce_in_bf16",
        "keep_fp8_transpose_cache", "main_grads_dtype", "main_params_dtype",
        "num_layers_at_end_in_bf16", "num_layers_at_start_in_bf16", "params_dtype",
        "pipeline_dtype", "reuse_grad_buf_for_mxfp8_param_ag", "tp_only_amax_red",
        "use_precision_aware_optimizer",
        # How the same sums are computed: dropped out, scaled and scaled back, fused, in parts.
        "activation_func_fp8_input_store", "apply_query_key_layer_scaling", "apply_rope_fusion",
        "attention_backend", "attention_softmax_in_fp32", "batch_invariant_mode",
        "bias_activation_fusion", "bias_dropout_fusion", "bias_gelu_fusion", "bias_swiglu_fusion",
        "clone_scatter_output_in_embedding", "cross_entropy_fusion_impl",
        "cross_entropy_loss_fusion", "decode_only_cuda_graphs", "deterministic_mode",
        "disable_chunked_prefill", "disable_jit_fuser", "disable_parameter_transpose_cache",
        "enable_chunked_prefill", "enable_cuda_graph", "external_cuda_graph",
        "fine_grained_activation_offloading", "flash_attention_version", "flash_decode",
        "fp32_residual_connection", "fused_residual_rmsnorm", "fused_single_qkv_rope",
        "gradient_accumulation_fusion", "kitchen_attention_backend", "masked_softmax_fusion",
        "memory_efficient_layer_norm", "min_offloaded_tensor_size", "mla_down_proj_fusion",
        "mlp_chunks_for_prefill", "mlp_chunks_for_training", "no_persist_layer_norm",
        "num_speculative_tokens", "offload_modules", "offset_sampling_seed_by_dp_rank", "onnx_safe",
        "persist_layer_norm", "symmetric_ar_type", "te_rng_tracker", "transformer_impl",
        "use_flash_attn", "use_fused_weighted_squared_relu", "use_grouped_gemm_for_dense_mlp",
        "use_grouped_gemm_for_shared_expert", "use_inference_optimized_layers",
        "use_te_activation_func", "use_te_rng_tracker", "use_transformer_engine_op_fuser",
        # Processes, their memory and their messages.
        "account_for_embedding_in_pipeline_split", "account_for_loss_in_pipeline_split",
        "activation_offload_fraction", "align_grad_reduce", "align_param_gather",
        "async_tensor_model_parallel_allreduce", "barrier_with_L1_time", "batch_p2p_comm",
        "batch_p2p_sync", "checkpoint_activations", "context_parallel_size", "cp_comm_type",
        "cpu_offloading", "create_all_gather_group", "deallocate_pipeline_outputs",
        "decoder_first_pipeline_num_layers", "decoder_last_pipeline_num_layers",
        "defer_embedding_wgrad_compute", "delay_offload_until_cuda_graph", "delay_wgrad_compute",
        "delta_offload_bytes_across_pp_ranks", "deprecated_use_mcore_models",
        "disable_symmetric_registration", "distribute_saved_activations",
        "empty_unused_memory_level", "enable_full_sharding_in_hsdp", "enable_gloo_process_groups",
        "enable_msc", "ep_overlap_early_attn_memory_release", "expert_gtp_weight_remat_size",
        "expert_model_parallel_size", "expert_tensor_parallel_num_weight_shards",
        "expert_tensor_parallel_size", "fake_process_group", "finalize_model_grads_func",
        "fine_grained_offloading_max_inflight_offloads", "grad_scale_func", "grad_sync_func",
        "gradient_reduce_div_fusion", "gtp_weight_remat_size",
        "hierarchical_context_parallel_sizes", "high_priority_a2a_comm_stream",
        "high_priority_stream_groups", "hybrid_context_parallel", "lazy_mpu_init", "local_rank",
        "manual_gc", "manual_gc_eval", "manual_gc_interval", "max_seqlen_per_dp_cp_rank",
        "max_tokens_to_oom", "microbatch_group_size_per_vp_stage", "model_parallel_size",
        "nccl_all_reduce_for_prefill", "nccl_communicator_config_path", "nccl_ub", "no_sync_func",
        "num_distributed_optimizer_instances", "num_layers_in_first_pipeline_stage",
        "num_layers_in_last_pipeline_stage", "num_layers_per_virtual_pipeline_stage",
        "num_microbatches_with_partial_activation_checkpoints",
        "num_virtual_stages_per_pipeline_rank", "outer_dp_sharding_strategy", "param_sync_func",
        "pin_cpu_grads", "pin_cpu_params", "pipeline_model_parallel_comm_backend",
        "pipeline_model_parallel_layout", "pipeline_model_parallel_size", "rank", "refit_method",
        "scatter_gather_tensors_in_pipeline", "sequence_parallel", "sharp_enabled_group",
        "suggested_communication_unit_size", "tensor_model_parallel_size",
        "tensor_parallel_num_weight_shards", "timers", "torch_fsdp2_reshard_after_forward",
        "transformer_pipeline_model_parallel_size", "use_custom_fsdp", "use_distributed_optimizer",
        "use_gloo_process_groups", "use_layer_wise_param_layout", "use_legacy_static_engine",
        "use_megatron_fsdp", "use_nccl_ub", "use_ring_exchange_p2p", "use_sharp", "use_torch_fsdp2",
        "use_torch_optimizer_for_cpu_offload", "use_tp_pp_dp_mapping",
        "virtual_pipeline_model_parallel_size", "wgrad_deferral_limit", "world_size",
        # Read only with what is compared: another position embedding, latent, windowed or linear
        # attention, several predicted tokens.
        "add_position_embedding", "beta_fast", "beta_slow", "cache_mla_latents",
        "disable_mamba_mem_eff_path", "dsa_kernel_backend",
        "experimental_attention_variant_loss_scale_func", "kv_lora_rank", "linear_conv_kernel_dim",
        "linear_key_head_dim", "linear_num_key_heads", "linear_num_value_heads",
        "linear_value_head_dim", "mscale", "mscale_all_dim", "mtp_detach_heads",
        "mtp_hybrid_override_pattern", "mtp_use_repeated_layer", "num_query_groups",
        "original_max_position_embeddings", "q_lora_rank", "qk_head_dim", "qk_pos_emb_head_dim",
        "relative_attention_max_distance", "relative_attention_num_buckets", "rope_scaling_factor",
        "rotary_scaling_factor", "use_mamba_mem_eff_path", "v_head_dim", "window_attn_skip_freq",
        # Other models of the same program.
        "block_data_path", "classes_fraction", "embedding_path", "evidence_data_path",
        "head_lr_mult", "img_h", "img_w", "iter_per_epoch", "mask_factor", "mask_type",
        "model_type", "num_channels", "num_classes", "output_bert_embeddings", "patch_dim",
        "query_in_block_prob", "swin_backbone_type", "titles_data_path", "use_one_sent_docs",
    }
)  # fmt: skip
"""Names of arguments that change nothing that the model computes, whatever their value."""

ROUNDING = ("fp4", "fp8", "kitchen_config_file", "kitchen_recipe_number", "quant_recipe",
            "te_precision_config_file", "use_kitchen", "use_kitchen_attention")  # fmt: skip
"""Switches of number formats that training computed in, beside the one that weights are stored in:
the model is the same, its outputs differ by rounding. A note names those that are on."""


def changes_nothing(name: str) -> bool:
    """Say whether an argument is known to change nothing that the model computes."""
    return name in HARMLESS or name.startswith(SUBJECTS)
