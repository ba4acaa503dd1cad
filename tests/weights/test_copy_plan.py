"""Plans on paper: every target element once, nothing received that is held, work shared."""

from dataclasses import replace
from functools import cache
from itertools import cycle, product
from math import lcm

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from megaprune.weights.copy_plan import plan
from megaprune.weights.families import FAMILIES, LLAMA, QWEN2, QWEN3
from megaprune.weights.layouts import (
    Pipeline,
    Spelling,
    checkpoint_layout,
    hf_layout,
    megatron_layout,
    vllm_layout,
)
from megaprune.weights.model import Model

PIPELINES = [
    Pipeline(),
    Pipeline(2),
    Pipeline(4),
    Pipeline(2, first=3),
    Pipeline(4, first=1, last=1),
    Pipeline(2, 2),
    Pipeline(4, 2),
    Pipeline(4, 2, first=2, last=2),
]
MODEL = Model(
    QWEN2, layers=8, hidden=16, ffn=48, heads=8, kv_heads=8, head_dim=2, vocab=37, tied=False
)
QWQ_32B = Model(
    QWEN2, layers=64, hidden=5120, ffn=27648, heads=40, kv_heads=8, head_dim=128, vocab=152064,
    tied=False,
)  # fmt: skip

# The same layouts meet many others: made once.
megatron_layout, vllm_layout = cache(megatron_layout), cache(vllm_layout)


def check(the_plan):
    """Every target element is written once, or is padding; what is received is the lower bound."""
    target = the_plan.target
    written = []
    for shard in target.ranks:
        # One array for a rank, which the parameters divide among them: one to look through.
        counts = np.zeros(sum(p.size for p in shard), np.int8)
        ends = np.cumsum([p.size for p in shard]).tolist()
        parameters = {
            p.name: counts[end - p.size : end].reshape(p.shape)
            for p, end in zip(shard, ends, strict=True)
        }
        for parameter in shard:
            for box in parameter.padding:
                parameters[parameter.name][box.slices] += 1
        written.append((counts, parameters))
    for source, place in the_plan.copies:
        assert source.box.size == place.box.size
        written[place.rank][1][place.parameter][place.box.slices] += 1
    for rank, (counts, parameters) in enumerate(written):
        if not (counts == 1).all():
            wrong = [name for name, array in parameters.items() if not (array == 1).all()]
            raise AssertionError(f"rank {rank}: not written exactly once: {wrong}")
    assert the_plan.received() == the_plan.lower_bound()
    assert sum(the_plan.received()) == sum(the_plan.sent())


def shapes():
    for (heads, kv_heads), tied in product([(16, 8), (8, 4), (4, 2)], (False, True)):
        yield replace(MODEL, heads=heads, kv_heads=kv_heads, tied=tied)


def _fewest_layers(pipeline):
    return (
        4 if pipeline.first and pipeline.stages == 2 else max(2, pipeline.stages * pipeline.chunks)
    )


def divides(model, tp):
    return model.heads % tp == 0 and (model.kv_heads % tp == 0 or tp % model.kv_heads == 0)


