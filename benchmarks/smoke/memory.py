"""Actor and engine on one GPU in turns: sleep, train, wake, sync into the same addresses."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from megaprune.actor.actor import Actor
from megaprune.config.run import ActorConfig, OptimizerConfig
from megaprune.distributed import device
from megaprune.weights.copy_plan import plan
from megaprune.weights.layouts import vllm_layout
from megaprune.weights.model import Model, read_config
from megaprune.weights.sync import WeightsDiffer, WeightSync
from smoke.actor import loss
from smoke.models import QWQ_LAYER, TINY_LAYER, samples_of, write_model
from smoke.pools import Pools
from smoke.report import Report, expect
from smoke.start import start

GB = 10**9


def run(report: Report, scratch: Path, options: argparse.Namespace) -> None:
    start()
    lengths: tuple[int, ...] = (4096, 2048, 1000)
    shape, cache = {**QWQ_LAYER, "vocab_size": 19008}, 30 * GB
    if options.cpu:
        shape, cache, lengths = {**TINY_LAYER, "vocab_size": 512}, 1 << 20, (100, 50)
    folder = write_model(scratch / "model", num_hidden_layers=2, **shape)
    with report.check("sleep, train, wake, sync, twice") as values:
        values["allocator"] = os.environ.get("PYTORCH_ALLOC_CONF", "")
        turns(folder, cache, lengths, options.cumem, values)


def free() -> int:
    """Bytes of the GPU that nobody has."""
    return torch.cuda.mem_get_info()[0] if device.device().type == "cuda" else 0


def timed(values: dict[str, object], name: str, work: Callable[[], object]) -> None:
    """Seconds of some work, added to the list under its name."""
    device.synchronize()
    began = time.perf_counter()
    work()
    device.synchronize()
    seconds = values.setdefault(name, [])
    assert isinstance(seconds, list)
    seconds.append(time.perf_counter() - began)


def turns(
    folder: Path, cache: int, lengths: tuple[int, ...], cumem: Path | None, values: dict
) -> None:
    """As megaprune's engines take turns; everything is checked after each wake."""
    model = Model.from_config(read_config(folder))
    engine = vllm_layout(model)
    pools = Pools(engine, cache, cumem)
    addresses = pools.addresses()
    values["pools_GB"] = pools.nbytes / GB
    replay, outputs = captured(pools, model)
    samples = samples_of(lengths, model.vocab)
    actor: Actor | None = None
    sync: WeightSync | None = None
    for _ in range(2):  # the second time nothing is new
        before = free()
        timed(values, "sleep_s", pools.sleep)
        values["freed_GB"] = (free() - before) / GB
        if device.device().type == "cuda":
            expect(free() - before > 0.99 * pools.nbytes, f"all memory of the pools: {values}")
        actor = actor or Actor(folder, ActorConfig(), OptimizerConfig(lr=1e-3), torch.bfloat16)
        timed(values, "step_s", partial(actor.step, samples, loss))
        timed(values, "release_s", device.release_cached)
        timed(values, "wake_weights_s", partial(pools.wake, "weights"))
        sync = sync or WeightSync(
            plan(actor.layout, engine), actor.parameters(), pools.weights, torch.bfloat16
        )
        timed(values, "sync_s", sync.run)
        timed(values, "verify_s", sync.verify)
        timed(values, "wake_cache_s", partial(pools.wake, "kv_cache"))
        expect(pools.addresses() == addresses, "tensors lie where they lay before the sleep")
        pools.cache[: 1 << 20] = 3
        replay()
        for seen, wanted in zip(outputs(), expected(pools, model), strict=True):
            expect(bool(wanted.isfinite().all()), "products of the weights are finite")
            same = torch.allclose(seen, wanted, rtol=0.02, atol=0.02)
            expect(same, "a graph captured before the sleep computes with what came after it")
    assert sync is not None
    first = next(iter(pools.weights.values()))
    first.view(-1)[5] += 1
    try:
        sync.verify()
    except WeightsDiffer as error:
        values["verify_says"] = str(error).splitlines()[1][:120]
    expect("verify_says" in values, "verify finds one changed element")


def expected(pools: Pools, model: Model) -> list[torch.Tensor]:
    """Products of a fixed input with the first and the last of the weights, and a sum of the cache."""
    tokens = torch.arange(64, device=device.device()) % model.vocab
    hidden = pools.weights["model.embed_tokens.weight"][tokens]
    last = f"model.layers.{model.layers - 1}.mlp.gate_up_proj.weight"
    return [
        hidden @ pools.weights[last].t(),
        hidden @ pools.weights["lm_head.weight"].t(),
        pools.cache[: 1 << 20].float().sum(),
    ]


def captured(
    pools: Pools, model: Model
) -> tuple[Callable[[], object], Callable[[], list[torch.Tensor]]]:
    """A CUDA graph of `expected`: what replays it, and what gives its outputs."""
    if device.device().type != "cuda":
        return lambda: None, lambda: expected(pools, model)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        expected(pools, model)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        outputs = expected(pools, model)
    return graph.replay, lambda: outputs
