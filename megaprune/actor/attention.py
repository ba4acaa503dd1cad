"""Core attention over packed sequences: one interface, the best kernel that is there.

With Transformer Engine, Megatron-core's own `TEDotProductAttention` is used (build.py) and of this
file only `stream_of`. Otherwise: torch's variable-length flash attention on a GPU in bf16; on a CPU
or in fp32, torch's `scaled_dot_product_attention` for one sequence after another. All are causal
within each sequence.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.packed_seq_params import PackedSeqParams

from megaprune.actor.packing import Packed
from megaprune.distributed.device import send


@dataclass
class Stream(PackedSeqParams):
    """Where the sequences of a packed stream lie, as Megatron-core hands it down to attention.

    Args:
        positions: [T], from 0 within each sequence.
        bounds: 0, ..., T as numbers, so that nobody waits for a device to read them.
    """

    positions: torch.Tensor | None = None
    bounds: tuple[int, ...] = ()


def stream_of(packed: Packed, qkv_format: str) -> Stream:
    """What attention needs to know of a packed micro-batch.

    Args:
        qkv_format: "thd" for Transformer Engine, which rotates by `cu_seqlens` itself; any other
            makes Megatron-core apply the angles that `PackedRotary` (rotary.py) picked by position.
    """
    offsets = send(torch.tensor(packed.bounds, dtype=torch.int32), packed.tokens.device)
    longest = max(b - a for a, b in zip(packed.bounds, packed.bounds[1:], strict=False))
    return Stream(
        qkv_format=qkv_format,
        cu_seqlens_q=offsets,
        cu_seqlens_kv=offsets,
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
        positions=packed.positions,
        bounds=packed.bounds,
    )


class PackedAttention(torch.nn.Module):
    """Causal attention within each sequence of a stream. No parameters, no dropout."""

    def __init__(self, config: Any, softmax_scale: float | None = None, **_: Any):
        super().__init__()
        self.scale = softmax_scale
        self.config = config

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        packed_seq_params: Stream,
        **_: Any,
    ) -> torch.Tensor:
        """Attend.

        Args:
            query: [T, 1, heads of this rank, head_dim].
            key, value: [T, 1, key heads of this rank, head_dim].
            packed_seq_params: where the sequences lie.

        Returns:
            [T, 1, heads * head_dim].
        """
        # The variable-length kernel has no fp32.
        half = query.dtype in (torch.float16, torch.bfloat16)
        attend = _varlen if query.is_cuda and half else _one_by_one
        out = attend(query[:, 0], key[:, 0], value[:, 0], packed_seq_params, self.scale)
        return out.reshape(query.shape[0], 1, -1)


def _varlen(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, stream: Stream, scale: float | None
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    # torch 2.10 has is_causal, later releases a window instead; some cannot share key heads.
    known = inspect.signature(varlen_attn).parameters
    options: dict[str, Any] = {"scale": scale} if "scale" in known else {}
    if scale is not None and not options:
        query = query * (scale * query.shape[2] ** 0.5)  # the kernel divides by that root
    options |= {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    if key.shape[1] != query.shape[1]:
        if "enable_gqa" in known:
            options["enable_gqa"] = True
        else:
            repeats = query.shape[1] // key.shape[1]
            key, value = (x.repeat_interleave(repeats, 1) for x in (key, value))
    offsets, longest = stream.cu_seqlens_q, stream.max_seqlen_q
    out: torch.Tensor = varlen_attn(
        query, key, value, offsets, offsets, longest, longest, **options
    )
    return out


def _one_by_one(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, stream: Stream, scale: float | None
) -> torch.Tensor:
    lengths = [stop - start for start, stop in pairwise(stream.bounds)]
    # Split once: the gradient of each slice by itself would be as long as the stream.
    split = (x.transpose(0, 1)[None].split(lengths, 2) for x in (query, key, value))
    grouped = key.shape[1] != query.shape[1]
    outs = [
        F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=grouped)
        for q, k, v in zip(*split, strict=True)
    ]
    return torch.cat(outs, 2)[0].transpose(0, 1)
