"""The architectures that megaprune knows: one table each, and nothing else.

A row of a table is one parameter of an engine and the Hugging Face tensors it is made of. The
`Split` says how tensor parallelism cuts it; the layouts know what that means for each engine. A new
architecture is a new table (and a test that loads it into both engines).

Symbols in shapes: hidden, ffn, vocab; query = heads * head_dim; key_value = kv_heads * head_dim;
head = head_dim. "output, input" order, as in `torch.nn.Linear.weight`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Split(Enum):
    """How tensor parallelism divides a parameter."""

    REPLICATED = "every rank holds all of it"
    ROW = "input features (dimension 1) are divided; the layer's outputs are summed over ranks"
    VOCAB = "vocabulary rows (dimension 0) are padded, then divided"
    GATED = "gate and up projections: each divided along dimension 0, then joined per rank"
    QKV = "query, key and value projections: divided by head, then joined per rank"


@dataclass(frozen=True)
class Tensor:
    """A Hugging Face tensor: its name (within its layer, if it is in one) and symbolic shape."""

    name: str
    shape: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One fused parameter: what it is made of, and what each engine calls it.

    `megatron` is the name with Transformer Engine's fused norms, which is also the name in every
    Megatron-core distributed checkpoint; see `LOCAL_NORMS` for the other spelling.
    """

    split: Split
    parts: tuple[Tensor, ...]
    megatron: str
    vllm: str


@dataclass(frozen=True)
class Family:
    """A decoder architecture: rows before, inside and after its layers.

    `head` is left out of the parameters where the model ties it to the embedding.
    `refused` lists config.json switches that would add or change tensors which the table lacks.
    """

    architecture: str
    embedding: Row
    layer: tuple[Row, ...]
    final_norm: Row
    head: Row
    refused: tuple[str, ...]


LOCAL_NORMS = {
    "self_attention.linear_qkv.layer_norm_weight": "input_layernorm.weight",
    "mlp.linear_fc1.layer_norm_weight": "pre_mlp_layernorm.weight",
}
"""Megatron names of the norms where they are modules of their own (the "local" layer spec)."""

_EMBEDDING = Row(
    Split.VOCAB,
    (Tensor("model.embed_tokens.weight", ("vocab", "hidden")),),
    "embedding.word_embeddings.weight",
    "model.embed_tokens.weight",
)
_FINAL_NORM = Row(
    Split.REPLICATED,
    (Tensor("model.norm.weight", ("hidden",)),),
    "decoder.final_layernorm.weight",
    "model.norm.weight",
)
_HEAD = Row(
    Split.VOCAB,
    (Tensor("lm_head.weight", ("vocab", "hidden")),),
    "output_layer.weight",
    "lm_head.weight",
)
_INPUT_NORM = Row(
    Split.REPLICATED,
    (Tensor("input_layernorm.weight", ("hidden",)),),
    "self_attention.linear_qkv.layer_norm_weight",
    "input_layernorm.weight",
)
_QKV_WEIGHT = Row(
    Split.QKV,
    (
        Tensor("self_attn.q_proj.weight", ("query", "hidden")),
        Tensor("self_attn.k_proj.weight", ("key_value", "hidden")),
        Tensor("self_attn.v_proj.weight", ("key_value", "hidden")),
    ),
    "self_attention.linear_qkv.weight",
    "self_attn.qkv_proj.weight",
)
_QKV_BIAS = Row(
    Split.QKV,
    (
        Tensor("self_attn.q_proj.bias", ("query",)),
        Tensor("self_attn.k_proj.bias", ("key_value",)),
        Tensor("self_attn.v_proj.bias", ("key_value",)),
    ),
    "self_attention.linear_qkv.bias",
    "self_attn.qkv_proj.bias",
)
_QUERY_NORM = Row(
    Split.REPLICATED,
    (Tensor("self_attn.q_norm.weight", ("head",)),),
    "self_attention.q_layernorm.weight",
    "self_attn.q_norm.weight",
)
_KEY_NORM = Row(
    Split.REPLICATED,
    (Tensor("self_attn.k_norm.weight", ("head",)),),
    "self_attention.k_layernorm.weight",
    "self_attn.k_norm.weight",
)
_ATTENTION_OUTPUT = Row(
    Split.ROW,
    (Tensor("self_attn.o_proj.weight", ("hidden", "query")),),
    "self_attention.linear_proj.weight",
    "self_attn.o_proj.weight",
)
_MLP_NORM = Row(
    Split.REPLICATED,
    (Tensor("post_attention_layernorm.weight", ("hidden",)),),
    "mlp.linear_fc1.layer_norm_weight",
    "post_attention_layernorm.weight",
)
_MLP_IN = Row(
    Split.GATED,
    (
        Tensor("mlp.gate_proj.weight", ("ffn", "hidden")),
        Tensor("mlp.up_proj.weight", ("ffn", "hidden")),
    ),
    "mlp.linear_fc1.weight",
    "mlp.gate_up_proj.weight",
)
_MLP_OUT = Row(
    Split.ROW,
    (Tensor("mlp.down_proj.weight", ("hidden", "ffn")),),
    "mlp.linear_fc2.weight",
    "mlp.down_proj.weight",
)
_MLP = (_MLP_NORM, _MLP_IN, _MLP_OUT)

LLAMA = Family(
    "LlamaForCausalLM",
    _EMBEDDING,
    (_INPUT_NORM, _QKV_WEIGHT, _ATTENTION_OUTPUT, *_MLP),
    _FINAL_NORM,
    _HEAD,
    refused=("attention_bias", "mlp_bias"),
)
"""Llama 2 and 3, and what is distilled onto them (DeepSeek-R1-Distill-Llama)."""

QWEN2 = Family(
    "Qwen2ForCausalLM",
    _EMBEDDING,
    (_INPUT_NORM, _QKV_WEIGHT, _QKV_BIAS, _ATTENTION_OUTPUT, *_MLP),
    _FINAL_NORM,
    _HEAD,
    refused=(),
)
"""Qwen2, Qwen2.5, QwQ-32B(-Preview), DeepSeek-R1-Distill-Qwen, DeepScaleR, Marco-o1, s1."""

QWEN3 = Family(
    "Qwen3ForCausalLM",
    _EMBEDDING,
    (_INPUT_NORM, _QKV_WEIGHT, _QUERY_NORM, _KEY_NORM, _ATTENTION_OUTPUT, *_MLP),
    _FINAL_NORM,
    _HEAD,
    refused=("attention_bias",),
)
"""Qwen3, dense: no biases, a norm over each query and key head."""

FAMILIES = {family.architecture: family for family in (LLAMA, QWEN2, QWEN3)}
