"""The state of training as Megatron-core's distributed checkpoints keep it: any tp, pp and dp."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.dist_checkpointing.dict_utils import dict_list_map_outplace
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from megatron.core.optimizer.cpu_offloading import HybridDeviceOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer import Float16OptimizerWithFloat16Params
from torch.optim import Optimizer

from megaprune.distributed.device import random_numbers_kept
from megaprune.distributed.objects import all_gather_object

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
    steps = _steps_made(optimizer)
    untrained = [single for single in _distributed(optimizer) if not _has_parameters(single)]
    with (
        _replaced(_distributed(optimizer), "get_parameter_state_dp_zero", _PaddedState),
        _replaced(untrained, "state_dict", lambda single: partial(_state_of_none, single, steps)),
    ):
        kept = optimizer.sharded_state_dict(trained, loading, metadata=how)
    _complete_untrained(optimizer, kept, steps)
    return {**model, "optimizer": kept}


def with_tensors(state: State, change: Callable[[torch.Tensor], torch.Tensor]) -> State:
    """Return a state with other tensors in place of its own, of the same shapes."""

    def changed(entry: Any) -> Any:
        if isinstance(entry, ShardedTensor | ShardedTensorFactory) and entry.data is not None:
            return replace(entry, data=change(entry.data))
        return change(entry) if isinstance(entry, torch.Tensor) else entry

    return dict_list_map_outplace(changed, state)


def _has_parameters(single: Any) -> bool:
    return any(group["params"] for group in single.optimizer.param_groups)


def _steps_made(optimizer: Any) -> Any:
    """The number of optimizer steps, as a rank that trains parameters keeps it. Collective.

    A checkpoint has one number for all parameters, which is the first rank's: if the stage of that
    rank is frozen, it does not know it by itself.
    """
    mine = None
    for single in single_optimizers(optimizer):
        if _has_parameters(single):
            states = (*single.optimizer.state.values(), *single.optimizer.param_groups)
            mine = next((state["step"] for state in states if "step" in state), mine)
    return next((steps for steps in all_gather_object(mine) if steps is not None), None)


def _state_of_none(single: DistributedOptimizer, steps: Any) -> State:
    """What is common to all parameters, of a distributed optimizer that has none.

    Megatron-core 0.16 takes the number of steps from the state of a parameter.
    """
    common = {k: v for k, v in single.optimizer.state_dict().items() if k != "state"}
    number = {} if steps is None else {"step": getattr(steps, "item", lambda: steps)()}
    groups = [
        {**{k: v for k, v in group.items() if k != "params"}, **number}
        for group in common["param_groups"]
    ]
    return {"optimizer": {**common, "param_groups": groups}}


def _complete_untrained(optimizer: Any, kept: Any, steps: Any) -> None:
    """Make what is kept of optimizers without parameters what is common to all ranks."""
    for single, state in _untrained_states(optimizer, kept):
        if isinstance(single, DistributedOptimizer):
            if not state["param_state"]:
                del state["param_state"]  # or it counts as common to all ranks
            continue
        state.pop(_MASTERS, None)  # an empty list does not go with those of other ranks
        if steps is not None:
            state.get("optimizer", state)["state"]["common_step"] = steps


def _untrained_states(optimizer: Any, kept: Any) -> Iterator[tuple[Any, Any]]:
    """The optimizers without parameters, each with what is kept of it."""
    singles = single_optimizers(optimizer)
    for number, single in enumerate(singles):
        if not _has_parameters(single):
            yield single, kept if len(singles) == 1 else kept[number]


_MASTERS = "fp32_from_fp16_params"
"""Where Megatron-core's bf16 optimizer, if it is not distributed, keeps its fp32 parameters."""


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
    for single, kept in _untrained_states(optimizer, state["optimizer"]):
        if isinstance(single, Float16OptimizerWithFloat16Params):
            kept.setdefault(_MASTERS, [])
    distributed = _distributed_over_torch_adam(optimizer)
    # Transformer Engine's Adam would hold its state twice, which may be more than a GPU has.
    inner = [s.optimizer for s in single_optimizers(optimizer) if s.optimizer is not None]
    with (
        _replaced(distributed, "_set_main_param_and_optimizer_states", _Setter),
        _replaced(inner, "load_state_dict", lambda adam: partial(Optimizer.load_state_dict, adam)),
    ):
        optimizer.load_state_dict(state["optimizer"])
    for number, chunk in enumerate(chunks):
        chunk.load_state_dict(state[f"model{number}"])
    for single in _distributed(optimizer):
        # Megatron-core gives all parameters one and the same counter, and each would count on it.
        for values in single.optimizer.state.values():
            if "step" in values:
                values["step"] = values["step"].clone()


