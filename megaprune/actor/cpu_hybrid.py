"""Let Megatron-core's hybrid optimizer run on the CPU, with one half of it in a GPU's place.

It tells tensors of the host from others by asking whether they are on CUDA. Here all are, but for
those that it has made page-locked. Where there is a GPU, none of this is done.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from megatron.core.optimizer.cpu_offloading import hybrid_optimizer

_real_is_cuda, _real_pin_memory = torch.Tensor.is_cuda, torch.Tensor.pin_memory


class _OnHost(torch.Tensor):
    """A tensor that is taken for one of the host; so is what is made of it."""


def redirect_hybrid_optimizer() -> None:
    """Have the hybrid optimizer divide tensors as it would between a GPU and its host."""
    torch.Tensor.is_cuda = property(_is_cuda)
    torch.Tensor.pin_memory = _pin_memory
    optimizer = hybrid_optimizer.HybridDeviceOptimizer
    optimizer._move_new_state_to_right_device = lambda self: None  # it is there


def _is_cuda(tensor: torch.Tensor) -> bool:
    if _hybrid_optimizer_asks():
        return not isinstance(tensor, _OnHost)
    return bool(_real_is_cuda.__get__(tensor))


def _pin_memory(tensor: torch.Tensor, *arguments: Any) -> torch.Tensor:
    if _hybrid_optimizer_asks():
        return tensor.as_subclass(_OnHost)
    return _real_pin_memory(tensor, *arguments)


def _hybrid_optimizer_asks() -> bool:
    return sys._getframe(2).f_globals.get("__name__") == hybrid_optimizer.__name__
