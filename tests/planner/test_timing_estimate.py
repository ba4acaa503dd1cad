"""Seconds and bytes on the way, by hand, from the assumptions alone."""

from dataclasses import replace

import pytest

from megaprune.planner.actor_memory import micro_batch_count
from megaprune.planner.hardware import HardwareSpec
from megaprune.planner.request import find_shape, read_plan_config
from megaprune.planner.speed import (
    forward_flops,
    generate_seconds,
    log_prob_time,
    offload_seconds,
    optimizer_seconds,
    round_time,
    sync_traffic,
    train_time,
)
from reference import QWQ_AT_TP8

QWQ = find_shape("QwQ-32B")
GPUS = HardwareSpec(gpus=32)
P = 32_763_876_352
HEAD = 152064 * 5120
TOKENS = 2048 * (256 + 3000)  # 128 x 16 responses of 3000, prompts of 256
PEAK = 32 * 989e12
HALF = 5120 * 2 * 7 / 8 / 350e9
"""Seconds a token of half an all-reduce: an all-gather among 8 GPUs, say."""


def test_generating():
    """512 responses on each engine, 256 at once: 6000 steps that read weights and cache; and 1000
    of the one response that is begun last and reaches the limit."""
    at_once, seconds = generate_seconds(read_plan_config(QWQ_AT_TP8), QWQ, GPUS, 128, 16, 4000)
    assert at_once == 256
    read = (8_192_124_928 + 256 * (256 + 1500) * 32768) / (3.35e12 * 0.6)
    computed = 2 * P * 256 / (8 * 989e12 * 0.5)
    assert read > computed
    reduced = 2 * 64 * (1e-5 + 2 * 256 * HALF)
    last = (8_192_124_928 + (256 + 3500) * 32768) / (3.35e12 * 0.6) + 2 * 64 * (1e-5 + 2 * HALF)
    prompts = 2 * P * 32 * 256 / (8 * 989e12 * 0.5) + 64 * 4 * 32 * 256 * HALF
    steps = 512 * 3000 / 256 * (read + reduced + 0.007) + 1000 * (last + 0.007)
    assert seconds == pytest.approx(steps + prompts)


def test_offloading():
    """TP8 x PP2 x DP2: 6.14 GB of a replica's optimizer state both ways, and the weights once."""
    elements = 32 * (896 * 5120 + 896 + 5120 * 640 + 3 * 3456 * 5120 + 2 * 5120)
    elements += 19008 * 5120 + 5120

    def seconds(*fields):
        return offload_seconds(read_plan_config([*QWQ_AT_TP8, *fields]), QWQ, GPUS)

    assert seconds() == 0
    optimizer = seconds("actor.offload=optimizer")
    assert optimizer == pytest.approx(2 * 6 * elements / 40e9)
    assert seconds("actor.offload=optimizer", "algorithm.num_minibatches=4") == 4 * optimizer
    assert seconds("actor.offload=all") == pytest.approx(optimizer + 2 * 2 * elements / 40e9)
    config = read_plan_config([*QWQ_AT_TP8, "actor.offload=all"])
    half = replace(GPUS, pinned_bandwidth=20.0)
    assert offload_seconds(config, QWQ, half) == 2 * seconds("actor.offload=all")
    assert round_time(config, QWQ, GPUS, 0, 0.0).seconds["offload"] == seconds("actor.offload=all")


def test_an_optimizer_on_the_cpu():
    """Half of 64 layers at TP8 on 8 GPUs: 28 bytes an element in the memory that all share."""
    fields = [*QWQ_AT_TP8, "actor.pp=1"]
    gpus = replace(GPUS, gpus=8)
    elements = 64 * (896 * 5120 + 896 + 5120 * 640 + 3 * 3456 * 5120 + 2 * 5120)
    elements += 2 * 19008 * 5120 + 5120
    plain, half = (
        optimizer_seconds(read_plan_config([*fields, *more]), QWQ, gpus)
        for more in ([], ["optimizer.on_cpu=0.5"])
    )
    moved = 0.5 * elements * (6 / 40e9 + 28 * 8 / 200e9) - 2 * 6 * elements / 3.35e12
    assert half - plain == pytest.approx(moved)


def test_an_engine_on_one_gpu_reduces_nothing():
    fields = [*QWQ_AT_TP8, "rollout.tp=1", "rollout.gpu_memory_utilization=0.95"]
    hardware = replace(GPUS, gpu_memory=141)
    slow = replace(hardware, node_bandwidth=1.0, all_reduce_seconds=1.0)
    one, other = (
        generate_seconds(read_plan_config(fields), QWQ, h, 128, 16, 4000) for h in (hardware, slow)
    )
    assert one == other


def test_what_limits_an_engine():
    def at_once(*fields, hardware=GPUS, n=16):
        return generate_seconds(
            read_plan_config([*QWQ_AT_TP8, *fields]), QWQ, hardware, 128, n, 4000
        )[0]

    assert at_once("rollout.max_num_seqs=100") == 100
    assert at_once("rollout.max_num_seqs=100", n=2) == 64
    cache = 17560 * 32768  # ten sequences half grown
    assert at_once(f"rollout.kv_cache_memory_bytes={cache}") == 10
    assert (
        at_once(f"rollout.kv_cache_memory_bytes={cache}", hardware=replace(GPUS, mean_length=1.0))
        == 7
    )


def test_many_at_once_are_bound_by_computing():
    config = read_plan_config(
        [*QWQ_AT_TP8, "rollout.max_num_seqs=4096", "data.train_batch_size=1024"]
    )
    slow = replace(GPUS, peak_tflops=10.0)
    at_once, seconds = generate_seconds(config, QWQ, slow, 1024, 16, 4000)
    step = 2 * P * at_once / (8 * 10e12 * 0.5)
    assert seconds > 256 * 16 * 3000 / at_once * step


