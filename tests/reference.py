"""The arrangements of weights once more, written down with array operations instead of boxes.

What the layouts say must agree with this, element by element. The formulas are those of the
engines' own weight loaders: Megatron-core interleaves [queries of a group, key, value] per query
group and joins each rank's share of gate and up; vLLM joins each rank's heads of q, k and v.
"""

from __future__ import annotations

import numpy as np

from megaprune.recipes.tiny_models import FAMILIES
from megaprune.weights.layouts import Layout
from megaprune.weights.model import Model

Arrays = dict[str, np.ndarray]

TINY_MODELS = {
    **{family: (family, {}) for family in FAMILIES},
    "qwen2-tied": ("qwen2", {"tie_word_embeddings": True}),
}
"""A tiny model of every family in the table, and one with a tied head: what `make_tiny` is given."""

QWQ_AT_TP8 = [
    "recipe=qwq_32b_paper", "actor.tp=8", "actor.pp=2", "actor.recompute=full", "actor.max_tokens=8192",
    "actor.offload=none", "rollout.tp=8", "rollout.gpu_memory_utilization=0.6",
]  # fmt: skip
"""QwQ-32B on 4 x 8 GPUs in the parallelism whose plan tests work out by hand."""

_ORIGINAL = {"original_max_position_embeddings": 8}
_ROTATIONS = {
    "llama": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
              "high_freq_factor": 4.0, "rope_theta": 500.0, **_ORIGINAL},
    "qwen3": {"rope_type": "yarn", "factor": 16.0, "rope_theta": 1e6, **_ORIGINAL},
    "qwen2-tied": {"rope_type": "linear", "factor": 4, "rope_theta": 10.5},
}  # fmt: skip

ROTATED_MODELS = {
    name: (family, config | ({"rope_parameters": _ROTATIONS[name]} if name in _ROTATIONS else {}))
    for name, (family, config) in TINY_MODELS.items()
}
"""The same models, each with another rotation, whose original context is shorter than the tests'
sequences. Megatron-core's own model has none of them as they are here."""


def logical(model: Model) -> Arrays:
    """Every Hugging Face tensor, each element another number (from 1: 0 is for padding)."""
    arrays, first = {}, 1
    for name, shape in model.tensors().items():
        size = int(np.prod(shape))
        arrays[name] = np.arange(first, first + size, dtype=np.int64).reshape(shape)
        first += size
    return arrays


def padded(array: np.ndarray, rows: int) -> np.ndarray:
    extra = np.zeros((rows - len(array), *array.shape[1:]), array.dtype)
    return np.concatenate([array, extra])


