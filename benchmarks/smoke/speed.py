"""Training at the shape of QwQ-32B's layers: bytes, tokens a second, kernels, waiting for the GPU."""

from __future__ import annotations

import argparse
import gc
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from megaprune.actor.actor import Actor
from megaprune.actor.packing import Sample
from megaprune.config.run import ActorConfig, OptimizerConfig
from megaprune.distributed import device
from megaprune.parallelism import Frozen, Parallel
from megaprune.planner.actor_memory import MicroBatch, actor_parts, rank_elements
from megaprune.planner.hardware import HardwareSpec
from megaprune.planner.request import ModelShape
from megaprune.planner.speed import forward_flops
from megaprune.weights.model import Model, read_config
from smoke.actor import loss
from smoke.models import QWQ_LAYER, TINY_LAYER, samples_of, write_model
from smoke.report import Report, Skipped, seconds_of
from smoke.start import start

GB = 10**9
PEAK = HardwareSpec().flops("bfloat16")


def run(report: Report, scratch: Path, options: argparse.Namespace) -> None:
    start()
    fields, tokens = {**QWQ_LAYER, "num_hidden_layers": 4, "vocab_size": 19008}, 8192
    if options.cpu:
        fields, tokens = {**TINY_LAYER, "num_hidden_layers": 4, "vocab_size": 512}, 256
    folder = write_model(scratch / "model", **fields)
    model = Model.from_config(read_config(folder))
    whole = samples_of((tokens,), model.vocab)
    parts = samples_of((tokens // 8,) * 8, model.vocab)
    plan: dict[str, float] = {}
    for recompute in ("none", "full"):
        gc.collect()
        before = device.held_bytes()
        actor = Actor(
            folder,
            ActorConfig(max_tokens=tokens, recompute=recompute),
            OptimizerConfig(),
            torch.bfloat16,
        )
        with report.check(f"bytes against the plan, recompute={recompute}") as values:
            values |= bytes_held(actor, before, whole)
        with report.check(f"tokens/s, recompute={recompute}") as values:
            values |= rates(actor, {"1": whole, "8": parts})
            if recompute == "none":
                plan = {key: values["sequences_1"][key] for key in ("mfu", "forward_mfu")}
                values["plan"] = {} if options.cpu else plan
        if recompute == "none":
            look_closer(report, actor, whole, parts)
        del actor


def look_closer(report: Report, actor: Actor, whole: list[Sample], parts: list[Sample]) -> None:
    """Where a step waits for the GPU, and what the GPU does in it."""
    with report.check("waits for the GPU in a step") as values:
        values |= waits(lambda: actor.step(parts, loss))
    with report.check("waits for the GPU in log-probs") as values:
        values |= waits(lambda: actor.log_probs(parts))
    with report.check("kernels of a step") as values:
        values |= kernels(lambda: actor.step(whole, loss))


def bytes_held(actor: Actor, before: int, samples: list[Sample]) -> dict:
    """GB that the actor holds and that a micro-batch takes besides, seen and as planned.

    Args:
        before: bytes that were held before the actor was there.
        samples: of one micro-batch.
    """
    if device.device().type != "cuda":
        raise Skipped("a CPU's process does not tell them apart")
    built = device.held_bytes() - before
    actor.step(samples, loss)
    gc.collect()
    resident = device.held_bytes() - before
    peaks = []
    for work in (actor.accumulate, actor.step):
        device.reset_peak()
        work(samples, loss)
        device.synchronize()
        peaks.append(device.peak_bytes() - before - resident)
    model, tokens = actor.model, len(samples[0].tokens)
    (elements,) = rank_elements(model, Parallel(), 1, Frozen(), True)
    planned = actor_parts(elements, 1, "bfloat16", True)
    found = {
        "built_GB": built / GB,
        "resident_GB": resident / GB,
        "planned_resident_GB": sum(planned.values()) / GB,
        "gradient_GB": peaks[0] / GB,
        "step_GB": peaks[1] / GB,
    }
    for name, fused in {"planned": True, "planned_unfused": False}.items():
        batch = MicroBatch(model, tokens, 1, False, actor.config.recompute, 2, fused)
        bytes_of_it = batch.kept(model.layers, True) + batch.working(True) + elements.largest * 2
        found[f"{name}_gradient_GB"] = bytes_of_it / GB
    return found


def rates(actor: Actor, batches: dict[str, list[Sample]]) -> dict:
    """Tokens a second and the share of an H100's peak, of gradients, log-probs and steps.

    Operations as `megaprune plan` counts them: three forward passes for a gradient, one more of
    what is computed again.

    Args:
        batches: samples of one micro-batch, by how many they are.
    """
    again = 1 if actor.config.recompute == "full" else 0
    found: dict[str, object] = {}
    for name, samples in batches.items():
        tokens = sum(len(s.tokens) for s in samples)
        work = forward_flops(ModelShape("", actor.model), tokens, tokens / len(samples))
        gradient = (3 + again) * (work["layers"] + work["attention"]) + 4 * work["head"]
        seconds = seconds_of(partial(actor.accumulate, samples, loss), 5, 2)
        forward = seconds_of(partial(actor.log_probs, samples), 3)
        step = seconds_of(partial(actor.step, samples, loss), 3)
        found[f"sequences_{name}"] = {
            "gradient_s": seconds,
            "tokens_per_s": tokens / seconds,
            "mfu": gradient / seconds / PEAK,
            "forward_mfu": sum(work.values()) / forward / PEAK,
            "log_probs_s": forward,
            "optimizer_s": step - seconds,
        }
    return found


def waits(work: Callable[[], object]) -> dict:
    """How often the process waited for the GPU, by the lines that made it, most first."""
    if device.device().type == "cuda":
        torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        if device.device().type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    places = Counter(
        "/".join(Path(w.filename).parts[-2:]) + f":{w.lineno}"
        for w in caught
        if "synchroniz" in str(w.message)
    )
    return {"waits": places.total(), "places": dict(places.most_common(12))}


def kernels(work: Callable[[], object]) -> dict:
    """Milliseconds of all kernels, and those that take most of the GPU's time (printed too)."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU]
    key = "self_cpu_time_total"
    if device.device().type == "cuda":
        activities = [ProfilerActivity.CUDA]
        key = "self_device_time_total"
    with profile(activities=activities) as profiler:
        work()
        device.synchronize()
    rows = sorted(profiler.key_averages(), key=lambda row: -getattr(row, key))
    total = sum(getattr(row, key) for row in rows)
    detail = [
        f"{getattr(row, key) / total:6.1%} {row.count:5}  {row.key[:110]}" for row in rows[:18]
    ]
    print("\n".join(detail), flush=True)
    return {"kernels_ms": total / 1e3, "detail": detail}
