"""A Megatron-core model of a Hugging Face folder: built, and filled with its weights."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import (
    TransformerBlockSubmodules,
    get_num_layers_to_build,
)
from megatron.core.transformer.transformer_config import TransformerConfig

from megaprune.actor import transformer_engine
from megaprune.actor.attention import PackedAttention
from megaprune.actor.rotary import PackedRotary, attention_factor, inverse_frequencies
from megaprune.distributed.device import device, random_numbers_kept
from megaprune.parallelism import Frozen, Parallel
from megaprune.weights.boxes import Box
from megaprune.weights.files.folder import Rearranged, Weights
from megaprune.weights.files.mapped import BAND_BYTES
from megaprune.weights.layouts import Layout, Parameter
from megaprune.weights.layouts.sharding import round_up
from megaprune.weights.model import Model
from megaprune.weights.rope import check_supported, context_of, rope_parameters


@cache
def has_transformer_engine() -> bool:
    """Whether layers are Transformer Engine's: on a GPU, where it can be loaded."""
    return device().type == "cuda" and transformer_engine.load()


def norms() -> str:
    """How the norms of the layers are named: "te" or "local" (`megatron_layout`)."""
    return "te" if has_transformer_engine() else "local"


class RMSNorm(torch.nn.RMSNorm):
    """The local spec's norm, which unlike Megatron-core's own knows sequence parallelism."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-6, **_: Any):
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype, device=device())
        # Each rank has gradients of its part of the tokens: Megatron-core sums those so marked.
        self.weight.sequence_parallel = config.sequence_parallel


class Decoder(GPTModel):
    """A GPTModel that ends with its last hidden states: logits are made chunk by chunk."""

    def _postprocess(self, hidden_states: torch.Tensor, **_: Any) -> torch.Tensor:
        return hidden_states

    def output_weight(self) -> torch.Tensor:
        """This rank's rows of the output layer (last stage)."""
        if self.share_embeddings_and_output_weights:
            weight: torch.Tensor = self.shared_embedding_or_output_weight()
        else:
            weight = self.output_layer.weight
        return weight


_RECOMPUTE: dict[str, dict[str, Any]] = {
    "none": {},
    "core_attention": {
        "recompute_granularity": "selective",
        "recompute_modules": ["core_attn"],
    },
    "full": {
        "recompute_granularity": "full",
        "recompute_method": "uniform",
        "recompute_num_layers": 1,
    },
}
"""Megatron-core's settings for what is computed again in the backward pass."""

_groups: tuple[Any, ...] | None = None


def start_megatron(parallel: Parallel) -> None:
    """Make Megatron-core's process groups, as this parallelism wants them."""
    if device().type == "cpu":
        from megaprune.actor.cpu import redirect_cuda

        redirect_cuda()
    # Megatron-core never ends its groups, which cost threads and memory: kept if they serve.
    global _groups
    chunks, wanted = parallel.pipeline.chunks, (parallel.tp, parallel.pipeline, dist.group.WORLD)
    if _groups == wanted and parallel_state.model_parallel_is_initialized():
        return
    parallel_state.destroy_model_parallel()
    _groups = wanted
    parallel_state.initialize_model_parallel(
        parallel.tp,
        parallel.pipeline.stages,
        virtual_pipeline_model_parallel_size=chunks if chunks > 1 else None,
        create_gloo_process_groups=True,
    )
    # Nothing is dropped out, so that no random numbers are drawn: the light tracker will do, and
    # the process's own random numbers stay as they are.
    with random_numbers_kept():
        model_parallel_cuda_manual_seed(0, inference_rng_tracker=True)


