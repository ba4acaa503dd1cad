"""The rotation of queries and keys: the frequencies of every type that is built, and packed angles.

Megatron-core has formulas of its own, for some types and with some settings fixed; the modules here
are given these frequencies instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding

from megaprune.actor.attention import Stream


def inverse_frequencies(rope: Mapping[str, Any], head_dim: int) -> torch.Tensor:
    """Angle per position of each pair of dimensions, [head_dim / 2] in fp32 on the CPU.

    Computed as transformers does (`modeling_rope_utils`), operation by operation: at position
    30,000, a difference in the last digit is one of 0.002 in the angle.

    Args:
        rope: what `weights.rope.rope_parameters` gives, of a type that is built.
    """
    base, kind = rope["rope_theta"], rope["rope_type"]
    with torch.device("cpu"):
        powers = base ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        frequencies = 1.0 / powers
        if kind == "linear":
            return frequencies / rope["factor"]
        if kind == "llama3":
            return _llama3(frequencies, rope)
        if kind == "yarn":
            kept = 1 - _ramp(rope, head_dim)
            return 1.0 / (rope["factor"] * powers) * (1 - kept) + frequencies * kept
        assert kind == "default", "weights.rope.check_supported refuses this"
        return frequencies


def attention_factor(rope: Mapping[str, Any]) -> float:
    """By what YaRN multiplies rotated queries and keys; 1 for other types."""
    return float(rope.get("attention_factor", 1.0))


def _llama3(frequencies: torch.Tensor, rope: Mapping[str, Any]) -> torch.Tensor:
    """Slow ones are divided by the factor, fast ones stay, those in between are interpolated."""
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    context = rope["original_max_position_embeddings"]
    length = 2 * math.pi / frequencies
    scaled = torch.where(length > context / low, frequencies / factor, frequencies)
    smooth = (context / length - low) / (high - low)
    between = ~(length < context / high) & ~(length > context / low)
    return torch.where(between, (1 - smooth) * scaled / factor + smooth * scaled, scaled)


def _ramp(rope: Mapping[str, Any], head_dim: int) -> torch.Tensor:
    """YaRN's part of interpolation, from 0 for the fastest frequencies to 1 for the slowest."""

    def dimension(rotations: float) -> float:
        """Which pair turns so often within the original context."""
        context = rope["original_max_position_embeddings"]
        turns = math.log(context / (rotations * 2 * math.pi))
        return head_dim * turns / (2 * math.log(rope["rope_theta"]))

    low, high = dimension(rope["beta_fast"]), dimension(rope["beta_slow"])
    if rope["truncate"]:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001
    pairs = torch.arange(head_dim // 2, dtype=torch.float32)
    return torch.clamp((pairs - low) / (high - low), 0, 1)


class PackedRotary(RotaryEmbedding):
    """Rotary angles of each token of a packed stream, picked once for all layers."""

    def get_rotary_seq_len(self, *arguments: Any, **options: Any) -> int:
        """Length of the longest sequence; remembers the positions that `forward` picks."""
        packed: Stream = options.get("packed_seq_params") or arguments[4]
        self._positions = packed.positions
        return int(packed.max_seqlen_q)

    def forward(self, max_seq_len: int, *_: Any, **__: Any) -> torch.Tensor:
        """[T, 1, 1, head_dim]."""
        return self.get_emb(max_seq_len)[self._positions]