def sources(tp, world=4):
    """Every model and source layout, with replicas up to `world` ranks at least."""
    for model, pipeline, multiple in product(shapes(), PIPELINES, (1, 16)):
        if divides(model, tp):
            dp = max(1, world // (tp * pipeline.stages))
            smaller = replace(model, layers=_fewest_layers(pipeline))
            yield smaller, megatron_layout(smaller, tp, pipeline, dp, multiple)


@pytest.mark.parametrize("tp", [1, 2, 4, 8])
@pytest.mark.parametrize("vllm_tp", [1, 2, 4, 8])
def test_megatron_to_vllm(tp, vllm_tp):
    checked = 0
    for model, source in sources(tp, max(4, vllm_tp)):
        if model.heads % vllm_tp == 0:
            check(plan(source, vllm_layout(model, vllm_tp, len(source.ranks) // vllm_tp)))
            checked += 1
    assert checked


@pytest.mark.parametrize("tp", [1, 2, 4, 8])
@pytest.mark.parametrize("to_tp", [1, 2, 4, 8])
def test_megatron_to_megatron(tp, to_tp):
    """Every pipeline to every pipeline; models, padding and norms take turns."""
    turns = zip(
        product(PIPELINES, PIPELINES), cycle(shapes()), cycle([1, 16, 5]), cycle(["te", "local"])
    )
    checked = 0
    for (pipeline, to_pipeline), model, multiple, norms in turns:
        if not (divides(model, tp) and divides(model, to_tp)):
            model = replace(MODEL, heads=16)
        source = megatron_layout(model, tp, pipeline, vocab_multiple=multiple)
        target = megatron_layout(model, to_tp, to_pipeline, 1, 17 - multiple, norms)
        check(plan(source, target))
        checked += 1
    assert checked == len(PIPELINES) ** 2


def test_files_to_ranks_and_back():
    for model, pipeline in product(shapes(), PIPELINES):
        model = replace(model, layers=_fewest_layers(pipeline))
        hf = hf_layout(model)
        ranks = megatron_layout(model, 2, pipeline, dp=2, vocab_multiple=16)
        check(plan(hf, ranks))
        check(plan(ranks, hf))
        for stacked in (True, False):
            file = checkpoint_layout(model, Spelling(stacked, padded_vocab=64))
            for source, target in ((hf, file), (file, hf), (file, ranks), (ranks, file)):
                check(plan(source, target))


@st.composite
def random_models(draw):
    kv_heads = draw(st.sampled_from([1, 2, 3, 4, 6]))
    heads = kv_heads * draw(st.integers(1, 3))
    unit = lcm(heads, 6)
    return Model(
        draw(st.sampled_from(list(FAMILIES.values()))),
        layers=draw(st.sampled_from([2, 4, 6])),
        hidden=unit * draw(st.integers(1, 2)),
        ffn=unit * draw(st.integers(1, 3)),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=draw(st.integers(1, 4)),
        vocab=draw(st.integers(5, 90)),
        tied=draw(st.booleans()),
    )


@st.composite
def random_layouts(draw, model):
    divisors = [
        n
        for n in (1, 2, 3, 4, 6)
        if divides(model, n) and (model.heads + 2 * model.kv_heads) * model.head_dim % n == 0
    ]
    kind = draw(st.sampled_from(["megatron", "vllm", "hf", "checkpoint"]))
    if kind == "hf":
        return hf_layout(model)
    if kind == "checkpoint":
        rows = model.vocab + draw(st.integers(0, 20))
        return checkpoint_layout(model, Spelling(draw(st.booleans()), rows))
    if kind == "vllm":
        valid = [
            n
            for n in (1, 2, 4)
            if model.heads % n == 0 and (model.kv_heads % n == 0 or n % model.kv_heads == 0)
        ]
        return vllm_layout(model, draw(st.sampled_from(valid)), draw(st.integers(1, 3)))
    stages = draw(st.sampled_from([1, 2]))
    first = draw(st.integers(1, model.layers - 1)) if stages == 2 else None
    return megatron_layout(
        model,
        draw(st.sampled_from(divisors)),
        Pipeline(stages, first=first),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 9)),
        draw(st.sampled_from(["te", "local"])),
    )


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_copying_numbers_as_planned_makes_the_target(data):
    """The plan is carried out on arrays; the lower bound is counted element by element."""
    model = data.draw(random_models())
    source, target = (data.draw(random_layouts(model)) for _ in range(2))
    arrays = reference.logical(model)
    the_plan = plan(source, target)
    held = [reference.materialise(source, r, arrays) for r in range(len(source.ranks))]
    received = []
    for rank in range(len(target.ranks)):
        expected = reference.materialise(target, rank, arrays)
        made = {name: np.zeros_like(array) for name, array in expected.items()}
        for copy in the_plan.copies:
            if copy.target.rank == rank:
                part = held[copy.source.rank][copy.source.parameter][copy.source.box.slices]
                into = made[copy.target.parameter][copy.target.box.slices]
                into[...] = part.reshape(into.shape)
        for name in expected:
            assert (made[name] == expected[name]).all(), name
        own = held[rank].values() if rank < len(held) else ()
        have = {number for array in own for number in array.reshape(-1).tolist()} | {0}
        received.append(
            sum(n not in have for array in expected.values() for n in array.reshape(-1).tolist())
        )
    assert the_plan.received() == received == the_plan.lower_bound()
    check(the_plan)


def test_replicas_share_the_sending_in_few_messages():
    model = replace(MODEL, layers=8)
    # 16 ranks; 64 rows of vocabulary, as vLLM has them.
    source = megatron_layout(model, 2, Pipeline(2), dp=4, vocab_multiple=32)
    the_plan = plan(source, vllm_layout(model, 2, 8))
    sent = the_plan.sent()
    for stage, tp_rank in product(range(2), range(2)):
        replicas = sent[stage * 8 + tp_rank : stage * 8 + 8 : 2]
        assert len(set(replicas)) == 1
        assert replicas[0] > 0
    # Each rank lacks the other stage of its own tensor-parallel rank: one message.
    assert the_plan.messages() == len(source.ranks)


def test_qwq_32b_eight_way_is_plain_memory_copies_of_the_other_stages():
    source = megatron_layout(QWQ_32B, 8, Pipeline(4))
    the_plan = plan(source, vllm_layout(QWQ_32B, 8, 4))
    received = [2 * n for n in the_plan.received()]
    assert the_plan.permuting() == 0
    # A TP8 shard of the model less the stage that the rank has, by hand, in bf16 bytes.
    layer = (
        5120 * (5120 // 8) * 2
        + 5120 * (1024 // 8) * 2
        + 3 * 5120 * (27648 // 8)
        + (5120 + 2048) // 8
        + 2 * 5120
    )
    embedding = 152064 // 8 * 5120
    whole = 64 * layer + 2 * embedding + 5120
    stages = [16 * layer + embedding, 16 * layer, 16 * layer, 16 * layer + embedding + 5120]
    assert received == [2 * (whole - stage) for stage in stages for _ in range(8)]
    assert round(sum(received) / 32 / 1e9, 2) == 6.14
    assert received == [2 * n for n in the_plan.lower_bound()]
    assert the_plan.messages() == 32 * 3


def test_vocabulary_padded_beyond_need_breaks_the_identity():
    # 152064 is 8 * 19008; padded to a multiple of 128 * 8 a rank has 19072 rows, vLLM 19008.
    source = megatron_layout(replace(QWQ_32B, layers=4), 8, Pipeline(), vocab_multiple=128)
    the_plan = plan(source, vllm_layout(replace(QWQ_32B, layers=4), 8))
    assert source.ranks[0][0].shape[0] == 19072
    assert max(the_plan.received()) > 0


def test_a_plan_needs_the_same_model_and_all_of_it():
    with pytest.raises(ValueError, match="different models"):
        plan(hf_layout(MODEL), hf_layout(replace(MODEL, family=LLAMA)))
    whole = megatron_layout(MODEL, 2)
    half = replace(whole, ranks=whole.ranks[:1])
    with pytest.raises(ValueError, match="the source lacks"):
        plan(half, hf_layout(MODEL))


def test_qwen3_norms_travel_whole():
    model = replace(MODEL, family=QWEN3, head_dim=6)
    the_plan = plan(megatron_layout(model, 2), vllm_layout(model, 2))
    norms = [c for c in the_plan.copies if c.target.parameter.endswith("q_norm.weight")]
    assert {c.size for c in norms} == {6}
    assert all(c.local for c in norms)
