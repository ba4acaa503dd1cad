"""Transformer Engine's own Python on a CPU: torch stands in for its compiled half.

`install()` makes `import transformer_engine` give the real package, as its wheel has it, over a
stand-in of `transformer_engine_torch`. Modules, names of parameters, signatures and the optimizer
are those of the package. Where it would call a kernel, torch computes the same instead: in
`forward` of the layers that Megatron-core builds on, which bind their arguments to the signatures
of the package, and in the kernels of the optimizer. A kernel that is not here raises if it is used.

Call `install()` before Megatron-core is imported. Afterwards `megaprune.actor.build` makes layers of
Transformer Engine, or, within `local_layers()`, its own.
"""

from __future__ import annotations

import enum
import importlib
import importlib.machinery
import importlib.util
import inspect
import os
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import _dynamo

import wheels
from megaprune.distributed.process import importing

_ENUMS = {
    "DType": "kByte kInt32 kFloat32 kFloat16 kBFloat16 kFloat8E4M3 kFloat8E5M2 kFloat4E2M1",
    "NVTE_Fused_Attn_Backend": "NVTE_No_Backend NVTE_F16_arbitrary_seqlen NVTE_FP8",
}
"""Those that the package compares with its own as it is imported."""


class _Absent(type):
    """A name of the compiled half that is there to be imported, and not to be used."""

    def __getattr__(cls, name: str) -> _Absent:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Absent(f"{cls.__name__}.{name}", (), {})

    def __int__(cls) -> int:
        return 0

    def __call__(cls, *_: Any, **__: Any) -> Any:
        raise NotImplementedError(f"{cls.__name__} of Transformer Engine's compiled half")


class _Compiled(types.ModuleType):
    """A module in which every name is there."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = _Absent(name, (), {})
        setattr(self, name, value)
        return value


def install() -> None:
    """Import Transformer Engine over its stand-in, and Megatron-core and the actor on it.

    Raises:
        wheels.Unavailable: the package is neither in the cache nor to be had.
    """
    if "megatron.core" in sys.modules:
        raise RuntimeError("Megatron-core was imported before Transformer Engine's stand-in")
    folder = wheels.files(*wheels.TRANSFORMER_ENGINE)
    with importing():
        _import_package(folder)
        _replace_kernels()


def _replace_kernels() -> None:
    import transformer_engine.pytorch as te
    from transformer_engine.pytorch.attention import rope

    for module, compute in (
        (te.Linear, _linear),
        (te.LayerNormLinear, _norm_linear),
        (te.RMSNorm, _norm),
        (te.DotProductAttention, _attention),
    ):
        module.forward = _bound(module.forward, compute)
    from megatron.core.extensions import transformer_engine as extension

    import megaprune.actor.actor

    assert extension.HAVE_TE
    _redirect_cuda()
    extension.apply_rotary_pos_emb = _unfused(rope.apply_rotary_pos_emb)
    megaprune.actor.build.has_transformer_engine = lambda: _layers == "te"


def _redirect_cuda() -> None:
    """Have the package's modules, as Megatron-core's, take the CPU for the one device."""
    from megatron.core import utils

    from megaprune.actor.cpu import redirect_cuda

    redirect_cuda()
    # Of its own: the package refuses to work without a GPU, Megatron-core's must not see one.
    stand_in = type(utils.torch)()
    stand_in.cuda.is_available = lambda: True
    stand_in.cuda.get_device_properties = lambda *_: types.SimpleNamespace(
        major=9, minor=0, multi_processor_count=132, total_memory=80 << 30
    )
    for name, module in list(sys.modules.items()):
        if name.startswith("transformer_engine.") and vars(module).get("torch") is torch:
            vars(module)["torch"] = stand_in


_layers = "te"


@contextmanager
def local_layers() -> Iterator[None]:
    """An actor that is built here has layers as without Transformer Engine."""
    global _layers
    _layers = "local"
    try:
        yield
    finally:
        _layers = "te"


def _import_package(folder: Path) -> None:
    os.environ["NVTE_PROJECT_BUILDING"] = "1"  # no library of CUDA is looked for
    _dynamo.config.disable = True  # the package and Megatron-core compile what they fuse
    compiled = _Compiled("transformer_engine_torch")
    for name, members in _ENUMS.items():
        setattr(compiled, name, enum.IntEnum(name, members, start=0))
    for kernel in (
        multi_tensor_adam, multi_tensor_l2norm, multi_tensor_scale, multi_tensor_scale_tensor
    ):  # fmt: skip
        setattr(compiled, kernel.__name__, kernel)
    sys.modules["transformer_engine_torch"] = compiled
    # It wants onnxscript, which nothing of ours needs.
    name = "transformer_engine.pytorch.onnx_extensions"
    sys.modules[name] = _Compiled(name)
    sys.path.insert(0, str(folder))
    # Its loader of the compiled half is replaced before the package, which calls it, is imported.
    spec = importlib.machinery.PathFinder.find_spec(
        "transformer_engine.common", [str(folder / "transformer_engine")]
    )
    assert spec is not None
    assert spec.loader is not None
    common = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = common
    spec.loader.exec_module(common)
    common.load_framework_extension = lambda _: None  # type: ignore[attr-defined]
    package = importlib.import_module("transformer_engine")
    package.common = common  # type: ignore[attr-defined]
    importlib.import_module("transformer_engine.pytorch")


def _bound(real: Callable[..., Any], compute: Callable[..., Any]) -> Callable[..., Any]:
    """`compute`, called by name with what a caller gives to `real`."""
    signature = inspect.signature(real)

    def forward(*arguments: Any, **options: Any) -> Any:
        return compute(**signature.bind(*arguments, **options).arguments)

    forward.__signature__ = signature  # type: ignore[attr-defined]
    return forward


def _unfused(rotate: Callable[..., Any]) -> Callable[..., Any]:
    """The package's rotation without its kernel."""
    signature = inspect.signature(rotate)

    def forward(*arguments: Any, **options: Any) -> Any:
        bound = signature.bind(*arguments, **options)
        bound.arguments["fused"] = False
        return rotate(*bound.args, **bound.kwargs)

    return forward


