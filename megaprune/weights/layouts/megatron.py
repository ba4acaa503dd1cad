"""How Megatron-core arranges a decoder: over its ranks, and in its distributed checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from megaprune.weights.boxes import Box
from megaprune.weights.families import LOCAL_NORMS, TableRow
from megaprune.weights.layouts import sharding
from megaprune.weights.layouts.base import Layout, Parameter, Piece, Shard, divisible
from megaprune.weights.model import Model


@dataclass(frozen=True)
class Pipeline:
    """How layers are spread over pipeline stages, in Megatron-core's own terms.

    Args:
        stages: pipeline_model_parallel_size.
        chunks: virtual_pipeline_model_parallel_size, the model chunks that each stage holds.
        first: num_layers_in_first_pipeline_stage, or None for an even share.
        last: num_layers_in_last_pipeline_stage, or None for an even share.
    """

    stages: int = 1
    chunks: int = 1
    first: int | None = None
    last: int | None = None

    def layers(self, total: int) -> list[list[range]]:
        """Number the layers (from 0) of each chunk of each stage: `result[stage][chunk]`.

        Raises:
            ValueError: the layers do not divide so; the message says what would.
        """
        if self.stages == 1:
            if self != Pipeline():
                raise ValueError(f"virtual or uneven stages need pp > 1; seen {self}")
            return [[range(total)]]
        given = {0: self.first, self.stages - 1: self.last}
        fixed = {stage: count for stage, count in given.items() if count is not None}
        middle = self.stages - len(fixed)
        rest = total - sum(fixed.values())
        if rest < 0 or (middle == 0 and rest) or min(fixed.values(), default=0) < 0:
            raise ValueError(
                f"first and last pipeline stages hold {sum(fixed.values())} layers of {total}, "
                f"with {middle} stages between them"
            )
        share = divisible("layers left for the other stages", rest, "pp", middle) if middle else 0
        counts = [
            divisible("layers of a stage", fixed.get(stage, share), "vpp", self.chunks)
            for stage in range(self.stages)
        ]
        # Chunk v of every stage comes before chunk v + 1 of any.
        starts = [[0] * self.chunks for _ in counts]
        first = 0
        for chunk in range(self.chunks):
            for stage, count in enumerate(counts):
                starts[stage][chunk] = first
                first += count
        return [
            [range(start, start + counts[stage]) for start in starts[stage]]
            for stage in range(self.stages)
        ]


def megatron_layout(
    model: Model,
    tp: int = 1,
    pipeline: Pipeline | None = None,
    dp: int = 1,
    vocab_multiple: int = 1,
    norms: Literal["te", "local"] = "te",
) -> Layout:
    """Lay out a `GPTModel` over tp x dp x pp ranks, in Megatron's default rank order.

    Rank = tp rank + tp * (dp rank + dp * stage). Parameters are named as by
    `torch.nn.ModuleList(model_chunks).named_parameters()`: "0.decoder.layers.3...", where layers
    count from 0 within the chunk. A tied output layer is a parameter of its own only where it is
    on another stage than the embedding.

    Args:
        model: what is laid out.
        tp, dp: tensor- and data-parallel sizes.
        pipeline: stages and their layers; one stage if None.
        vocab_multiple: the vocabulary is padded to a multiple of this times tp
            (Megatron's make_vocab_size_divisible_by).
        norms: "te" where Transformer Engine fuses each norm with the linear layer after it,
            "local" where it is a module of its own.

    Raises:
        ValueError: tp, pp or vpp do not divide the model; the message says which values do.
    """
    pipeline = pipeline or Pipeline()
    sharding.check_heads(model, "tp", tp)
    padded = sharding.round_up(model.vocab, vocab_multiple * tp)
    renamed = LOCAL_NORMS if norms == "local" else {}

    def shard(rank: int, stage: int) -> Shard:
        return tuple(
            sharding.parameter(
                model, f"{chunk}.{name}", row, layer, tp, rank, padded, _interleaved_qkv
            )
            for chunk in range(pipeline.chunks)
            for name, row, layer in _chunk_rows(model, pipeline, stage, chunk, renamed)
        )

    held = [[shard(rank, stage) for rank in range(tp)] for stage in range(pipeline.stages)]
    ranks = tuple(
        held[stage][rank]
        for stage in range(pipeline.stages)
        for _ in range(dp)
        for rank in range(tp)
    )
    return Layout(model.tensors(), ranks)


def _chunk_rows(
    model: Model, pipeline: Pipeline, stage: int, chunk: int, renamed: Mapping[str, str]
) -> list[tuple[str, TableRow, int | None]]:
    """List the parameters of a chunk of a stage: name, row of the table, layer.

    Args:
        renamed: names of norms that are not as in the table.
    """
    first = stage == 0 and chunk == 0
    last = stage == pipeline.stages - 1 and chunk == pipeline.chunks - 1
    rows: list[tuple[str, TableRow, int | None]] = []
    if first:
        rows.append((model.family.embedding.megatron, model.family.embedding, None))
    for local, layer in enumerate(pipeline.layers(model.layers)[stage][chunk]):
        for row in model.family.layer:
            name = renamed.get(row.megatron, row.megatron)
            rows.append((f"decoder.layers.{local}.{name}", row, layer))
    if last:
        rows.append((model.family.final_norm.megatron, model.family.final_norm, None))
        if not model.tied:
            rows.append((model.family.head.megatron, model.family.head, None))
        elif not first:
            rows.append((model.family.head.megatron, model.family.embedding, None))
    return rows


@dataclass(frozen=True)
class Spelling:
    """How a distributed checkpoint names a model's parameters.

    Args:
        stacked: one tensor holds a parameter of all layers, with a leading layer dimension
            ("decoder.layers.mlp..."), as `GPTModel.sharded_state_dict()` has it by default; else
            one tensor for each layer ("decoder.layers.7.mlp...", metadata non_homogeneous_layers).
        padded_vocab: rows of the embedding and of the output layer.
        prefix: what stands before every name.
    """

    stacked: bool
    padded_vocab: int
    prefix: str = ""


def checkpoint_layout(model: Model, spelling: Spelling) -> Layout:
    """Lay out the weights as a Megatron-core checkpoint holds them: global tensors, one rank.

    They do not depend on the tp and pp that wrote them: heads are interleaved per query group,
    gate and up are whole, norms bear Transformer Engine's names.
    """
    stacks: dict[str, list[Parameter]] = {}
    for row, layer in model.rows():
        name = row.megatron
        if layer is not None:
            middle = "" if spelling.stacked else f"{layer}."
            name = f"decoder.layers.{middle}{name}"
        name = spelling.prefix + name
        parameter = sharding.parameter(
            model, name, row, layer, 1, 0, spelling.padded_vocab, _interleaved_qkv
        )
        stacks.setdefault(name, []).append(parameter)
    layers = f"{spelling.prefix}decoder.layers."
    shard = tuple(
        _stack(parts) if spelling.stacked and name.startswith(layers) else parts[0]
        for name, parts in stacks.items()
    )
    return Layout(model.tensors(), (shard,))


def extra_states(model: Model) -> list[str]:
    """Name the `_extra_state` objects that a stacked checkpoint of the model holds.

    Megatron-core asks for one of each linear layer, and with Transformer Engine of the attention
    core and of the norms too; they carry FP8 scaling factors, and nothing without FP8. One that is
    missing ends `dist_checkpointing.load`; one too many is ignored.
    """
    # Every module with a `weight` of its own, but for the vocabulary's.
    modules = [
        row.megatron.removesuffix(".weight")
        for row in model.family.layer
        if row.megatron.endswith(".weight")
    ]
    modules.append("self_attention.core_attention")
    final_norm = model.family.final_norm.megatron.removesuffix(".weight")
    return [
        *(
            f"decoder.layers.{module}._extra_state/shard_{layer}_{model.layers}"
            for module in modules
            for layer in range(model.layers)
        ),
        f"{final_norm}._extra_state/shard_0_1",
    ]


def _stack(parameters: list[Parameter]) -> Parameter:
    """Stack parameters of the same shape, layer by layer along a new leading dimension."""

    def placed(box: Box, layer: int) -> Box:
        return Box((layer, *box.start), (layer + 1, *box.stop))

    return Parameter(
        parameters[0].name,
        (len(parameters), *parameters[0].shape),
        tuple(
            Piece(piece.tensor, piece.box, placed(piece.at, layer))
            for layer, parameter in enumerate(parameters)
            for piece in parameter.pieces
        ),
    )


def _interleaved_qkv(
    model: Model, name: str, parts: list[sharding.Part], tp: int, rank: int
) -> Parameter:
    """Join q, k and v by query group: its query heads, then its key head, then its value head.

    The ranks have equal shares of these rows, also where tp exceeds the groups and a share ends
    within one (Megatron-core then exchanges activations).
    """
    (q, q_shape), (k, kv_shape), (v, _) = parts
    head = model.head_dim
    queries = model.heads // model.kv_heads * head
    bands = []
    for group in range(model.kv_heads):
        bands.append((q, q_shape, group * queries, queries))
        bands.append((k, kv_shape, group * head, head))
        bands.append((v, kv_shape, group * head, head))
    return sharding.stacked_rows(name, bands, tp, rank)