def transformer_config(
    model: Model,
    config: Mapping[str, Any],
    parallel: Parallel,
    dtype: torch.dtype,
    recompute: str = "none",
    deterministic: bool = False,
) -> TransformerConfig:
    """Megatron-core's settings for a model.

    Args:
        config: content of its config.json.
        dtype: of parameters and activations.
        recompute: "none", "core_attention" or "full" (each layer from its input).
        deterministic: whether all sums are added in a fixed order.

    Raises:
        InputError: the model asks for something that is not built here.
    """
    check_supported(config)
    pipeline, names = parallel.pipeline, {row.megatron for row in model.family.layer}
    stretch = attention_factor(rope_parameters(config))
    return TransformerConfig(
        num_layers=model.layers,
        hidden_size=model.hidden,
        ffn_hidden_size=model.ffn,
        num_attention_heads=model.heads,
        num_query_groups=model.kv_heads,
        kv_channels=model.head_dim,
        normalization="RMSNorm",
        layernorm_epsilon=config.get("rms_norm_eps") or 1e-6,
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        add_qkv_bias="self_attention.linear_qkv.bias" in names,
        qk_layernorm="self_attention.q_layernorm.weight" in names,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        attention_softmax_in_fp32=True,
        # YaRN lengthens queries and keys by a factor, and so their product by its square.
        softmax_scale=None if stretch == 1 else stretch**2 / model.head_dim**0.5,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype == torch.bfloat16,
        tensor_model_parallel_size=parallel.tp,
        sequence_parallel=parallel.sequence,
        pipeline_model_parallel_size=pipeline.stages,
        virtual_pipeline_model_parallel_size=pipeline.chunks if pipeline.chunks > 1 else None,
        num_layers_in_first_pipeline_stage=pipeline.first,
        num_layers_in_last_pipeline_stage=pipeline.last,
        # Micro-batches differ in length; megatron-core wants this dispatcher with it, MoE or not.
        variable_seq_lengths=pipeline.stages > 1,
        moe_token_dispatcher_type="alltoall",
        batch_p2p_comm=False,  # with two interleaved stages, a batch would mix up its messages
        use_cpu_initialization=device().type == "cpu",
        deterministic_mode=deterministic,
        perform_initialization=False,  # weights are read from the folder
        **_fusions(),
        **_RECOMPUTE[recompute],
    )


def _fusions() -> dict[str, bool]:
    """Megatron-core's settings for the kernels that apex or Transformer Engine bring."""
    fused = has_transformer_engine()
    # apex's kernel, which adds weight gradients into the fp32 buffer within the matrix product.
    accumulates = importlib.util.find_spec("fused_weight_gradient_mlp_cuda") is not None
    return {
        "apply_rope_fusion": fused,
        "masked_softmax_fusion": False,
        "bias_activation_fusion": fused,
        "bias_dropout_fusion": fused,
        "persist_layer_norm": False,
        "gradient_accumulation_fusion": device().type == "cuda" and accumulates,
    }


def _block_spec(transformer: TransformerConfig, vp_stage: int | None) -> Any:
    if has_transformer_engine():
        return get_gpt_layer_with_transformer_engine_spec(qk_layernorm=transformer.qk_layernorm)
    layer: ModuleSpec = get_gpt_layer_local_spec(
        normalization="RMSNorm", qk_layernorm=transformer.qk_layernorm
    )
    layer.submodules.input_layernorm = RMSNorm
    layer.submodules.pre_mlp_layernorm = RMSNorm
    attention = layer.submodules.self_attention.submodules
    attention.core_attention = PackedAttention
    if transformer.qk_layernorm:
        attention.q_layernorm = attention.k_layernorm = RMSNorm
    count = get_num_layers_to_build(transformer, vp_stage=vp_stage)
    return TransformerBlockSubmodules(layer_specs=[layer] * count, layer_norm=RMSNorm)


