"""Chunked vocabulary-parallel log-probs against the dense computation; one JSON line per case."""

from __future__ import annotations

import json
import sys
from itertools import product

import torch
import torch.distributed as dist

from megaprune.actor.logprobs import log_probs
from megaprune.distributed import world

N, HIDDEN, VOCAB, PADDED = 37, 24, 509, 520
CHUNKS = (1, 3 * 4 * PADDED, 1 << 30)  # one token at a time; a few; all


def job() -> None:
    ranks, rank = dist.get_world_size(), dist.get_rank()
    group = dist.group.WORLD if ranks > 1 else None
    for temperature, chunk, main, dtype in product(
        (1.0, 0.6), CHUNKS, (False, True), (torch.float32, torch.bfloat16)
    ):
        generator = torch.Generator().manual_seed(0)
        hidden = torch.randn(N, HIDDEN, generator=generator).to(dtype)
        weight = torch.randn(PADDED, HIDDEN, generator=generator).mul(0.3).to(dtype)
        targets = torch.randint(0, VOCAB, (N,), generator=generator)
        a, b = torch.randn(2, N, generator=generator)

        dense_hidden = hidden.double().requires_grad_()
        dense_weight = weight.double().requires_grad_()
        p = (dense_hidden @ dense_weight[:VOCAB].t() / temperature).log_softmax(-1)
        chosen = p.gather(1, targets[:, None])[:, 0]
        entropy = -(p.exp() * p).sum(1)
        ((a * chosen).sum() + (b * entropy).sum()).backward()

        mine = slice(rank * PADDED // ranks, (rank + 1) * PADDED // ranks)
        own_hidden = hidden.clone().requires_grad_()
        own_weight = weight[mine].clone().requires_grad_()
        if main:
            own_weight.main_grad = torch.full_like(own_weight, 0.5, dtype=torch.float32)
        said = log_probs(
            own_hidden, own_weight, targets,
            vocab=VOCAB, temperature=temperature, group=group, chunk_bytes=chunk,
        )  # fmt: skip
        ((a * said.log_probs).sum() + (b * said.entropy).sum()).backward()
        grad = own_hidden.grad.float()
        dist.all_reduce(grad)
        if main:
            assert own_weight.grad is None
            of_weight = own_weight.main_grad - 0.5
        else:
            of_weight = own_weight.grad

        def off(seen, expected):
            scale = expected.abs().max().clamp(min=1.0)
            worst = ((seen.double() - expected).abs().max() / scale).float()
            dist.all_reduce(worst, dist.ReduceOp.MAX)
            return worst.item()

        line = {
            "ranks": ranks, "temperature": temperature, "chunk": chunk, "main_grad": main,
            "dtype": str(dtype), "log_probs": off(said.log_probs, chosen.detach()),
            "entropy": off(said.entropy, entropy.detach()),
            "hidden": off(grad, dense_hidden.grad),
            "weight": off(of_weight, dense_weight.grad[mine]),
            "padding": float(of_weight[max(0, VOCAB - mine.start) :].abs().sum()),
            "untouched": torch.equal(own_hidden.detach(), hidden),
        }  # fmt: skip
        if rank == ranks - 1:
            print(json.dumps(line), flush=True)
    near_certain(group)


def near_certain(group) -> None:
    """Gradients of tokens with probabilities up to 1 - 1e-15, from logits without rounding."""
    count, ranks, rank = 64, dist.get_world_size(), dist.get_rank()
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(PADDED, count, generator=generator) * 2
    targets = torch.randint(0, VOCAB, (count,), generator=generator)
    weight[targets, torch.arange(count)] = torch.linspace(10, 40, count)
    a, b = torch.randn(2, count, generator=generator)

    dense = weight.double().requires_grad_()
    p = dense[:VOCAB].t().log_softmax(-1)
    chosen = p.gather(1, targets[:, None])[:, 0]
    entropy = -(p.exp() * p).sum(1)
    mine = slice(rank * PADDED // ranks, (rank + 1) * PADDED // ranks)
    for chunk, with_entropy in product(CHUNKS, (0.0, 1.0)):
        (expected,) = torch.autograd.grad(
            (a * chosen).sum() + with_entropy * (b * entropy).sum(), dense, retain_graph=True
        )
        own = weight[mine].clone().requires_grad_()
        said = log_probs(
            torch.eye(count), own, targets, vocab=VOCAB, group=group, chunk_bytes=chunk
        )
        ((a * said.log_probs).sum() + with_entropy * (b * said.entropy).sum()).backward()
        off = (own.grad.double() - expected[mine]).abs().max() / a.abs().max()
        dist.all_reduce(off, dist.ReduceOp.MAX)
        if rank == 0:
            print(json.dumps({"certain": off.item(), "chunk": chunk}), flush=True)


if __name__ == "__main__":
    sys.exit(world.run(job))
