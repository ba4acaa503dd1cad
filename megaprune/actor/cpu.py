"""Let Megatron-core, which asks for CUDA by name, run on the CPU.

Every loaded module of megatron.core gets a stand-in for its global `torch`; torch itself stays as
it is, but for two methods of `Tensor` that no stand-in can reach. Where there is a GPU, none of
this is done.
"""

from __future__ import annotations

import sys
import types
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

_CPU = torch.device("cpu")
_MAKERS = ("tensor", "zeros", "ones", "empty", "full", "arange", "empty_like", "zeros_like")


class _Stream:
    """A stream of the CPU, and an event of it: whoever waits for it finds everything done."""

    def wait_stream(self, _: Any) -> None:
        return None

    def wait_event(self, _: Any) -> None:
        return None

    def record_event(self) -> _Stream:
        return self

    def wait(self, _: Any) -> None:
        return None

    def synchronize(self) -> None:
        return None


class _Cuda(types.ModuleType):
    """`torch.cuda` of a machine whose one device is the CPU."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cuda, name)

    def current_device(self) -> torch.device:
        return _CPU

    def is_available(self) -> bool:
        return False

    def synchronize(self, *_: Any) -> None:
        return None  # what the CPU was told is done

    def current_stream(self, *_: Any) -> _Stream:
        return _Stream()

    def Stream(self) -> _Stream:  # noqa: N802 - as torch.cuda has it
        return _Stream()

    def stream(self, _: Any) -> AbstractContextManager[None]:
        return nullcontext()

    def empty_cache(self) -> None:
        return None

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def get_rng_state(self, *_: Any, **__: Any) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, *_: Any, **__: Any) -> None:
        torch.set_rng_state(state)

    @property
    def random(self) -> _Cuda:
        return self


class _Torch(types.ModuleType):
    """`torch` with that `torch.cuda`; tensors asked for on "cuda" are made on the CPU."""

    def __init__(self) -> None:
        super().__init__("torch")
        self.cuda = _Cuda("torch.cuda")
        for name in _MAKERS:
            setattr(self, name, _on_cpu(getattr(torch, name)))

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def _on_cpu(make: Any) -> Any:
    def make_on_cpu(*arguments: Any, **options: Any) -> torch.Tensor:
        if "cuda" in str(options.get("device")):
            options["device"] = _CPU
        options.pop("pin_memory", None)
        return make(*arguments, **options)

    return make_on_cpu


_STAND_IN = _Torch()
_real_type = torch.Tensor.type


def redirect_cuda() -> None:
    """Make every module of megatron.core that is loaded use the CPU. Call it after importing them.

    May be called again, for modules that were loaded since.

    Raises:
        RuntimeError: there is a GPU, which Megatron-core can and should use.
    """
    if torch.cuda.is_available():
        raise RuntimeError("redirect_cuda: torch sees a GPU; Megatron-core does not need this")
    for name, module in list(sys.modules.items()):
        if name.startswith("megatron.core") and getattr(module, "torch", None) is torch:
            vars(module)["torch"] = _STAND_IN
    random = sys.modules.get("megatron.core.tensor_parallel.random")
    if random is not None:
        vars(random)["_set_cuda_rng_state"] = lambda state, *_, **__: torch.set_rng_state(state)
    torch.Tensor.cuda = lambda self, *_, **__: self
    torch.Tensor.type = _type_as_optimizers_ask


def _type_as_optimizers_ask(self: torch.Tensor, *arguments: Any, **options: Any) -> Any:
    # Megatron-core's optimizers tell fp32 from bf16 by the name of the CUDA tensor type.
    answer = _real_type(self, *arguments, **options)
    if arguments or options or not isinstance(answer, str):
        return answer
    asking = sys._getframe(1).f_globals.get("__name__", "")
    if asking.startswith("megatron.core.optimizer"):
        return answer.replace("torch.", "torch.cuda.", 1)
    return answer
