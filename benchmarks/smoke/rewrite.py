"""The weights of QwQ-32B's share at TP8 written into an engine's memory, beside its cache."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import torch

from megaprune.distributed import device
from megaprune.recipes.models import CONFIGS
from megaprune.weights.copy_plan import plan
from megaprune.weights.layouts import megatron_layout, vllm_layout
from megaprune.weights.model import Model
from megaprune.weights.sync import WeightSync
from smoke.memory import GB, timed
from smoke.pools import Pools
from smoke.report import Report, expect
from smoke.start import start


def run(report: Report, scratch: Path, options: argparse.Namespace) -> None:
    start()
    config = dict(CONFIGS["QwQ-32B"])
    cache = 38 * GB
    if options.cpu:
        config |= {"hidden_size": 320, "intermediate_size": 512, "num_hidden_layers": 2}
        config |= {"vocab_size": 4096}
        cache = 1 << 20
    with report.check("QwQ-32B's share at TP8, pipeline stages 1") as values:
        values["allocator"] = os.environ.get("PYTORCH_ALLOC_CONF", "")
        rewrite(Model.from_config(config), cache, options.cumem, values)


def rewrite(model: Model, cache: int, cumem: Path | None, values: dict) -> None:
    source_layout = megatron_layout(model, 8, norms="te")
    engine = vllm_layout(model, 8)
    began = time.perf_counter()
    copies = plan(source_layout, engine)
    values["plan_s"] = time.perf_counter() - began
    expect(not copies.traffic, "at TP8 and TP8 nothing travels")
    source = {
        p.name: torch.randn(p.shape, device=device.device()).bfloat16()
        for p in source_layout.ranks[0]
    }
    pools = Pools(engine, cache, cumem)
    addresses = pools.addresses()
    weights = sum(t.nbytes for t in pools.weights.values())
    values |= {"weights_GB": weights / GB, "cache_GB": cache / GB}
    sync: WeightSync | None = None
    for _ in range(3):
        timed(values, "sleep_s", pools.sleep)
        timed(values, "wake_weights_s", lambda: pools.wake("weights"))
        sync = sync or WeightSync(copies, source, pools.weights, torch.bfloat16)
        timed(values, "sync_s", sync.run)
        timed(values, "verify_s", sync.verify)
        timed(values, "wake_cache_s", lambda: pools.wake("kv_cache"))
    values["sync_TB_per_s"] = 2 * weights / min(values["sync_s"]) / 1e12
    expect(pools.addresses() == addresses, "tensors lie where they lay before the sleep")