def test_operations_of_a_forward_pass():
    flops = forward_flops(QWQ, TOKENS, 3256)
    assert flops["layers"] == 2 * (P - 2 * HEAD) * TOKENS
    assert flops["attention"] == 2 * 64 * 5120 * 3256 * TOKENS
    assert flops["head"] == 2 * HEAD * TOKENS


@pytest.mark.parametrize(("recompute", "passes", "halves"), [("none", 3, 9), ("full", 4, 13)])
def test_training(recompute, passes, halves):
    fields = [*QWQ_AT_TP8, f"actor.recompute={recompute}"]
    config = read_plan_config(fields)
    assert config.actor.sequence_parallel
    of = forward_flops(QWQ, TOKENS, 3256)
    work = passes * (of["layers"] + of["attention"]) + 4 * of["head"]
    # 3.6 million tokens under the limit of 2000, in 2 x 8192 at once.
    assert micro_batch_count(config, GPUS, 2) == 220
    time = train_time(config, QWQ, GPUS, 4000)
    assert time.computing == pytest.approx(work / (PEAK * 0.5))
    assert time.collectives == pytest.approx(TOKENS / 2 * 32 * halves * HALF)
    assert time.bubbles == pytest.approx((time.computing + time.collectives) / 220)
    assert time.seconds == time.computing + time.collectives + time.bubbles
    frozen = read_plan_config([*fields, "actor.frozen_layers=32"])
    part = train_time(frozen, QWQ, GPUS, 4000)
    assert 0.5 < part.computing / time.computing < 0.7
    assert part.collectives == pytest.approx(time.collectives * (halves + 4) / 2 / halves)
    across = train_time(config, QWQ, replace(GPUS, gpus_per_node=4), 4000)
    assert across.collectives == pytest.approx(time.collectives * 350 / 50)


def test_passes_for_log_probs():
    computing = sum(forward_flops(QWQ, TOKENS, 3256).values()) / (PEAK * 0.5)
    one = (computing + TOKENS / 2 * 32 * 4 * HALF) * (1 + 1 / 220)
    moved = 3 * 4_096_067_584 / 10e9  # weights to the host and from there

    def seconds(*fields):
        return log_prob_time(read_plan_config([*QWQ_AT_TP8, *fields]), QWQ, GPUS, 4000).seconds

    assert seconds("algorithm.loss.kl_coef=0") == 0
    assert seconds() == pytest.approx(one + moved)
    two = "algorithm.num_minibatches=2"
    assert micro_batch_count(read_plan_config([*QWQ_AT_TP8, two]), GPUS, 2) == 110
    assert seconds("algorithm.loss.kl_coef=0", two) == pytest.approx(
        one * (1 + 1 / 110) / (1 + 1 / 220)
    )


def test_updates():
    n = 2_048_033_792
    moved = (4 + 2) * n / 2 / 50e9
    read = 2 * (4 + 2 + 6) * n / 3.35e12
    config = read_plan_config(QWQ_AT_TP8)
    assert optimizer_seconds(config, QWQ, GPUS) == pytest.approx(moved + read)
    twice = read_plan_config([*QWQ_AT_TP8, "algorithm.num_minibatches=2"])
    assert optimizer_seconds(twice, QWQ, GPUS) == pytest.approx(2 * (moved + read))


def test_a_round():
    config = read_plan_config(QWQ_AT_TP8)
    first, second = (round_time(config, QWQ, GPUS, number, 0.1) for number in (0, 1))
    assert (first.limit, second.limit) == (4000, 3000)
    assert first.tokens == 128 * 16 * 3000
    assert first.seconds["sync"] == 0.1
    validation = generate_seconds(config, QWQ, GPUS, 60, 16, 16000)[1]
    # Before the first step, after each 20 of 190, and after the last.
    assert first.validation_seconds == pytest.approx((1 + 9 + 1) * validation)
    assert first.total_seconds == pytest.approx(190 * first.step_seconds + 11 * validation)
    assert second.step_seconds < first.step_seconds
    never = read_plan_config([*QWQ_AT_TP8, "validation.every=0"])
    assert round_time(never, QWQ, GPUS, 0, 0.1).validation_seconds == 0


@pytest.mark.parametrize(
    ("pp", "mean", "most", "pairs"),
    [(1, 0.0, 0.0, 0), (2, 4.096, 4.096, 32), (4, 6.144, 6.241, 96)],
)
def test_a_sync(pp, mean, most, pairs):
    traffic = sync_traffic(read_plan_config([*QWQ_AT_TP8, f"actor.pp={pp}"]), QWQ, GPUS)
    assert traffic.mean / 1e9 == pytest.approx(mean, abs=5e-4)
    assert max(traffic.received) / 1e9 == pytest.approx(most, abs=5e-4)
    assert traffic.received == traffic.lower_bound
    assert (traffic.pairs, traffic.permuting) == (pairs, 0)
    slow = sync_traffic(
        read_plan_config([*QWQ_AT_TP8, f"actor.pp={pp}"]), QWQ, replace(GPUS, bandwidth=5.0)
    )
    per_byte = max(*traffic.received, *traffic.sent)
    assert slow.seconds - traffic.seconds == pytest.approx(per_byte * (1 / 5e9 - 1 / 50e9))
    # 4.1 GB through half of 240 MiB at a time: one goes out while one comes in.
    if pp == 2:
        assert traffic.rounds == -(-4_096_067_584 // (120 << 20))
