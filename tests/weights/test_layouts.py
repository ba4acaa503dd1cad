"""Layouts against array formulas, and against Megatron-core's own placement of layers."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

import reference
from megaprune.weights.families import FAMILIES, QWEN2, QWEN3
from megaprune.weights.layouts import (
    Pipeline,
    Spelling,
    checkpoint_layout,
    hf_layout,
    megatron_layout,
    vllm_layout,
)
from megaprune.weights.model import Model

MODEL = Model(
    QWEN2, layers=8, hidden=16, ffn=48, heads=8, kv_heads=8, head_dim=2, vocab=37, tied=False
)
HEADS = [(8, 8), (16, 8), (8, 4), (14, 2), (6, 1)]
PIPELINES = [
    Pipeline(),
    Pipeline(2),
    Pipeline(4),
    Pipeline(2, first=3),
    Pipeline(2, last=1),
    Pipeline(4, first=1, last=1),
    Pipeline(2, 2),
    Pipeline(4, 2),
    Pipeline(4, 2, first=2, last=2),
]


def models():
    for family, (heads, kv_heads), tied in product(FAMILIES.values(), HEADS, (False, True)):
        # Qwen3 sets head_dim apart from hidden / heads.
        yield replace(
            MODEL, family=family, heads=heads, kv_heads=kv_heads, tied=tied,
            head_dim=6 if family is QWEN3 else 2,
        )  # fmt: skip


@pytest.mark.parametrize("tp", [1, 2, 4, 8])
def test_megatron_ranks_hold_what_the_formulas_say(tp):
    checked = 0
    paddings = [(1, "te"), (16, "local")]
    for model, pipeline, (multiple, norms) in product(models(), PIPELINES, paddings):
        if model.heads % tp or (model.kv_heads % tp and tp % model.kv_heads):
            continue
        arrays = reference.logical(model)
        layout = megatron_layout(model, tp, pipeline, dp=2, vocab_multiple=multiple, norms=norms)
        stages = pipeline.layers(model.layers)
        assert len(layout.ranks) == tp * 2 * pipeline.stages
        for number in range(len(layout.ranks)):
            rank, stage = number % tp, number // (2 * tp)
            expected = reference.megatron_rank(
                model, arrays, tp, rank, stages[stage],
                first=stage == 0, last=stage == pipeline.stages - 1,
                padded_vocab=-(-model.vocab // (multiple * tp)) * multiple * tp, norms=norms,
            )  # fmt: skip
            _assert_same(reference.materialise(layout, number, arrays), expected)
            checked += 1
            if number % (2 * tp) >= tp:
                assert layout.ranks[number] is layout.ranks[number - tp]
    assert checked


@pytest.mark.parametrize("tp", [1, 2, 4, 8, 16])
def test_vllm_ranks_hold_what_the_formulas_say(tp):
    checked = 0
    for model in models():
        if model.heads % tp or (model.kv_heads % tp and tp % model.kv_heads):
            continue
        arrays = reference.logical(model)
        layout = vllm_layout(model, tp, engines=2)
        assert len(layout.ranks) == 2 * tp
        for number in range(2 * tp):
            expected = reference.vllm_rank(model, arrays, tp, number % tp)
            _assert_same(reference.materialise(layout, number, arrays), expected)
            checked += 1
    assert checked


def test_checkpoint_tensors_are_those_of_one_rank_stacked_by_layer():
    for model, stacked in product(models(), (True, False)):
        arrays = reference.logical(model)
        seen = reference.materialise(
            checkpoint_layout(model, Spelling(stacked, padded_vocab=48, prefix="p.")), 0, arrays
        )
        one = reference.megatron_rank(
            model, arrays, 1, 0, [range(model.layers)],
            first=True, last=True, padded_vocab=48, norms="te",
        )  # fmt: skip
        expected = {}
        for name, array in one.items():
            name = "p." + name.removeprefix("0.")
            if stacked and name.startswith("p.decoder.layers."):
                layer, rest = name.removeprefix("p.decoder.layers.").split(".", 1)
                whole = expected.setdefault(
                    f"p.decoder.layers.{rest}", np.zeros((model.layers, *array.shape), np.int64)
                )
                whole[int(layer)] = array
            else:
                expected[name] = array
        _assert_same(seen, expected)


def test_hf_layout_is_the_tensors_themselves():
    for model in models():
        arrays = reference.logical(model)
        _assert_same(reference.materialise(hf_layout(model), 0, arrays), arrays)


def test_layers_are_placed_as_megatron_core_places_them():
    block = pytest.importorskip("megatron.core.transformer.transformer_block")
    layer = pytest.importorskip("megatron.core.transformer.transformer_layer")
    from megatron.core.transformer.transformer_config import TransformerConfig

    for pipeline in [*PIPELINES, Pipeline(4, first=5), Pipeline(4, last=5), Pipeline(8)]:
        config = TransformerConfig(
            num_layers=8,
            hidden_size=16,
            num_attention_heads=4,
            pipeline_model_parallel_size=pipeline.stages,
            virtual_pipeline_model_parallel_size=pipeline.chunks if pipeline.chunks > 1 else None,
            num_layers_in_first_pipeline_stage=pipeline.first,
            num_layers_in_last_pipeline_stage=pipeline.last,
            pipeline_dtype=None if pipeline.stages == 1 else __import__("torch").float32,
        )
        for stage, chunks in enumerate(pipeline.layers(8)):
            for chunk, layers in enumerate(chunks):
                v = chunk if pipeline.chunks > 1 else None
                assert layers.start == layer.get_transformer_layer_offset(config, v, stage)
                assert len(layers) == block.get_num_layers_to_build(config, v, stage)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: megatron_layout(MODEL, 3), "tp=3 does not divide num_attention_heads=8 and .*=8; choose 1, 2, 4 or 8"),
        (lambda: megatron_layout(MODEL, 1, Pipeline(3)), "pp=3 does not divide .*=8; choose 1, 2, 4 or 8"),
        (lambda: megatron_layout(MODEL, 1, Pipeline(2, 3)), "vpp=3 does not divide layers of a stage=4"),
        (lambda: megatron_layout(MODEL, 1, Pipeline(1, 2)), "virtual or uneven stages need pp > 1"),
        (lambda: megatron_layout(MODEL, 1, Pipeline(2, first=3, last=3)), "hold 6 layers of 8"),
        (lambda: megatron_layout(MODEL, 1, Pipeline(1, first=3)), "need pp > 1"),
        (lambda: megatron_layout(MODEL, 1, Pipeline(2, first=-4)), "hold -4 layers of 8"),
        (lambda: vllm_layout(MODEL, 3), "vLLM tp=3 does not divide num_attention_heads=8"),
        (lambda: vllm_layout(replace(MODEL, heads=12, kv_heads=6), 4), "vLLM tp=4 .*num_key_value_heads=6; choose 1, 2, 3, 6 or 12"),
    ],
)  # fmt: skip
def test_what_does_not_divide_is_refused_with_what_would(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def _assert_same(seen, expected):
    assert seen.keys() == expected.keys()
    for name in expected:
        assert (seen[name] == expected[name]).all(), name
