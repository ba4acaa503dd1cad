"""The model's gradient buffers, and Megatron-core's optimizer over them."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core import optimizer as megatron_optimizer
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.optimizer import optimizer_config
from megatron.core.transformer.module import Float16Module
from megatron.core.transformer.transformer_config import TransformerConfig

from megaprune.actor.build import has_transformer_engine
from megaprune.actor.state import single_optimizers
from megaprune.config.run import OptimizerConfig
from megaprune.distributed.device import device


def with_gradients(
    chunks: torch.nn.ModuleList, transformer: TransformerConfig, config: OptimizerConfig
) -> list[torch.nn.Module]:
    """The model's chunks, each with its buffer of fp32 gradients."""
    stages: list[torch.nn.Module] = []
    for chunk in chunks:
        stages.append(
            DistributedDataParallel(
                config=transformer,
                ddp_config=DistributedDataParallelConfig(
                    grad_reduce_in_fp32=True,
                    use_distributed_optimizer=config.distributed,
                ),
                module=Float16Module(transformer, chunk) if transformer.bf16 else chunk,
            )
        )
        stages[-1].model_type = chunk.model_type
    return stages


def make_optimizer(
    stages: list[torch.nn.Module], transformer: TransformerConfig, config: OptimizerConfig
) -> Any:
    """Adam over all stages; `transformer` learns how gradients are finished and scaled."""
    if config.on_cpu:
        _prepare_hybrid_optimizer()
    optimizer = megatron_optimizer.get_megatron_optimizer(
        megatron_optimizer.OptimizerConfig(
            optimizer="adam",
            lr=config.lr,
            weight_decay=config.weight_decay,
            adam_beta1=config.beta1,
            adam_beta2=config.beta2,
            clip_grad=config.clip_grad,
            bf16=transformer.bf16,
            params_dtype=transformer.params_dtype,
            use_distributed_optimizer=config.distributed,
            **_on_cpu(config.on_cpu),
        ),
        stages,
        use_gloo_process_groups=True,
    )
    if config.on_cpu:
        _without_classes(optimizer)
    transformer.finalize_model_grads_func = finalize_model_grads
    transformer.grad_scale_func = optimizer.scale_loss if transformer.bf16 else None
    return optimizer


def _on_cpu(share: float) -> dict[str, Any]:
    """Megatron-core's settings for a share of the state that the CPU keeps and updates."""
    if not share:
        return {}
    return {
        "optimizer_cpu_offload": True,
        "optimizer_offload_fraction": share,
        "overlap_cpu_optimizer_d2h_h2d": True,
        # The fp32 masters are then the hybrid optimizer's, each where it is updated.
        "use_precision_aware_optimizer": True,
    }


def _prepare_hybrid_optimizer() -> None:
    if not has_transformer_engine():
        # Megatron-core 0.16 asks for its version, whether it is there or not.
        vars(optimizer_config)["is_te_min_version"] = lambda *_, **__: False
    if device().type == "cpu":
        from megaprune.actor.cpu_hybrid import redirect_hybrid_optimizer

        redirect_hybrid_optimizer()


def _without_classes(optimizer: Any) -> None:
    """Take classes out of a hybrid optimizer's groups: no checkpoint holds them, it has its own."""
    for single in single_optimizers(optimizer):
        for group in single.optimizer.param_groups if single.optimizer else ():
            for name in ("cpu_optimizer_cls", "gpu_optimizer_cls"):
                group.pop(name, None)