def single_optimizers(optimizer: Any) -> list[Any]:
    """Return the optimizers that an optimizer of Megatron-core is made of."""
    return list(getattr(optimizer, "chained_optimizers", [optimizer]))


def _distributed(optimizer: Any) -> list[DistributedOptimizer]:
    """The distributed optimizers in an optimizer, of stages that are trained."""
    return [
        single
        for single in single_optimizers(optimizer)
        if isinstance(single, DistributedOptimizer) and not single.is_stub_optimizer
    ]


def _distributed_over_torch_adam(optimizer: Any) -> list[DistributedOptimizer]:
    """Those that stand on torch's own Adam."""
    return [
        single
        for single in _distributed(optimizer)
        if isinstance(single.optimizer, torch.optim.AdamW | torch.optim.Adam)
    ]


def _make_room(optimizer: Any) -> None:
    # Megatron-core's distributed optimizer asks torch's own Adam for the number of its steps, which
    # it has only once it has made one. (Apex's and Transformer Engine's keep it elsewhere.)
    for single in _distributed(optimizer):
        if isinstance(single.optimizer, HybridDeviceOptimizer) and not single.optimizer.state:
            with random_numbers_kept():
                single.optimizer.dummy_step()  # with random gradients; weights will be loaded, too
    for single in _distributed_over_torch_adam(optimizer):
        for group in single.optimizer.param_groups:
            for parameter in group["params"]:
                single.optimizer.state[parameter] = {
                    "step": torch.tensor(0.0),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }


@contextmanager
def _replaced(optimizers: Sequence[Any], method: str, by: Callable[[Any], Any]) -> Iterator[None]:
    """Have optimizers use another method for a while, made for each of them."""
    for single in optimizers:
        setattr(single, method, by(single))
    try:
        yield
    finally:
        for single in optimizers:
            delattr(single, method)


class _PaddedState:
    """What Megatron-core 0.16 gathers of the optimizer's state, placed as it then looks it up.

    It leaves out the padding that ends each bucket, and takes parameters from their places in the
    buffer that has it. With several buckets (a tied embedding that has a copy in another stage is
    one by itself), all parameters behind the first padding would be saved with others' values.
    """

    def __init__(self, optimizer: DistributedOptimizer):
        self._optimizer = optimizer

    def __call__(self, **options: Any) -> Any:
        gather = type(self._optimizer).get_parameter_state_dp_zero
        state = gather(self._optimizer, **options)
        for number, buffer in enumerate(self._optimizer.buffers if state else ()):
            for tensors in state[number].values():
                for name, gathered in tensors.items():
                    if isinstance(gathered, torch.Tensor):
                        tensors[name] = _with_padding(gathered, buffer)
        return state


def _with_padding(gathered: torch.Tensor, buffer: Any) -> torch.Tensor:
    """Place the buckets of a buffer, which lie one behind the other, where they begin in it."""
    if len(buffer.buckets) == 1:
        return gathered
    whole = gathered.new_zeros(buffer.numel)
    start = 0
    for bucket in buffer.buckets:
        end = start + bucket.numel_unpadded
        whole[bucket.offset : bucket.offset + bucket.numel_unpadded] = gathered[start:end]
        start = end
    return whole


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