def megatron_rank(
    model: Model,
    arrays: Arrays,
    tp: int,
    rank: int,
    chunks: list[range],
    first: bool,
    last: bool,
    padded_vocab: int,
    norms: str,
) -> Arrays:
    """Parameters of one tensor-parallel rank of one pipeline stage."""
    out: Arrays = {}
    groups, head = model.kv_heads, model.head_dim

    def column(array: np.ndarray) -> np.ndarray:
        return np.split(array, tp, 0)[rank]

    def row(array: np.ndarray) -> np.ndarray:
        return np.split(array, tp, 1)[rank]

    def qkv(kind: str, layer: int) -> np.ndarray:
        q, k, v = (arrays[f"model.layers.{layer}.self_attn.{x}_proj.{kind}"] for x in "qkv")
        tail = q.shape[1:]
        q = q.reshape(groups, -1, *tail)
        k, v = k.reshape(groups, head, *tail), v.reshape(groups, head, *tail)
        return np.concatenate([q, k, v], 1).reshape(-1, *tail)

    if first:
        out["0.embedding.word_embeddings.weight"] = column(
            padded(arrays["model.embed_tokens.weight"], padded_vocab)
        )
    for chunk, layers in enumerate(chunks):
        for local, layer in enumerate(layers):
            to, hf = f"{chunk}.decoder.layers.{local}.", f"model.layers.{layer}."
            names = (
                "self_attention.linear_qkv.layer_norm_weight",
                "mlp.linear_fc1.layer_norm_weight",
            )
            if norms == "local":
                names = ("input_layernorm.weight", "pre_mlp_layernorm.weight")
            out[to + names[0]] = arrays[hf + "input_layernorm.weight"]
            out[to + names[1]] = arrays[hf + "post_attention_layernorm.weight"]
            for kind in ("weight", "bias"):
                if f"{hf}self_attn.q_proj.{kind}" in arrays:
                    out[f"{to}self_attention.linear_qkv.{kind}"] = column(qkv(kind, layer))
            for x in "qk":
                if f"{hf}self_attn.{x}_norm.weight" in arrays:
                    key = {"q": "q_layernorm", "k": "k_layernorm"}[x]
                    norm = arrays[f"{hf}self_attn.{x}_norm.weight"]
                    out[f"{to}self_attention.{key}.weight"] = norm
            out[to + "self_attention.linear_proj.weight"] = row(
                arrays[hf + "self_attn.o_proj.weight"]
            )
            gate, up = arrays[hf + "mlp.gate_proj.weight"], arrays[hf + "mlp.up_proj.weight"]
            out[to + "mlp.linear_fc1.weight"] = np.concatenate([column(gate), column(up)])
            out[to + "mlp.linear_fc2.weight"] = row(arrays[hf + "mlp.down_proj.weight"])
    if last:
        chunk = len(chunks) - 1
        out[f"{chunk}.decoder.final_layernorm.weight"] = arrays["model.norm.weight"]
        if not model.tied:
            head_weight = arrays["lm_head.weight"]
            out[f"{chunk}.output_layer.weight"] = column(padded(head_weight, padded_vocab))
        elif not (first and chunk == 0):
            embedding = arrays["model.embed_tokens.weight"]
            out[f"{chunk}.output_layer.weight"] = column(padded(embedding, padded_vocab))
    return out


def vllm_rank(model: Model, arrays: Arrays, tp: int, rank: int) -> Arrays:
    """Parameters of one rank of a vLLM engine."""
    out: Arrays = {}
    replicas = max(1, tp // model.kv_heads)

    def share(array: np.ndarray, axis: int, parts: int = tp, part: int = rank) -> np.ndarray:
        return np.split(array, parts, axis)[part]

    vocab = -(-model.vocab // 64) * 64
    out["model.embed_tokens.weight"] = share(padded(arrays["model.embed_tokens.weight"], vocab), 0)
    if not model.tied:
        out["lm_head.weight"] = share(padded(arrays["lm_head.weight"], vocab), 0)
    for name, array in arrays.items():
        if name.endswith("norm.weight"):
            out[name] = array
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            out[name] = share(array, 1)
        elif "q_proj" in name:
            k, v = (arrays[name.replace("q_proj", f"{x}_proj")] for x in "kv")
            keys = [share(x, 0, tp // replicas, rank // replicas) for x in (k, v)]
            out[name.replace("q_proj", "qkv_proj")] = np.concatenate([share(array, 0), *keys])
        elif "gate_proj" in name:
            up = arrays[name.replace("gate_proj", "up_proj")]
            out[name.replace("gate_proj", "gate_up_proj")] = np.concatenate(
                [share(array, 0), share(up, 0)]
            )
    return out


def materialise(layout: Layout, rank: int, arrays: Arrays) -> Arrays:
    """What a layout says that a rank holds; raises unless every element is said exactly once."""
    out: Arrays = {}
    for parameter in layout.ranks[rank]:
        array = np.full(parameter.shape, -1, np.int64)
        for piece in parameter.pieces:
            target = array[piece.at.slices]
            assert (target == -1).all(), f"{parameter.name}: elements are laid out twice"
            target[...] = arrays[piece.tensor][piece.box.slices].reshape(target.shape)
        for box in parameter.padding:
            assert (array[box.slices] == -1).all(), f"{parameter.name}: padding over weights"
            array[box.slices] = 0
        assert (array != -1).all(), f"{parameter.name}: elements are not laid out"
        assert parameter.name not in out
        out[parameter.name] = array
    return out
