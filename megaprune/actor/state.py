"""The state of training as Megatron-core's distributed checkpoints keep it: any tp, pp and dp."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.dist_checkpointing.dict_utils import dict_list_map_outplace
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

State = dict[str, Any]
"""Megatron-core's sharded state dict: what this rank has of which tensor of the whole model."""


def sharded(
    chunks: torch.nn.ModuleList, optimizer: Any, loading: bool, frozen_layers: int = 0
) -> State:
    """Weights and optimizer state of this rank, to be saved, or to be loaded into.

    Args:
        chunks: this rank's part of the model.
        loading: the values are about to be replaced; a new optimizer then makes room for its own.
        frozen_layers: this many first layers have no optimizer state.
    """
    how = {
        # Saved by parameter, not by replica, so that another parallelism can read it.
        "distrib_optim_sharding_type": "fully_reshardable",
        # Gathered in the host's memory: on a GPU, beside an engine that is awake, it has no room.
        "distrib_optim_fully_reshardable_mem_efficient": True,
        "chained_optim_avoid_prefix": True,
        "dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True),
    }
    if loading:
        _make_room(optimizer)
    model = {
        f"model{number}": chunk.sharded_state_dict(metadata=how)
        for number, chunk in enumerate(chunks)
    }
    # Megatron-core takes the place of each state from that of its parameter.
    trained = dict_list_map_outplace(partial(_placed_after, frozen_layers), model)
    return {**model, "optimizer": optimizer.sharded_state_dict(trained, loading, metadata=how)}


def with_tensors(state: State, change: Callable[[torch.Tensor], torch.Tensor]) -> State:
    """Return a state with other tensors in place of its own, of the same shapes."""

    def changed(entry: Any) -> Any:
        if isinstance(entry, ShardedTensor | ShardedTensorFactory) and entry.data is not None:
            return replace(entry, data=change(entry.data))
        return entry

    return dict_list_map_outplace(changed, state)


def _placed_after(frozen_layers: int, entry: Any) -> Any:
    """Place a layer's tensor in a stack of the trained layers alone: a stack may have no holes."""
    if frozen_layers and isinstance(entry, ShardedTensorFactory):

        def build(*arguments: Any) -> Any:
            return dict_list_map_outplace(
                partial(_placed_after, frozen_layers), entry.build_fn(*arguments)
            )

        return replace(entry, build_fn=build)
    in_a_layer = isinstance(entry, ShardedTensor) and ".layers." in entry.key
    if not in_a_layer or entry.global_offset[0] < frozen_layers:
        return entry
    layers, *shape = entry.global_shape
    number, *offset = entry.global_offset
    parts, *others = entry.axis_fragmentations
    return replace(
        entry,
        global_shape=(layers - frozen_layers, *shape),
        global_offset=(number - frozen_layers, *offset),
        axis_fragmentations=(parts - frozen_layers, *others),
    )


def restore(chunks: torch.nn.ModuleList, optimizer: Any, state: Mapping[str, Any]) -> None:
    """Take over what was loaded into `sharded(..., loading=True)`."""
    for number, chunk in enumerate(chunks):
        chunk.load_state_dict(state[f"model{number}"])
    distributed = _distributed_over_torch_adam(optimizer)
    for single in distributed:
        single._set_main_param_and_optimizer_states = _Setter(single)
    try:
        optimizer.load_state_dict(state["optimizer"])
    finally:
        for single in distributed:
            del single._set_main_param_and_optimizer_states
    for single in distributed:
        # Megatron-core gives all parameters one and the same counter, and each would count on it.
        for kept in single.optimizer.state.values():
            kept["step"] = kept["step"].clone()


def single_optimizers(optimizer: Any) -> list[Any]:
    """Return the optimizers that an optimizer of Megatron-core is made of."""
    return list(getattr(optimizer, "chained_optimizers", [optimizer]))


def _distributed_over_torch_adam(optimizer: Any) -> list[Any]:
    """The distributed optimizers in an optimizer that stand on torch's own Adam."""
    return [
        single
        for single in single_optimizers(optimizer)
        if isinstance(single, DistributedOptimizer)
        and isinstance(single.optimizer, torch.optim.AdamW | torch.optim.Adam)
    ]


def _make_room(optimizer: Any) -> None:
    # Megatron-core's distributed optimizer asks torch's own Adam for the number of its steps, which
    # it has only once it has made one. (Apex's and Transformer Engine's keep it elsewhere.)
    for single in _distributed_over_torch_adam(optimizer):
        for group in single.optimizer.param_groups:
            for parameter in group["params"]:
                single.optimizer.state[parameter] = {
                    "step": torch.tensor(0.0),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }


class _Setter:
    """What Megatron-core 0.16 does with one parameter's loaded state, made right for torch's Adam.

    Its own writes into parameters that require gradients, and looks for a step among the tensors
    that were saved by parameter; that number is kept with the parameter groups.
    """

    def __init__(self, optimizer: DistributedOptimizer):
        self._optimizer = optimizer

    @torch.no_grad()
    def __call__(self, model_param: torch.nn.Parameter, tensors: Mapping[str, Any]) -> None:
        group, place = self._optimizer.model_param_group_index_map[model_param]
        inner = self._optimizer.optimizer
        parameter = inner.param_groups[group]["params"][place]
        for name, target in {"param": parameter, **inner.state[parameter]}.items():
            if name in tensors:
                target.copy_(tensors[name])
