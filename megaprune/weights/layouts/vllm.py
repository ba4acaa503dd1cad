"""How vLLM arranges a decoder over the ranks of its tensor-parallel engines."""

from __future__ import annotations

from megaprune.weights.layouts import sharding
from megaprune.weights.layouts.base import Layout, Parameter, Shard
from megaprune.weights.model import Model

VOCAB_MULTIPLE = 64
"""vLLM pads the vocabulary to a multiple of this, whatever tp is (DEFAULT_VOCAB_PADDING_SIZE)."""


def vllm_layout(model: Model, tp: int = 1, engines: int = 1) -> Layout:
    """Lay out `engines` vLLM engines of `tp` contiguous ranks each.

    Names are those of `model.named_parameters()` inside a vLLM worker. Key and value heads are
    replicated where tp exceeds their number. A tied output layer has no parameter of its own.

    Raises:
        ValueError: tp does not divide the model; the message says which values do.
    """
    sharding.check_heads(model, "vLLM tp", tp)
    padded = sharding.round_up(model.vocab, VOCAB_MULTIPLE)

    def shard(rank: int) -> Shard:
        return tuple(
            sharding.parameter(
                model,
                row.vllm if layer is None else f"model.layers.{layer}.{row.vllm}",
                row,
                layer,
                tp,
                rank,
                padded,
                _blocked_qkv,
            )
            for row, layer in model.rows()
        )

    return Layout(model.tensors(), tuple(shard(rank) for rank in range(tp)) * engines)


def _blocked_qkv(
    model: Model, name: str, parts: list[sharding.Part], tp: int, rank: int
) -> Parameter:
    """Join [query; key; value], this rank's heads of each."""
    (q, q_shape), (k, kv_shape), (v, _) = parts
    queries = model.heads // tp * model.head_dim
    copies = max(1, tp // model.kv_heads)
    keys = max(1, model.kv_heads // tp) * model.head_dim
    first = rank // copies * keys
    return sharding.stacked_rows(
        name,
        [
            (q, q_shape, rank * queries, queries),
            (k, kv_shape, first, keys),
            (v, kv_shape, first, keys),
        ],
    )
