"""Figures of QwQ-32B and others, by hand."""

from dataclasses import replace

import pytest

from megaprune.actor import logprobs
from megaprune.parallelism import Frozen, Parallel
from megaprune.planner import hardware as constants
from megaprune.planner.actor_memory import (
    MicroBatch,
    actor_parts,
    in_flight,
    rank_elements,
)
from megaprune.planner.hardware import HardwareSpec
from megaprune.planner.request import find_shape, read_plan_config
from megaprune.planner.total_memory import (
    engine_memory,
    gpu_memory,
    host_memory,
    memory_problems,
)
from megaprune.weights import sync
from megaprune.weights.layouts import Pipeline
from reference import QWQ_AT_TP8

QWQ = find_shape("models/QwQ-32B")
# A rank of TP8: 896 rows of q, k and v with biases, 640 columns of the output, 3456 of the MLP.
LAYER = 896 * 5120 + 896 + 5120 * 640 + 3 * 3456 * 5120 + 2 * 5120
VOCABULARY = 19008 * 5120
GPUS = HardwareSpec(gpus=32)


def test_constants_are_those_of_what_carries_it_out():
    assert sync.BUFFER_BYTES == constants.TRANSFER_BUFFER_BYTES
    assert logprobs.CHUNK_BYTES["cuda"] == constants.LOGIT_CHUNK_BYTES
    assert logprobs._KEPT_CHUNKS == constants.KEPT_LOGIT_CHUNKS


def test_parameters_of_qwq():
    assert QWQ.name == "QwQ-32B"
    assert QWQ.parameters == 32_763_876_352
    assert QWQ.parameters * 2 == pytest.approx(65.53e9, rel=1e-4)


@pytest.mark.parametrize(
    ("distributed", "dp", "dtype", "optimizer"),
    [
        (True, 1, "bfloat16", 12), (True, 2, "bfloat16", 6), (True, 2, "float32", 4),
        (False, 2, "bfloat16", 12), (False, 4, "float32", 8),
    ],
)  # fmt: skip
def test_what_a_rank_of_qwq_always_has(distributed, dp, dtype, optimizer):
    first, last = rank_elements(QWQ.model, Parallel(8, Pipeline(2)), dp, Frozen(), distributed)
    assert first.parameters == 32 * LAYER + VOCABULARY
    assert last.parameters == 32 * LAYER + VOCABULARY + 5120
    assert (last.layers, last.largest) == ((32,), VOCABULARY)
    # All of QwQ's parameters are multiples of 64 at TP8, and a stage's of 128 x dp: no padding.
    assert last.buffer == last.parameters
    parts = actor_parts(last, dp, dtype, distributed)
    assert parts == {
        "weights": last.parameters * (2 if dtype == "bfloat16" else 4),
        "gradients": last.parameters * 4,
        "optimizer": last.parameters * optimizer,
    }


