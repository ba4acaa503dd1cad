"""Log-probs from hidden states in chunks, against materialised logits: memory and time.

    python benchmarks/logprob.py [--hidden 256] [--dtype float32]

Forward and backward, entropy included, of one rank: T tokens, V rows of vocabulary. Each case runs
in a process of its own; memory is the most it held less what it held before (on a GPU what torch
allocated, on a CPU the resident set), gradients included, inputs not. 152064 rows are QwQ-32B's
vocabulary, 19008 a rank's share at TP8. --hidden 5120 is QwQ-32B's, where time allows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

CASES = [(2048, 152064), (8192, 152064), (8192, 19008), (32768, 19008)]
METHODS = ("logits", "chunks")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        method, tokens, vocab = options.one
        print(json.dumps(measure(method, int(tokens), int(vocab), options)))
        return
    print(f"hidden {options.hidden}, {options.dtype}: forward + backward, log-probs and entropy")
    print("tokens  vocabulary  method   seconds  memory, MiB  time / logits'  memory / logits'")
    for tokens, vocab in CASES:
        seen: dict[str, list[Any]] = {}
        for _ in range(options.runs):
            for method in METHODS:
                seen.setdefault(method, []).append(run(method, tokens, vocab, options))
        for method in METHODS:
            worked = [r for r in seen[method] if r]
            if not worked:
                print(f"{tokens:6} {vocab:11}  {method:7}  out of memory")
                continue
            seconds = sorted(r["seconds"] for r in worked)[len(worked) // 2]
            mib = max(r["bytes"] for r in worked) / 2**20
            pairs = [(a, b) for a, b in zip(seen[method], seen["logits"], strict=True) if a and b]
            ratios = sorted(a["seconds"] / b["seconds"] for a, b in pairs)
            memory = sorted(a["bytes"] / b["bytes"] for a, b in pairs)
            middle = len(pairs) // 2
            compared = f"{ratios[middle]:15.2f} {memory[middle]:17.3f}" if pairs else ""
            print(
                f"{tokens:6} {vocab:11}  {method:7} {seconds:8.2f} {mib:12.0f} {compared}",
                flush=True,
            )


def run(method: str, tokens: int, vocab: int, options: argparse.Namespace) -> dict | None:
    """One measurement in its own process; None if that ran out of memory."""
    command = [sys.executable, __file__, "--one", method, str(tokens), str(vocab)]
    command += ["--hidden", str(options.hidden), "--dtype", options.dtype]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        if done.returncode == -9 or "memory" in done.stderr:
            return None
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout)


def measure(method: str, tokens: int, vocab: int, options: argparse.Namespace) -> dict:
    import torch

    from megaprune.actor.logprobs import log_probs
    from megaprune.distributed import device

    dtype = getattr(torch, options.dtype)
    torch.manual_seed(0)
    where = device.device()
    hidden = torch.randn(tokens, options.hidden, device=where, dtype=dtype).requires_grad_()
    weight = torch.randn(vocab, options.hidden, device=where, dtype=dtype).mul_(0.05)
    weight.requires_grad_()
    targets = torch.randint(0, vocab, (tokens,), device=where)

    def materialised(h):
        logits = (h @ weight.t()).float()
        p = logits.log_softmax(-1)
        return p.gather(1, targets[: len(h), None])[:, 0], -(p.exp() * p).sum(1)

    def chunked(h):
        return log_probs(h, weight, targets[: len(h)], vocab=vocab)

    value = chunked if method == "chunks" else materialised

    def once(h):
        said, entropy = value(h)
        (said.mean() + 0.01 * entropy.mean()).backward()

    once(hidden[:64])  # whatever is prepared once
    hidden.grad = weight.grad = None
    device.synchronize()
    device.reset_peak()
    before, start = device.held_bytes(), time.perf_counter()
    once(hidden)
    device.synchronize()
    return {"seconds": time.perf_counter() - start, "bytes": device.peak_bytes() - before}


if __name__ == "__main__":
    main()
