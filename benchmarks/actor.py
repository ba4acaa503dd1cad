"""Forward and backward of the actor against the plain Hugging Face model: tokens per second.

    torchrun --nproc-per-node 1 benchmarks/actor.py [--shape small|medium] [--runs 5]

The same samples, the same loss, fp32 on a CPU, bf16 on a GPU. Hugging Face computes them one by one,
and in padded batches of about the same number of tokens as the actor's micro-batches; the faster of
the two counts. Methods take turns; medians of the runs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from megaprune.actor.actor import Actor
from megaprune.actor.packing import Sample
from megaprune.algorithms.loss_metrics import combine
from megaprune.algorithms.records import LossOutput
from megaprune.config.run import ActorConfig, OptimizerConfig
from megaprune.distributed import device, world
from megaprune.recipes.tiny_models import make_tiny

SHAPES = {
    "small": {"hidden_size": 192, "num_hidden_layers": 6, "intermediate_size": 512,
              "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 8192},
    "medium": {"hidden_size": 512, "num_hidden_layers": 8, "intermediate_size": 1536,
               "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 32768},
}  # fmt: skip
MAX_TOKENS = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--samples", type=int, default=16)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_tiny(
            Path(scratch) / "model", "qwen2", max_position_embeddings=4096, **SHAPES[options.shape]
        )
        compare(folder, options)


def compare(folder: Path, options: argparse.Namespace) -> None:
    from transformers import AutoModelForCausalLM

    gpu = device.device().type == "cuda"
    dtype = torch.bfloat16 if gpu else torch.float32
    rng = np.random.default_rng(0)
    vocab = SHAPES[options.shape]["vocab_size"]
    lengths = rng.lognormal(6, 0.6, options.samples).astype(int).clip(64, 1500)
    samples = [Sample(rng.integers(0, vocab, n), 32) for n in lengths]
    actor = Actor(folder, ActorConfig(max_tokens=MAX_TOKENS), OptimizerConfig(), dtype)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device.device())
    model.train()

    def ours() -> float:
        shares, _ = actor.accumulate(samples, lambda batch: LossOutput(-batch.log_probs.sum()))
        return combine(shares)[0]

    def theirs(batches: list[list[Sample]]) -> float:
        model.zero_grad(set_to_none=True)
        total = 0.0
        for batch in batches:
            longest = max(len(s.tokens) for s in batch)
            tokens = torch.zeros(len(batch), longest, dtype=torch.long, device=device.device())
            scored = torch.zeros(len(batch), longest, dtype=torch.bool, device=device.device())
            mask = torch.zeros_like(tokens)
            for row, sample in enumerate(batch):
                tokens[row, : len(sample.tokens)] = torch.from_numpy(sample.tokens)
                mask[row, : len(sample.tokens)] = 1
                scored[row, sample.prompt : len(sample.tokens)] = True
            logits = model(tokens, attention_mask=mask if len(batch) > 1 else None).logits[:, :-1]
            rows = logits[scored[:, 1:]].float()
            loss = torch.nn.functional.cross_entropy(rows, tokens[scored], reduction="sum")
            loss.backward()
            total += loss.item()
        return total

    ordered = sorted(samples, key=lambda s: -len(s.tokens))
    padded: list[list[Sample]] = []
    for sample in ordered:
        if padded and len(padded[-1][0].tokens) * (len(padded[-1]) + 1) <= MAX_TOKENS:
            padded[-1].append(sample)
        else:
            padded.append([sample])
    methods = {
        "actor": ours,
        "Hugging Face, one by one": lambda: theirs([[s] for s in samples]),
        "Hugging Face, padded": lambda: theirs(padded),
    }
    losses = {name: method() for name, method in methods.items()}  # and whatever is prepared once
    spread = max(losses.values()) / min(losses.values()) - 1
    assert spread < (2e-2 if gpu else 1e-5), losses
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(options.runs):
        for name, method in methods.items():
            device.synchronize()
            start = time.perf_counter()
            method()
            device.synchronize()
            seconds[name].append(time.perf_counter() - start)
    tokens = int(lengths.sum())
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"{parameters:.1f} M parameters, {tokens} tokens in {len(samples)} samples, {dtype}")
    print("method                       tokens/s   time / actor's (median of the runs)")
    for name, values in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(values, seconds["actor"], strict=True))
        print(f"{name:27} {tokens / statistics.median(values):9.0f}   {ratio:.2f}")


if __name__ == "__main__":
    sys.exit(world.run(main))