def build(
    model: Model, config: Mapping[str, Any], transformer: TransformerConfig
) -> torch.nn.ModuleList:
    """This rank's model chunks, with whatever weights; Megatron-core's groups must be there.

    Parameters are named as in `megatron_layout`.
    """
    virtual = transformer.virtual_pipeline_model_parallel_size
    frequencies = inverse_frequencies(rope_parameters(config), model.head_dim)
    chunks = []
    for number in range(virtual or 1):
        stage = number if virtual else None
        first = parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=stage)
        last = parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=stage)
        chunk = Decoder(
            config=transformer,
            transformer_layer_spec=_block_spec(transformer, stage),
            vocab_size=round_up(model.vocab, transformer.tensor_model_parallel_size),
            max_sequence_length=context_of(config),
            pre_process=first,
            post_process=last,
            share_embeddings_and_output_weights=model.tied,
            position_embedding_type="rope",
            vp_stage=stage,
        )
        if not has_transformer_engine():
            chunk.rotary_pos_emb = PackedRotary(
                kv_channels=model.head_dim,
                rotary_percent=1.0,
                use_cpu_initialization=transformer.use_cpu_initialization,
            )
        else:
            _fuse_weight_gradients(chunk)
        chunk.rotary_pos_emb.inv_freq = frequencies.clone()
        chunks.append(chunk.to(device=device(), dtype=transformer.params_dtype))
    return torch.nn.ModuleList(chunks)


def _fuse_weight_gradients(chunk: Decoder) -> None:
    """Have Transformer Engine add weight gradients to the fp32 buffer within the matrix product.

    Megatron-core's setting for that wants apex's kernel too, for an output layer whose own pass is
    not used here.
    """
    for module in chunk.modules():
        if hasattr(module, "fuse_wgrad_accumulation"):
            module.fuse_wgrad_accumulation = True


@torch.no_grad()
def fill(chunks: torch.nn.ModuleList, weights: Weights, layout: Layout) -> None:
    """Read this rank's weights, and no other bytes, from a folder.

    Args:
        weights: the open folder.
        layout: of the whole world; this rank's shard must be what `chunks` has.

    Raises:
        AssertionError: the layout and the model differ.
    """
    shard = layout.ranks[dist.get_rank()]
    mine = Rearranged(weights, Layout(layout.tensors, (shard,)))
    parameters = dict(chunks.named_parameters())
    expected = {parameter.name: parameter.shape for parameter in shard}
    seen = {name: tuple(p.shape) for name, p in parameters.items()}
    if seen != expected:
        difference = sorted(seen.items() ^ expected.items())[:6]
        raise AssertionError(f"the model differs from its layout: {difference}")
    for parameter in shard:
        target = parameters[parameter.name]
        # As Megatron-core's own initialisation marks it: what is not marked is the same on all
        # tensor-parallel ranks, and counts once in the norm of the gradient.
        target.tensor_model_parallel = any(
            piece.box.shape != layout.tensors[piece.tensor] for piece in parameter.pieces
        )
        # A band of the type in the file, then converted as it is copied.
        size = max(1, BAND_BYTES // target.element_size())
        for band in Box.whole(parameter.shape).bands(size):
            target[band.slices] = mine.read(parameter.name, band).to(target.device, target.dtype)


def freeze(
    chunks: torch.nn.ModuleList, shard: Sequence[Parameter], frozen: Frozen, recompute: str
) -> None:
    """Have a part of the model not trained.

    Args:
        shard: what of the layout this rank has.
    """
    parameters = dict(chunks.named_parameters())
    for parameter in shard:
        if frozen.includes(parameter):
            parameters[parameter.name].requires_grad_(False)
    if frozen.embedding and recompute == "full":
        _let_gradients_in(chunks)


def _let_gradients_in(chunks: torch.nn.ModuleList) -> None:
    """Make what a frozen embedding gives out require gradients.

    A layer that is computed again in the backward pass has gradients only if its input does.
    """

    def hook(_: Any, __: Any, out: torch.Tensor) -> torch.Tensor:
        wanted = torch.is_grad_enabled() and not out.requires_grad
        return out.detach().requires_grad_() if wanted else out

    for chunk in chunks:
        if chunk.pre_process:
            chunk.embedding.register_forward_hook(hook)


def unwrapped(stage: torch.nn.Module) -> Decoder:
    """The model chunk in a stage's wrappers."""
    while not isinstance(stage, Decoder):
        stage = stage.module
    return stage
