"""Log-probs and entropies from hidden states: in chunks, against materialised logits."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from megaprune.actor.logprobs import CHUNK_BYTES, log_probs
from megaprune.distributed import device
from smoke.report import Report, expect, seconds_of

GB = 10**9
CASES = [(8192, 19008), (32768, 19008), (8192, 152064)]
"""Tokens, and rows of QwQ-32B's vocabulary on a rank at TP8 and at TP1."""

CHUNKS = sorted({*CHUNK_BYTES.values(), 128 << 20, 2 << 30})
"""Bytes of fp32 logits at once."""


def run(report: Report, scratch: Path, options: argparse.Namespace) -> None:
    hidden = 64 if options.cpu else 5120
    for tokens, vocab in [(512, 1001)] if options.cpu else CASES:
        with report.check(f"T={tokens}, V={vocab}, hidden {hidden}") as values:
            compare(tokens, vocab, hidden, values)


def compare(tokens: int, vocab: int, width: int, values: dict) -> None:
    """Milliseconds and GB of a forward and backward pass, and how far the results are apart."""
    where = device.device()
    torch.manual_seed(0)
    hidden = torch.randn(tokens, width, device=where, dtype=torch.bfloat16).requires_grad_()
    weight = torch.randn(vocab, width, device=where, dtype=torch.bfloat16).mul_(2 * width**-0.5)
    weight.requires_grad_()
    targets = torch.randint(0, vocab, (tokens,), device=where)

    def logits() -> tuple[torch.Tensor, torch.Tensor]:
        every = (hidden @ weight.t()).float().log_softmax(-1)
        return every.gather(1, targets[:, None])[:, 0], -(every.exp() * every).sum(1)

    methods: dict[str, Callable[[], tuple[torch.Tensor, torch.Tensor]]] = {"logits": logits}
    for size in CHUNKS:
        methods[f"chunks_{size >> 20}_MiB"] = partial(
            log_probs, hidden, weight, targets, vocab=vocab, chunk_bytes=size
        )
    results: dict[str, tuple[torch.Tensor, ...]] = {}
    for name, method in methods.items():
        try:
            results[name], values[name] = measured(method, hidden, weight)
        except torch.cuda.OutOfMemoryError:
            values[name] = "out of memory"
        hidden.grad = weight.grad = None
        device.release_cached()
    if "logits" not in results:
        return
    for what, a, b in zip(
        ("log_probs", "entropy", "hidden_grad", "weight_grad"),
        results[f"chunks_{CHUNK_BYTES[where.type] >> 20}_MiB"],
        results["logits"],
        strict=True,
    ):
        difference = float((a - b).float().norm() / b.float().norm())
        values[f"difference_{what}"] = difference
        limit = 0.03 if "grad" in what else 1e-3
        expect(difference < limit, f"{what} within {limit}: {difference}")


def measured(
    method: Callable[[], tuple[torch.Tensor, torch.Tensor]],
    hidden: torch.Tensor,
    weight: torch.Tensor,
) -> tuple[tuple[torch.Tensor, ...], dict[str, float]]:
    """What a method gives, and its milliseconds and GB."""

    def once() -> tuple[torch.Tensor, ...]:
        hidden.grad = weight.grad = None
        values, entropy = method()
        (values.mean() + 0.01 * entropy.mean()).backward()
        assert hidden.grad is not None
        assert weight.grad is not None
        return values.detach(), entropy.detach(), hidden.grad, weight.grad

    device.release_cached()
    device.reset_peak()
    before = device.held_bytes()
    result = once()
    device.synchronize()
    peak = device.peak_bytes() - before
    return result, {"ms": 1000 * seconds_of(once, 3, 1), "GB": peak / GB}