def test_padding_of_the_distributed_optimizer():
    """Each parameter begins at a multiple of 64 elements, the buffer ends at one of lcm(dp, 128)."""
    shape = replace(QWQ.model, layers=1, hidden=6, ffn=10, heads=1, kv_heads=1, head_dim=6, vocab=7)
    (plain,) = rank_elements(shape, Parallel(), 3, Frozen(), False)
    (padded,) = rank_elements(shape, Parallel(), 3, Frozen(), True)
    sizes = [7 * 6, 6, 18 * 6, 18, 36, 6, 20 * 6, 6 * 10, 6, 7 * 6]
    assert plain.buffer == plain.parameters == sum(sizes)
    upwards = [-(-size // 64) * 64 for size in sizes[1:]]  # the first is the last in the buffer
    assert padded.buffer == -(-(sum(upwards) + 42) // 384) * 384


def test_buckets_of_a_tied_embedding_and_of_chunks():
    tied = replace(QWQ.model, tied=True)
    first, last = rank_elements(tied, Parallel(8, Pipeline(2)), 2, Frozen(), True)
    assert first.bucket == 32 * LAYER
    assert first.buffer == last.buffer - 5120 == 32 * LAYER + VOCABULARY
    chunked = rank_elements(QWQ.model, Parallel(8, Pipeline(2, 4)), 2, Frozen(), True)
    assert [one.layers for one in chunked] == [(8,) * 4] * 2
    assert chunked[0].bucket == 8 * LAYER + VOCABULARY


def test_frozen_layers_have_weights_alone():
    first, last = rank_elements(QWQ.model, Parallel(8, Pipeline(2)), 2, Frozen(32), True)
    assert (first.frozen, first.buffer) == (first.parameters, 0)
    assert last.frozen == 0
    assert actor_parts(first, 2, "bfloat16", True) == {
        "weights": first.parameters * 2, "gradients": 0, "optimizer": 0,
    }  # fmt: skip
    (all_of_it,) = rank_elements(QWQ.model, Parallel(8), 4, Frozen(1), True)
    assert all_of_it.frozen == LAYER + VOCABULARY


def test_trainable_layers_are_the_last_and_nothing_else():
    """O1-Pruner's 48 of 64: neither the head nor the final norm is trained."""
    frozen = Frozen.of(read_plan_config(["model=x", "actor.trainable_layers=48"]).actor, QWQ.model)
    (whole,) = rank_elements(QWQ.model, Parallel(8), 1, frozen, False)
    assert whole.buffer == 48 * LAYER
    assert whole.frozen == 16 * LAYER + 2 * VOCABULARY + 5120
    first, *_, last = rank_elements(QWQ.model, Parallel(2, Pipeline(4)), 1, frozen, True)
    assert (first.buffer, first.frozen) == (0, first.parameters)
    assert last.frozen == 4 * VOCABULARY + 5120
    (tied,) = rank_elements(replace(QWQ.model, tied=True), Parallel(8), 1, frozen, False)
    assert tied.buffer == 48 * LAYER


def test_uneven_stages():
    first, last = rank_elements(QWQ.model, Parallel(8, Pipeline(2, first=30)), 2, Frozen(), True)
    assert (first.layers, last.layers) == ((30,), (34,))


@pytest.mark.parametrize(("tp", "token"), [(1, 262_144), (2, 131_072), (8, 32_768)])
def test_cache_of_a_token(tp, token):
    config = read_plan_config([*QWQ_AT_TP8, f"rollout.tp={tp}"])
    assert engine_memory(config, QWQ, GPUS).cache_token == token
    # Two key heads that four ranks share: each has one.
    small, four = (
        find_shape("DeepSeek-R1-Distill-Qwen-1.5B"),
        read_plan_config(["model=x", "rollout.tp=4"]),
    )
    assert engine_memory(four, small, GPUS).cache_token == 2 * 28 * 1 * 128 * 2


def test_an_engine_of_qwq():
    engine = engine_memory(read_plan_config(QWQ_AT_TP8), QWQ, GPUS)
    # The vocabulary at TP8 is no more than padded to 64 x 8; so are all other weights an eighth.
    assert engine.weights == 2 * (64 * LAYER + 2 * VOCABULARY + 5120)
    workspace = 16384 * (2 * 5120 + (3 * 27648 + 7168) // 8) * 2 + 16 * 256 * 152064
    assert engine.workspace == workspace
    assert engine.cache == 48 * 10**9 - engine.weights - workspace
    assert engine.cache_tokens == engine.cache // 32768
    assert engine.graphs == 10**9
    given = read_plan_config(
        [*QWQ_AT_TP8, "rollout.kv_cache_memory_bytes=1000000000", "rollout.enforce_eager=true"]
    )
    assert engine_memory(given, QWQ, GPUS).cache == 10**9
    assert engine_memory(given, QWQ, GPUS).graphs == 0


def test_activations_of_qwq():
    """A micro-batch of 8192 tokens: 83.9 MB of hidden states, an eighth of them at TP8."""
    batch = MicroBatch(QWQ.model, 8192, 8, True, "full", 2)
    assert (batch.whole, batch.between) == (83_886_080, 10_485_760)
    assert batch.layer("full") == 10_485_760
    elements = 4 * 5120 + 3 * 5120 + 3 * 1024 + 3 * 27648  # of a token, over all 8 ranks
    assert batch.layer("core_attention") == 8192 * elements * 2 // 8
    assert batch.layer("none") - batch.layer("core_attention") == 8192 * 40 * 4 // 8
    without = replace(batch, sequence=False)
    assert without.layer("none") - batch.layer("none") == 4 * 7 * batch.between
    angles = 4 * 8192 * 128
    assert batch.kept(32, False) == 33 * batch.between + angles
    assert batch.kept(32, True) == 33 * batch.between + angles + batch.whole + 32 * 8192
    assert replace(batch, recompute="none").kept(32, False) == (
        32 * batch.layer("none") + batch.between + angles
    )


@pytest.mark.parametrize(
    ("tokens", "tp", "logits"),
    [
        (1024, 8, 4 * 1024 * 19008 * 5 // 2),  # one chunk, kept
        (8192, 8, 4 * 8192 * 19008 + (512 << 20) * 3 // 2),  # two chunks, kept
        (8192, 1, (512 << 20) * 5 // 2),  # chunk after chunk, computed twice
    ],
)
def test_logits_of_the_last_stage(tokens, tp, logits):
    batch = MicroBatch(QWQ.model, tokens, tp, False, "core_attention", 2)
    assert batch.working(True) == logits + 2 * batch.whole > batch.working(False)


@pytest.mark.parametrize(
    ("stages", "stage", "chunks", "micro_batches", "expected"),
    [
        (1, 0, 1, 9, 1), (2, 0, 1, 9, 2), (2, 1, 1, 9, 1), (4, 0, 1, 9, 4), (4, 0, 1, 3, 3),
        (4, 3, 1, 9, 1), (2, 0, 2, 9, 5), (2, 1, 2, 9, 3), (4, 0, 2, 4, 8), (4, 0, 2, 8, 11),
    ],
)  # fmt: skip
def test_micro_batches_under_way(stages, stage, chunks, micro_batches, expected):
    assert in_flight(stages, stage, chunks, micro_batches) == expected


def test_phases_of_qwq_on_4_nodes():
    """The published share of 0.6 is what fits beside the model in training."""
    config = read_plan_config(QWQ_AT_TP8)
    gpu = gpu_memory(config, QWQ, GPUS)
    n = 32 * LAYER + VOCABULARY + 5120
    engine = engine_memory(config, QWQ, GPUS)
    assert gpu.phases["generate"] == {
        "contexts, NCCL": 2 * 10**9,
        "weights": 2 * n,
        "gradients": 4 * n,
        "optimizer": 6 * n,
        "engine: CUDA graphs": 10**9,
        "engine: weights": engine.weights,
        "engine: key-value cache": engine.cache,
        "torch's pool": engine.workspace,
    }
    assert gpu.stage == 1  # it has the logits
    assert gpu.totals["update"] == gpu.totals["train"] < 30e9  # torch keeps what passes had
    synced = gpu.totals["generate"] - engine.cache - engine.workspace + (240 << 20)
    assert gpu.totals["sync"] == synced
    assert gpu.totals["generate"] == gpu.peak < 77e9
    assert memory_problems(config, QWQ, GPUS) == []
    (problem,) = memory_problems(
        read_plan_config([*QWQ_AT_TP8, "rollout.gpu_memory_utilization=0.65"]), QWQ, GPUS
    )
    assert problem.startswith("generate: 79.6 GB of a GPU (stage 1), more than the 77.0 ")


def test_what_is_offloaded_of_qwq_on_8_gpus():
    """TP8 alone: 49 GB of optimizer state, which is on the GPU when activations are not."""
    gpus = replace(GPUS, gpus=8)
    (elements,) = rank_elements(QWQ.model, Parallel(8), 1, Frozen(), True)
    n, contexts, graphs = elements.buffer, 2 * 10**9, 10**9
    assert n == elements.parameters == 64 * LAYER + 2 * VOCABULARY + 5120
    fields = [*QWQ_AT_TP8, "actor.pp=1", "rollout.gpu_memory_utilization=0.8"]
    totals, phases = {}, {}
    for kind in ("none", "optimizer", "all"):
        config = read_plan_config([*fields, f"actor.offload={kind}"])
        gpu = gpu_memory(config, QWQ, gpus)
        totals[kind], phases[kind] = gpu.totals, gpu.phases
    engine = engine_memory(config, QWQ, gpus)
    train = phases["none"]["train"]
    passes = train["activations"] + train["gradients under way"]
    awake = contexts + graphs + engine.weights + engine.cache + engine.workspace
    assert (
        totals["none"]["train"] == totals["none"]["update"] == contexts + graphs + 18 * n + passes
    )
    assert totals["none"]["generate"] == awake + 18 * n
    assert totals["optimizer"] == {
        "generate": awake + 2 * n,
        "train": contexts + graphs + 6 * n + passes,
        "update": contexts + graphs + 18 * n,
        "sync": contexts + graphs + 2 * n + engine.weights + (240 << 20),
    }
    assert totals["all"] == totals["optimizer"] | {"generate": awake}
    assert totals["all"]["update"] < 77e9 < totals["none"]["train"]
    assert memory_problems(config, QWQ, gpus) == []
    for kind, away in (("none", 0), ("optimizer", 12 * n), ("all", 14 * n)):
        host = host_memory(read_plan_config([*fields, f"actor.offload={kind}"]), QWQ, gpus)
        assert host["offloaded"] == 8 * away
    half = read_plan_config([*fields, "actor.offload=optimizer", "optimizer.on_cpu=0.5"])
    assert gpu_memory(half, QWQ, gpus).totals["update"] == contexts + graphs + 12 * n
    host = host_memory(half, QWQ, gpus)
    assert (host["offloaded"], host["optimizer on the CPU"]) == (8 * 6 * n, 8 * 12 * n)


def test_a_cache_that_holds_no_sequence():
    config = read_plan_config([*QWQ_AT_TP8, "rollout.kv_cache_memory_bytes=327680000"])
    (problem,) = memory_problems(config, QWQ, GPUS)
    assert problem == (
        "rollout.kv_cache_memory_bytes=327680000 leaves 0.3 GB for the key-value cache, 10000 tokens; one "
        "sequence may have 17024"
    )
    config = read_plan_config([*QWQ_AT_TP8, "rollout.tp=1", "rollout.gpu_memory_utilization=0.5"])
    assert (
        "rollout.gpu_memory_utilization=0.5 leaves 0.0 GB" in memory_problems(config, QWQ, GPUS)[0]
    )


def test_memory_of_hosts():
    n = 32 * LAYER + VOCABULARY + 5120
    host = host_memory(read_plan_config(QWQ_AT_TP8), QWQ, GPUS)
    assert host["reference"] == 8 * 2 * 2 * n  # the reference's and the own weights, of 8 GPUs
    assert host["saving"] == 8 * 6 * n + 8 * (24 * n + 2 * n)
    assert host["graders, at most"] == 2 * (2 << 30)
    assert (
        host_memory(read_plan_config([*QWQ_AT_TP8, "algorithm.loss.kl_coef=0"]), QWQ, GPUS)[
            "reference"
        ]
        == 0
    )
    plain = host_memory(read_plan_config([*QWQ_AT_TP8, "optimizer.distributed=false"]), QWQ, GPUS)
    assert plain["saving"] == 8 * 14 * n
    small = replace(GPUS, host_memory=500.0)
    config = read_plan_config([*QWQ_AT_TP8, "rollout.gpu_memory_utilization=0.35"])
    assert memory_problems(config, QWQ, small) == ["642 GB of a host's memory, more than 500"]
