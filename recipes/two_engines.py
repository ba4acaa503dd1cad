"""Both engines in one job: vLLM samples, Megatron-core learns, the weights go over, and so on.

    torchrun --standalone --nproc-per-node 2 recipes/two_engines.py [--tp 1] [--pp 2] [--vllm-tp 2]

A tiny random model is rewarded for even token ids and learns to draw them, by plain policy gradient
with the mean reward as its baseline. Shown for each step: the mean reward, how far the two engines'
log-probs of the sampled tokens are apart, and what the sync sent. Needs transformers and vLLM.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from megaprune.actor.actor import Actor
from megaprune.actor.packing import Sample
from megaprune.algorithms.records import LossBatch, LossOutput
from megaprune.config.run import ActorConfig, EngineConfig, OptimizerConfig
from megaprune.distributed import world
from megaprune.generation.generator import Generator, Prompt, SamplingOptions
from megaprune.recipes.tiny_models import make_tiny
from megaprune.weights.copy_plan import plan
from megaprune.weights.sync import WeightSync

PROMPTS = [Prompt([1, 2, 3 + number], f"prompt {number}") for number in range(8)]


def main() -> None:
    """Run the loop on this rank."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--tp", type=int, default=1)
    parser.add_argument("--pp", type=int, default=1)
    parser.add_argument("--vllm-tp", type=int, default=1)
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()
    with world.phase("start"):
        place = [tempfile.mkdtemp() if dist.get_rank() == 0 else ""]
        if dist.get_rank() == 0:
            make_tiny(Path(place[0]), hidden_size=128, vocab_size=256)
        dist.broadcast_object_list(place)
        folder = Path(place[0])
        rollout = Generator(
            folder,
            EngineConfig(tp=options.vllm_tp, enforce_eager=True),
            torch.float32,
            max_length=64,
        )
        actor = Actor(
            folder,
            ActorConfig(tp=options.tp, pp=options.pp, max_tokens=2048),
            OptimizerConfig(lr=3e-3, weight_decay=0.0),
            torch.float32,
        )
        dist.barrier()
        if dist.get_rank() == 0:
            shutil.rmtree(folder)
    transfer = WeightSync(
        plan(actor.layout, rollout.layout),
        actor.parameters(),
        rollout.parameters(),
        torch.float32,
        verify_every=2,
    )
    for number in range(options.steps):
        with world.phase(f"step {number}"):
            step(number, rollout, actor, transfer)
    rollout.close()


def step(number: int, rollout: Generator, actor: Actor, transfer: WeightSync) -> None:
    """Sample, learn and sync; rank 0 prints a line."""
    start = time.perf_counter()
    mine = [PROMPTS[i] for i in rollout.share(len(PROMPTS))]
    sampled = [
        (np.concatenate([mine[r.prompt].tokens, r.tokens]), r.log_probs)
        for r in rollout.generate(mine, SamplingOptions(n=8, limit=16, seed=number))
    ]
    everyone: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, sampled)
    # The ranks of an engine have the same samples.
    batch = [sample for engine in everyone[:: rollout.config.tp] for sample in engine]
    rewards = np.array([np.mean(tokens[3:] % 2 == 0) for tokens, _ in batch], np.float32)
    samples = [
        Sample(tokens, 3, {"advantage": np.full(len(tokens) - 3, reward - rewards.mean())})
        for (tokens, _), reward in zip(batch, rewards, strict=True)
    ]
    actor_log_probs = np.concatenate(actor.log_probs(samples))
    mismatch = np.abs(
        actor_log_probs - np.concatenate([log_probs for _, log_probs in batch])
    ).mean()

    def loss(batch: LossBatch) -> LossOutput:
        total = -(batch.log_probs * batch.advantage).sum()
        return LossOutput(total / batch.total_tokens)

    actor.step(samples, loss, lr=None)
    sent = transfer.run()
    rollout.weights_changed()
    if dist.get_rank() == 0:
        print(
            f"step {number}: reward {rewards.mean():.3f}, engines apart by {mismatch:.1e} nats, "
            f"sent {sent.bytes_sent / 1e6:.2f} MB in {sent.messages} messages, "
            f"{time.perf_counter() - start:.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(world.run(main))
