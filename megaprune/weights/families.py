"""The architectures that megaprune knows: for each a table of parameters and a whitelist of keys.

A row of a table is one parameter of an engine and the Hugging Face tensors it is made of. The
`Split` says how tensor parallelism cuts it; the layouts know what that means for each engine. The
whitelist says which keys of a config.json the family's layers obey, and at which values: a key that
no list has is refused, since what it changes in the model would be lost without a word
(`config_problems`). So is a key that is left out where transformers then takes a value that is not
built. A new architecture is a new `Family` (and a test that loads it into both engines).

Symbols in shapes: hidden, ffn, vocab; query = heads * head_dim; key_value = kv_heads * head_dim;
head = head_dim. "output, input" order, as in `torch.nn.Linear.weight`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from megaprune.weights import rope
from megaprune.weights.untrusted import named, shown


class Split(Enum):
    """How tensor parallelism divides a parameter."""

    REPLICATED = "every rank holds all of it"
    ROW = "input features (dimension 1) are divided; the layer's outputs are summed over ranks"
    VOCAB = "vocabulary rows (dimension 0) are padded, then divided"
    GATED = "gate and up projections: each divided along dimension 0, then joined per rank"
    QKV = "query, key and value projections: divided by head, then joined per rank"


@dataclass(frozen=True)
class HfTensor:
    """A Hugging Face tensor: its name (within its layer, if it is in one) and symbolic shape."""

    name: str
    shape: tuple[str, ...]


@dataclass(frozen=True)
class TableRow:
    """One fused parameter: what it is made of, and what each engine calls it.

    `megatron` is the name with Transformer Engine's fused norms, which is also the name in every
    Megatron-core distributed checkpoint; see `LOCAL_NORMS` for the other spelling.
    """

    split: Split
    parts: tuple[HfTensor, ...]
    megatron: str
    vllm: str


@dataclass(frozen=True)
class Family:
    """A decoder architecture: rows before, inside and after its layers, and what it reads.

    Args:
        architecture, model_type: as config.json names them.
        head: left out of the parameters where the model ties it to the embedding.
        fixed: keys of config.json beside `SHAPE_KEYS`, each with the one value for which the table
            and both engines' layers are right.
        inert: keys that change nothing as long as those of `fixed` have their values.
        left_out: what transformers takes for a key that is left out, where that is not the value
            of `fixed`, nor what the other sizes make it.
    """

    architecture: str
    model_type: str
    embedding: TableRow
    layer: tuple[TableRow, ...]
    final_norm: TableRow
    head: TableRow
    # None of these has a default: who adds a family says which keys it has.
    fixed: tuple[tuple[str, Any], ...]
    inert: tuple[str, ...]
    left_out: tuple[tuple[str, Any], ...]

    def default(self, key: str, otherwise: Any = None) -> Any:
        """Return what transformers takes for a key that is left out; `otherwise` if not known."""
        known = {**dict(FIXED), **dict(self.fixed), "model_type": self.model_type}
        return {**known, **dict(self.left_out)}.get(key, otherwise)


LOCAL_NORMS = {
    "self_attention.linear_qkv.layer_norm_weight": "input_layernorm.weight",
    "mlp.linear_fc1.layer_norm_weight": "pre_mlp_layernorm.weight",
}
"""Megatron names of the norms where they are modules of their own (the "local" layer spec)."""

_EMBEDDING = TableRow(
    Split.VOCAB,
    (HfTensor("model.embed_tokens.weight", ("vocab", "hidden")),),
    "embedding.word_embeddings.weight",
    "model.embed_tokens.weight",
)
_FINAL_NORM = TableRow(
    Split.REPLICATED,
    (HfTensor("model.norm.weight", ("hidden",)),),
    "decoder.final_layernorm.weight",
    "model.norm.weight",
)
_HEAD = TableRow(
    Split.VOCAB,
    (HfTensor("lm_head.weight", ("vocab", "hidden")),),
    "output_layer.weight",
    "lm_head.weight",
)
_INPUT_NORM = TableRow(
    Split.REPLICATED,
    (HfTensor("input_layernorm.weight", ("hidden",)),),
    "self_attention.linear_qkv.layer_norm_weight",
    "input_layernorm.weight",
)
_QKV_WEIGHT = TableRow(
    Split.QKV,
    (
        HfTensor("self_attn.q_proj.weight", ("query", "hidden")),
        HfTensor("self_attn.k_proj.weight", ("key_value", "hidden")),
        HfTensor("self_attn.v_proj.weight", ("key_value", "hidden")),
    ),
    "self_attention.linear_qkv.weight",
    "self_attn.qkv_proj.weight",
)
_QKV_BIAS = TableRow(
    Split.QKV,
    (
        HfTensor("self_attn.q_proj.bias", ("query",)),
        HfTensor("self_attn.k_proj.bias", ("key_value",)),
        HfTensor("self_attn.v_proj.bias", ("key_value",)),
    ),
    "self_attention.linear_qkv.bias",
    "self_attn.qkv_proj.bias",
)
_QUERY_NORM = TableRow(
    Split.REPLICATED,
    (HfTensor("self_attn.q_norm.weight", ("head",)),),
    "self_attention.q_layernorm.weight",
    "self_attn.q_norm.weight",
)
_KEY_NORM = TableRow(
    Split.REPLICATED,
    (HfTensor("self_attn.k_norm.weight", ("head",)),),
    "self_attention.k_layernorm.weight",
    "self_attn.k_norm.weight",
)
_ATTENTION_OUTPUT = TableRow(
    Split.ROW,
    (HfTensor("self_attn.o_proj.weight", ("hidden", "query")),),
    "self_attention.linear_proj.weight",
    "self_attn.o_proj.weight",
)
_MLP_NORM = TableRow(
    Split.REPLICATED,
    (HfTensor("post_attention_layernorm.weight", ("hidden",)),),
    "mlp.linear_fc1.layer_norm_weight",
    "post_attention_layernorm.weight",
)
_MLP_IN = TableRow(
    Split.GATED,
    (
        HfTensor("mlp.gate_proj.weight", ("ffn", "hidden")),
        HfTensor("mlp.up_proj.weight", ("ffn", "hidden")),
    ),
    "mlp.linear_fc1.weight",
    "mlp.gate_up_proj.weight",
)
_MLP_OUT = TableRow(
    Split.ROW,
    (HfTensor("mlp.down_proj.weight", ("hidden", "ffn")),),
    "mlp.linear_fc2.weight",
    "mlp.down_proj.weight",
)
_MLP = (_MLP_NORM, _MLP_IN, _MLP_OUT)

_FULL_ATTENTION = (("use_sliding_window", False), ("use_mrope", False))
_WINDOW = ("sliding_window", "max_window_layers")  # read only with use_sliding_window

LLAMA = Family(
    "LlamaForCausalLM",
    "llama",
    _EMBEDDING,
    (_INPUT_NORM, _QKV_WEIGHT, _ATTENTION_OUTPUT, *_MLP),
    _FINAL_NORM,
    _HEAD,
    fixed=(("attention_bias", False), ("mlp_bias", False)),
    inert=("pretraining_tp",),  # in how many parts transformers 4 multiplied; the sum is the same
    left_out=(),
)
"""Llama 2 and 3, and what is distilled onto them (DeepSeek-R1-Distill-Llama)."""

QWEN2 = Family(
    "Qwen2ForCausalLM",
    "qwen2",
    _EMBEDDING,
    (_INPUT_NORM, _QKV_WEIGHT, _QKV_BIAS, _ATTENTION_OUTPUT, *_MLP),
    _FINAL_NORM,
    _HEAD,
    fixed=(("attention_bias", True), *_FULL_ATTENTION),
    inert=_WINDOW,
    left_out=(("num_key_value_heads", 32),),
)
"""Qwen2, Qwen2.5, QwQ-32B(-Preview), DeepSeek-R1-Distill-Qwen, DeepScaleR, Marco-o1, s1."""

QWEN3 = Family(
    "Qwen3ForCausalLM",
    "qwen3",
    _EMBEDDING,
    (_INPUT_NORM, _QKV_WEIGHT, _QUERY_NORM, _KEY_NORM, _ATTENTION_OUTPUT, *_MLP),
    _FINAL_NORM,
    _HEAD,
    fixed=(("attention_bias", False), *_FULL_ATTENTION),
    inert=_WINDOW,
    left_out=(("num_key_value_heads", 32), ("head_dim", 128)),
)
"""Qwen3, dense: no biases, a norm over each query and key head."""

FAMILIES = {family.architecture: family for family in (LLAMA, QWEN2, QWEN3)}

SHAPE_KEYS = frozenset(
    {
        "architectures", "head_dim", "hidden_size", "intermediate_size", "max_position_embeddings",
        "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "rms_norm_eps",
        "tie_word_embeddings", "vocab_size", *rope.CONFIG_KEYS,
    }
)  # fmt: skip
"""Keys that every family obeys, whatever their value."""

FIXED: tuple[tuple[str, Any], ...] = (
    ("hidden_act", "silu"),
    ("attention_dropout", 0),
    ("partial_rotary_factor", 1),
    ("pruned_heads", {}),
)
"""Keys that every family has at one value, as in `Family.fixed`."""

GENERATION_KEYS = frozenset(
    {
        "bad_words_ids", "begin_suppress_tokens", "bos_token_id", "cls_token_id",
        "decoder_start_token_id", "diversity_penalty", "do_sample", "early_stopping",
        "encoder_no_repeat_ngram_size", "eos_token_id", "exponential_decay_length_penalty",
        "forced_bos_token_id", "forced_eos_token_id", "length_penalty", "mask_token_id",
        "max_length", "max_new_tokens", "min_length", "min_p", "no_repeat_ngram_size",
        "num_beam_groups", "num_beams", "num_return_sequences", "output_scores", "pad_token_id",
        "remove_invalid_values", "repetition_penalty", "return_dict_in_generate", "sep_token_id",
        "suppress_tokens", "temperature", "top_k", "top_p", "typical_p", "unk_token_id",
    }
)  # fmt: skip
"""Defaults of generation, and tokens with a use; a run says itself how it samples."""

HARMLESS_KEYS = frozenset(
    {
        # How a file was made, and how it is to be run or trained.
        "_attn_implementation", "_attn_implementation_autoset", "_commit_hash", "_name_or_path",
        "attn_implementation", "dtype", "gradient_checkpointing", "initializer_range",
        "max_sequence_length", "model_max_length", "name_or_path", "tokenizer_class", "torch_dtype",
        "torchscript", "transformers_version", "unsloth_fixed", "unsloth_version", "use_bfloat16",
        "use_cache",
        # Fields of every model of transformers that a decoder does not read.
        "add_cross_attention", "chunk_size_feed_forward", "cross_attention_hidden_size",
        "finetuning_task", "id2label", "is_decoder", "is_encoder_decoder", "label2id", "num_labels",
        "output_attentions", "output_hidden_states", "prefix", "problem_type",
        "return_dict", "task_specific_params", "tf_legacy_loss", "tie_encoder_decoder",
    }
)  # fmt: skip
"""Other keys that change nothing that a model computes, whatever their value."""

_CURE = (
    "if it changes nothing that the model computes, remove it from config.json; if it does, the "
    "family must learn it (megaprune/weights/families.py)"
)
_CURES = {
    "quantization_config": "if the weights are plain, remove it from config.json; else give the "
    "model as it was before quantization",
    "auto_map": "if the model loads without trust_remote_code, remove it from config.json",
}


def config_problems(family: Family, config: Mapping[str, Any]) -> Iterator[str]:
    """Say what of a config.json the family's layers would not compute; nothing if all is known.

    A key whose value is null switches nothing on.
    """
    yield from _rope_problems(family, config)
    fixed = {**dict(FIXED), **dict(family.fixed), "model_type": family.model_type}
    harmless = SHAPE_KEYS | HARMLESS_KEYS | GENERATION_KEYS | {*family.inert}
    for key, value in config.items():
        if value is None or key in harmless:
            continue
        if key == "layer_types":
            # Both engines give every layer the attention that the switches of `fixed` describe.
            if not isinstance(value, list) or any(v != "full_attention" for v in value):
                yield f"layer_types={shown(value)} is not built here; expected full_attention alone"
        elif key not in fixed:
            yield _unknown(f"{named(key)}={shown(value)}", family, _CURES.get(key, _CURE))
        elif value != fixed[key]:
            yield (
                f"{key}={shown(value)} is not what {family.architecture} is built with here; "
                f"expected {fixed[key]!r}"
            )

    for key, value in fixed.items():
        if key not in config and (default := family.default(key, value)) != value:
            yield (
                f"{key} is left out, and transformers then takes {default!r}; "
                f"{family.architecture} is built with {value!r} here"
            )


def _rope_problems(family: Family, config: Mapping[str, Any]) -> Iterator[str]:
    for key in rope.SPELLINGS:
        for inner, value in (config.get(key) or {}).items():
            whole = inner == "partial_rotary_factor" and value == 1
            if inner not in rope.KEYS and value is not None and not whole:
                yield _unknown(f"{named(inner)}={shown(value)} in {key}", family, _CURE)


_NUMBERS = {"rms_norm_eps": (0, 1), "max_position_embeddings": (0, 1e12)}
"""Numbers that are computed with: each is more than the first and at most the second."""


def value_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Say which values of a config.json are not of the kind that their keys have."""
    tied = config.get("tie_word_embeddings")
    if not isinstance(tied, bool | None):
        yield f"tie_word_embeddings={shown(tied)}; expected true or false"
    for key, (low, high) in _NUMBERS.items():
        value = config.get(key)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and low < value <= high):
            yield f"{key}={shown(value)}; expected a number above {low}, {high:g} at the most"
    yield from rope.rope_value_problems(config)
    context = config.get("max_position_embeddings")
    if isinstance(context, float):
        yield f"max_position_embeddings={context}; expected a whole number"


def _unknown(setting: str, family: Family, cure: str) -> str:
    return f"{setting} is not known of {family.architecture}, and would be ignored: {cure}"