# The layers. `self` is the package's module: its parameters, its settings.


def _normed(self: Any, inp: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    assert not self.zero_centered_gamma
    return F.rms_norm(inp, inp.shape[-1:], weight, self.eps)


def _norm(self: Any, input: torch.Tensor) -> torch.Tensor:
    return _normed(self, input, self.weight)


def _norm_linear(self: Any, inp: torch.Tensor, is_first_microbatch: bool | None = None) -> Any:
    assert self.normalization == "RMSNorm"
    assert not self.return_layernorm_output
    return _linear(self, _normed(self, inp, self.layer_norm_weight), is_first_microbatch)


class _Fused(torch.autograd.Function):
    """A multiplication whose weight gradient goes into `main_grad`, as the package's own does it.

    What autograd gets for the weight is without meaning, and must not be added to anything.
    """

    @staticmethod
    def forward(ctx: Any, inp: torch.Tensor, weight: torch.Tensor, first: bool | None) -> Any:
        ctx.save_for_backward(inp)
        ctx.weight, ctx.first = weight, first
        return torch.matmul(inp, weight.t())

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        (inp,), weight = ctx.saved_tensors, ctx.weight
        if not weight.requires_grad:
            return grad @ weight, None, None
        of_weight = grad.flatten(0, -2).t() @ inp.flatten(0, -2)
        if ctx.first:
            weight.main_grad.copy_(of_weight)
        else:
            weight.main_grad.add_(of_weight)
        weight.grad_added_to_main_grad = True
        return grad @ weight, torch.full_like(weight, float("nan")), None


def _linear(self: Any, inp: torch.Tensor, is_first_microbatch: bool | None = None) -> Any:
    from megatron.core import tensor_parallel as tp

    split = self.tp_size > 1
    sequence = split and self.sequence_parallel
    if self.parallel_mode == "column" and sequence:
        inp = tp.gather_from_sequence_parallel_region(inp, group=self.tp_group)
    elif self.parallel_mode == "column" and split:
        inp = tp.copy_to_tensor_model_parallel_region(inp, group=self.tp_group)
    if self.fuse_wgrad_accumulation:
        out = _Fused.apply(inp, self.weight, is_first_microbatch)
    else:
        out = torch.matmul(inp, self.weight.t())
    if self.parallel_mode == "row" and sequence:
        out = tp.reduce_scatter_to_sequence_parallel_region(out, group=self.tp_group)
    elif self.parallel_mode == "row" and split:
        out = tp.reduce_from_tensor_model_parallel_region(out, group=self.tp_group)
    bias = self.bias if self.use_bias else None
    if self.return_bias:
        return out, bias
    return out if bias is None else out + bias


def _attention(
    self: Any,
    query_layer: torch.Tensor,
    key_layer: torch.Tensor,
    value_layer: torch.Tensor,
    attention_mask: None,
    qkv_format: str,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_kv: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_kv: int,
    attn_mask_type: str,
    **others: Any,
) -> torch.Tensor:
    """Of packed sequences, [tokens, heads, head_dim]: all that the actor asks for."""
    assert (qkv_format, attn_mask_type) == ("thd", "padding_causal"), (qkv_format, attn_mask_type)
    assert not any(value is not None for value in others.values()), others
    assert cu_seqlens_q.dtype == cu_seqlens_kv.dtype == torch.int32
    assert query_layer.dim() == 3
    bounds = cu_seqlens_q.tolist()
    lengths = [stop - start for start, stop in pairwise(bounds)]
    assert bounds == cu_seqlens_kv.tolist()
    assert bounds[-1] == len(query_layer)
    assert max_seqlen_q == max_seqlen_kv == max(lengths), "max_seqlen_q, max_seqlen_kv"
    split = (
        x.transpose(0, 1)[None].split(lengths, 2) for x in (query_layer, key_layer, value_layer)
    )
    outs = [
        F.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=self.softmax_scale, enable_gqa=q.shape[1] != k.shape[1]
        )
        for q, k, v in zip(*split, strict=True)
    ]
    return torch.cat(outs, 2)[0].transpose(0, 1).flatten(1)


