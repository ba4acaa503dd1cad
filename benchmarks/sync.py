"""Weights from a Megatron-core layout to vLLM: ours against gather-everything + load_weights.

    torchrun --nproc-per-node 2 benchmarks/sync.py [--layers 2] [--vocab 32768] [--dtype bfloat16]

The same processes, the same real vLLM engine, the same weights: QwQ-32B's layer shapes (hidden 5120,
ffn 27648, 40 heads of 128, 8 key heads), as many layers as fit. Source shards are plain tensors laid
out as Megatron-core has them (no gradients and no optimizer, which would not fit beside an engine).

    ours      the plan, in place, in few messages
    gather    each whole Hugging Face tensor on every rank, broadcast from where its pieces are,
              one after another, then vLLM's own load_weights

Both are checked by digests after each run. Memory is the
most that a rank held less what it held before. "wire" is what a rank received from others.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
import zlib
from pathlib import Path

import torch
import torch.distributed as dist

from megaprune.config.run import EngineConfig
from megaprune.distributed import device, world
from megaprune.generation.generator import Generator
from megaprune.recipes.tiny_models import make_tiny
from megaprune.weights.copy_plan import plan
from megaprune.weights.layouts import Pipeline, hf_layout, megatron_layout
from megaprune.weights.model import Model, read_config
from megaprune.weights.sync import WeightSync

SHAPE = {
    "hidden_size": 5120,
    "intermediate_size": 27648,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--vocab", type=int, default=32768)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--vllm-tp", type=int)
    options = parser.parse_args()
    dtype, ranks = getattr(torch, options.dtype), dist.get_world_size()
    scratch: list = [None]
    if dist.get_rank() == 0:
        scratch[0] = tempfile.mkdtemp()
        make_tiny(
            Path(scratch[0]), "qwen2", dtype=options.dtype, vocab_size=options.vocab,
            num_hidden_layers=options.layers, **SHAPE,
        )  # fmt: skip
    dist.broadcast_object_list(scratch)
    folder = Path(scratch[0])
    model = Model.from_config(read_config(folder))
    config = EngineConfig(
        tp=options.vllm_tp or ranks, enforce_eager=True, kv_cache_memory_bytes=1 << 28
    )
    rollout = Generator(folder, config, dtype, max_length=256)
    dist.barrier()
    if dist.get_rank() == 0:
        shutil.rmtree(folder)
    total = sum(torch.Size(s).numel() for s in model.tensors().values()) * dtype.itemsize
    if dist.get_rank() == 0:
        print(
            f"{options.layers} layers, vocabulary {options.vocab}, {total / 1e9:.2f} GB in "
            f"{options.dtype}; {ranks} ranks; vLLM tp {rollout.config.tp}; medians of "
            f"{options.runs} runs in turns, of the slowest rank\n"
            f"source        method  seconds (local  pack  travel  unpack | load)  ours / gather  "
            f"wire, GB  lower bound  messages  rounds  extra MiB"
        )
    layouts = [(1, Pipeline(ranks)), (ranks, Pipeline())] if ranks > 1 else [(1, Pipeline())]
    for tp, pipeline in layouts:
        source = megatron_layout(model, tp, pipeline)
        compare(model, source, rollout, dtype, options.runs, f"TP{tp} x PP{pipeline.stages}")
    rollout.close()


def compare(model, layout, rollout, dtype, runs, name) -> None:
    where, rank = device.device(), dist.get_rank()
    source = {}
    for parameter in layout.ranks[rank]:
        whole_tensors = all(p.box.shape == layout.tensors[p.tensor] for p in parameter.pieces)
        # Replicas are equal, shards are not.
        torch.manual_seed(zlib.crc32(parameter.name.encode()) + (0 if whole_tensors else rank))
        source[parameter.name] = torch.randn(parameter.shape, device=where, dtype=dtype)
    the_plan = plan(layout, rollout.layout)
    transfer = WeightSync(the_plan, source, rollout.parameters(), dtype)
    whole = plan(layout, hf_layout(model))
    results: dict[str, list[dict]] = {"ours": [], "gather": []}
    for _ in range(runs):
        for method in results:
            device.reset_peak()
            before = device.held_bytes()
            dist.barrier()
            start = time.perf_counter()
            if method == "ours":
                sent = transfer.run()
                rollout.weights_changed()
                seen = {**sent.seconds, "load": 0.0, "wire": sent.bytes_received}
                seen |= {"messages": sent.messages, "rounds": sent.rounds}
            else:
                seen = gather(whole, source, rollout, dtype)
            device.synchronize()
            seen["seconds"] = time.perf_counter() - start
            seen["bytes"] = device.peak_bytes() - before
            transfer.verify()
            results[method].append(slowest(seen))
    for method, found in results.items():
        middle = {k: statistics.median(r[k] for r in found) for k in found[0]}
        ratio = statistics.median(
            a["seconds"] / b["seconds"]
            for a, b in zip(results["ours"], results["gather"], strict=True)
        )
        bound = max(the_plan.lower_bound()) * dtype.itemsize / 1e9
        if rank == 0:
            compared = f"{ratio:13.3f}" if method == "ours" else " " * 13
            print(
                f"{name:12}  {method:6} {middle['seconds']:8.2f} ({middle['local']:5.2f} "
                f"{middle['pack']:5.2f} {middle['travel']:7.2f} {middle['unpack']:7.2f} |"
                f"{middle['load']:5.2f})  {compared}  {middle['wire'] / 1e9:8.3f}  {bound:11.3f}  "
                f"{middle['messages']:8.0f}  {middle['rounds']:6.0f}  {middle['bytes'] / 2**20:9.0f}",
                flush=True,
            )


def gather(whole, source, rollout, dtype) -> dict:
    """The other way: all of every tensor on every rank, then the engine's own loader."""
    rank, where = dist.get_rank(), device.device()
    pieces: dict[str, list] = {}
    for copy in whole.copies:
        pieces.setdefault(copy.target.parameter, []).append(copy)
    seen = dict.fromkeys(("local", "pack", "travel", "unpack", "load"), 0.0)
    seen |= {"wire": 0, "messages": 0, "rounds": 0}

    def tensors():
        for name, copies in pieces.items():
            shape = whole.target.tensors[name]
            start = time.perf_counter()
            full = torch.empty(shape, device=where, dtype=dtype)
            for copy in copies:
                piece = torch.empty(copy.target.box.shape, device=where, dtype=dtype)
                if copy.source.rank == rank:
                    piece.copy_(source[copy.source.parameter][copy.source.box.slices])
                else:
                    seen["wire"] += piece.nbytes
                dist.broadcast(piece, copy.source.rank)
                seen["messages"] += 1
                full[copy.target.box.slices] = piece
            device.synchronize()
            seen["travel"] += time.perf_counter() - start
            yield name, full

    start = time.perf_counter()
    rollout.load_weights(tensors())
    device.synchronize()
    seen["load"] = time.perf_counter() - start - seen["travel"]
    seen["rounds"] = seen["messages"]
    return seen


def slowest(seen: dict) -> dict:
    everyone: list = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, seen)
    return {key: max(one[key] for one in everyone) for key in seen}


if __name__ == "__main__":
    sys.exit(world.run(main))