# The kernels of the optimizer, with the arguments that the package and Megatron-core give them.

Lists = list[list[torch.Tensor]]


def multi_tensor_l2norm(
    chunk_size: int, overflow: torch.Tensor, lists: Lists, per_tensor: bool = False
) -> tuple[torch.Tensor, None]:
    assert not per_tensor
    norms = torch.stack([torch.linalg.vector_norm(x) for x in lists[0]])
    return torch.linalg.vector_norm(norms).reshape(1), None


def multi_tensor_scale(chunk_size: int, overflow: torch.Tensor, lists: Lists, scale: float) -> None:
    for source, target in zip(*lists, strict=True):
        target.copy_(source * scale)


def multi_tensor_scale_tensor(
    chunk_size: int, overflow: torch.Tensor, lists: Lists, scale: torch.Tensor
) -> None:
    multi_tensor_scale(chunk_size, overflow, lists, scale.item())


def multi_tensor_adam(
    chunk_size: int, overflow: torch.Tensor, lists: Lists, lr: float, beta1: float, beta2: float,
    eps: float, step: int, decoupled: int, bias_correction: int, weight_decay: float,
) -> None:  # fmt: skip
    assert decoupled
    assert bias_correction
    for gradient, weight, mean, square in zip(*lists, strict=True):
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        root = (square / (1 - beta2**step)).sqrt().add_(eps)
        weight.mul_(1 - lr * weight_decay).addcdiv_(mean, root, value=-lr / (1 - beta1**step))
