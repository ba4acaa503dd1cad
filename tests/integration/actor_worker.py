"""The actor over every division of a world, against Hugging Face: one JSON line per case.

    torchrun --nproc-per-node N actor_worker.py ROOT MODEL,MODEL...

ROOT/MODEL is a Hugging Face folder; ROOT/MODEL.pt holds the samples, and what transformers makes of
them one by one: log-probs, loss, gradients, and weights after a step of torch's AdamW.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from actors import build_actor

from megaprune.actor.actor import Actor
from megaprune.actor.packing import Sample
from megaprune.actor.state import single_optimizers
from megaprune.algorithms.loss_metrics import (
    combine,
    maximum,
    mean_by_sequence,
    mean_by_token,
    percentiles,
    sum_of,
)
from megaprune.algorithms.pair_losses import DpoLoss
from megaprune.algorithms.records import LossOutput
from megaprune.config.run import CheckpointConfig
from megaprune.distributed import world
from megaprune.parallelism import Parallel
from megaprune.trainer.checkpoint import Checkpoints
from megaprune.weights.layouts import Pipeline

CASES = {
    1: [Parallel()],
    2: [
        Parallel(),  # dp 2
        Parallel(2),
        Parallel(2, sequence=True),
        Parallel(1, Pipeline(2)),
        Parallel(1, Pipeline(2, 2)),
        Parallel(1, Pipeline(2, first=1)),
    ],
    4: [
        Parallel(2),  # tp 2, dp 2
        Parallel(2, Pipeline(2)),
        Parallel(2, Pipeline(2, 2), sequence=True),
        Parallel(1, Pipeline(4)),
        Parallel(1, Pipeline(2, 2)),  # pp 2, vpp 2, dp 2
        Parallel(4),  # more ranks than key heads
    ],
}
BUDGETS = (32, 1000)  # tokens in a micro-batch: several, and one on each rank
TEMPERATURE = 0.7
LR = 1e-3


def samples_of(saved: list[dict]) -> list[Sample]:
    return [Sample(s["tokens"].numpy(), s["prompt"], {"w": s["w"].numpy()}) for s in saved]


def pairs_of(saved: list[dict]) -> list[Sample]:
    """The samples again, two of which are a pair."""
    return [
        Sample(
            s["tokens"].numpy(),
            s["prompt"],
            {
                "advantage": np.full(len(s["w"]), s["advantage"], np.float32),
                "reference": s["reference"].numpy(),
            },
        )
        for s in saved
    ]


def loss(batch):
    """What expected_of in test_actor.py computes, sample by sample; and a metric of each kind."""
    weights = batch.values["w"]
    share = -(batch.log_probs * weights).sum() / 50 + batch.entropy.sum() * 1e-3
    sums = batch.sum_by_sequence(weights)
    metrics = {
        "tokens": sum_of(torch.ones_like(weights)),
        "w": mean_by_token(weights),
        "sum": mean_by_sequence(sums),
        "largest": maximum(weights),
        "spread": percentiles(sums, 10, 50),
    }
    return LossOutput(share, metrics)


def check(root: Path, name: str, case: Parallel) -> None:
    expected = torch.load(root / f"{name}.pt")
    samples = samples_of(expected["samples"])
    for budget in BUDGETS:
        make = partial(build_actor, root / name, case, max_tokens=budget, lr=LR, clip_grad=1.0)
        actor = make(distributed=False)
        said = actor.log_probs(samples, TEMPERATURE)
        seen = torch.from_numpy(np.concatenate(said))
        actor.accumulate(samples, loss, temperature=TEMPERATURE)
        gradient = compared(actor, actor.gradients(), expected["gradients"])
        pairs = pairs_of(expected["samples"])
        shares, _ = actor.accumulate(pairs, DpoLoss(beta=0.1), unit=2, temperature=TEMPERATURE)
        of_pairs = compared(actor, actor.gradients(), expected["pair_gradients"])
        step = actor.step(samples, loss, temperature=TEMPERATURE, lr=None)
        other = make(distributed=True)
        other.step(samples, loss, temperature=TEMPERATURE, lr=None)
        weights = [
            max(compared(a, a.parameters(), expected["weights"], expected["gradients"]).values())
            for a in (actor, other)
        ]
        if dist.get_rank() == 0:
            line = {
                "name": name, "case": str(case), "budget": budget,
                "log_probs": (seen - expected["log_probs"]).abs().max().item(),
                "loss": abs(step.loss / expected["loss"] - 1),
                "grad_norm": abs(step.grad_norm / expected["grad_norm"] - 1),
                "gradient": max(gradient.values()), "compared": len(gradient),
                "pair_loss": abs(combine(shares)[0] / expected["pair_loss"] - 1),
                "pair_gradient": max(of_pairs.values()),
                "weights": weights[0], "weights_distributed": weights[1],
                "metrics": step.metrics, "micro_batches": step.micro_batches,
            }  # fmt: skip
            print(json.dumps(line), flush=True)


def compared(actor: Actor, mine: dict, expected: dict, gradients=None) -> dict[str, float]:
    """For each tensor: the largest difference from Hugging Face's, over all ranks, relative to its
    largest element. Padding must be zero.

    With `gradients`, tensors are weights after one step of Adam: differences are relative to the
    step, where a gradient is large enough that rounding cannot turn it (Adam's first step is lr
    times its sign)."""
    found = {}
    for parameter in actor.layout.ranks[dist.get_rank()]:
        if parameter.name not in mine:
            continue  # frozen
        held = mine[parameter.name]
        for piece in parameter.pieces:
            tensor = expected[piece.tensor]
            difference = (held[piece.at.slices] - tensor[piece.box.slices]).abs()
            scale = max(tensor.abs().max().item(), 1e-3)
            if gradients is not None:
                difference *= gradients[piece.tensor][piece.box.slices].abs() > 1e-5
                scale = LR
            difference = difference.max()
            worst = found.get(piece.tensor, 0.0)
            found[piece.tensor] = max(worst, difference.item() / scale)
        for box in parameter.padding:
            if held[box.slices].any():
                found[f"padding of {parameter.name}"] = float("inf")
    everyone = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, found)
    together: dict[str, float] = {}
    for one in everyone:
        for name, difference in one.items():
            together[name] = max(together.get(name, 0.0), difference)
    return together


def not_finite(root: Path, name: str) -> None:
    """A loss of one rank that is not a number ends the step on all, and changes nothing."""
    samples = samples_of(torch.load(root / f"{name}.pt")["samples"])
    actor = build_actor(root / name, max_tokens=32)
    before = {n: p.clone() for n, p in actor.parameters().items()}

    def odd(batch):
        share = loss(batch)
        return replace(share, loss=share.loss * float("nan")) if dist.get_rank() == 1 else share

    try:
        actor.step(samples, odd)
        error = ""
    except FloatingPointError as raised:
        error = str(raised)
    same = all(torch.equal(p, before[n]) for n, p in actor.parameters().items())
    everyone = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, (error, same))
    if dist.get_rank() == 0:
        print(json.dumps({"not_finite": everyone}), flush=True)


def frozen(root: Path, name: str) -> None:
    """What is frozen stays and has no optimizer state, also where that is all of a stage; the rest
    learns as if alone, and goes on from a checkpoint to the bit."""
    expected = torch.load(root / f"{name}.pt")
    samples = samples_of(expected["samples"])
    for number, (case, options) in enumerate(
        (
            (Parallel(1, Pipeline(2)), {"frozen_layers": 2, "distributed": True}),
            (Parallel(2), {"frozen_layers": 1, "distributed": False}),
            (Parallel(1, Pipeline(2)), {"frozen_layers": 1, "recompute": "full"}),
            (Parallel(1, Pipeline(2)), {"trainable_layers": 1, "distributed": False}),
            # The fp32 masters are then kept apart from the moments.
            (Parallel(1, Pipeline(2)), {"trainable_layers": 1, "distributed": False, "bf16": True}),
        )
    ):
        fields = {k: v for k, v in options.items() if k != "bf16"}
        dtype = torch.bfloat16 if "bf16" in options else torch.float32
        make = partial(
            build_actor, root / name, case, dtype, max_tokens=32, lr=LR, clip_grad=0.0, **fields
        )
        actor = make()
        before = {n: p.clone() for n, p in actor.parameters().items()}
        trained = actor.gradients()
        actor.accumulate(samples, loss, temperature=TEMPERATURE)
        gradient = max(compared(actor, trained, expected["gradients"]).values())
        step = actor.step(samples, loss, temperature=TEMPERATURE, lr=None)
        moved = {n for n, p in actor.parameters().items() if not torch.equal(p, before[n])}
        state = [
            value.nbytes
            for single in single_optimizers(actor._optimizer)
            for kept in single.optimizer.state.values()
            for value in kept.values()
            if value.dim()
        ]
        saved = Checkpoints(root / f"{name}-{number}", {}, CheckpointConfig(wait=True))
        saved.save(1, actor, {})
        saved.finish()
        other = make()
        saved.load_latest(other)
        for one in (actor, other):
            one.step(samples, loss, temperature=TEMPERATURE, lr=None)
        mine = {
            "trained": sorted(trained), "moved": sorted(moved),
            "state_bytes": sum(state), "elements": sum(g.numel() for g in trained.values()),
            "resumed": all(p.equal(other.parameters()[n]) for n, p in actor.parameters().items()),
        }  # fmt: skip
        everyone = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, mine)
        if dist.get_rank() == 0:
            line = {"frozen": options, "model": name, "case": str(case), "ranks": everyone}
            line["loss"] = abs(step.loss / expected["loss"] - 1)
            print(json.dumps({**line, "gradient": gradient}), flush=True)


def few(root: Path, name: str) -> None:
    """Fewer samples than micro-batches, and micro-batches that nothing is learned from."""
    expected = torch.load(root / f"{name}.pt")
    samples = samples_of(expected["samples"])
    count = samples[0].scored
    for case in (Parallel(), Parallel(1, Pipeline(2)), Parallel(1, Pipeline(2, 2))):
        actor = build_actor(root / name, case, max_tokens=32, clip_grad=0.0)
        one = np.concatenate(actor.log_probs(samples[:1], TEMPERATURE))

        def sometimes(batch):
            if len(batch.values["w"]) != count:
                return LossOutput(torch.zeros(()))
            return loss(batch)

        alone = actor.step(samples[:1], sometimes, temperature=TEMPERATURE)
        nothing = actor.step(samples[:3], lambda _: LossOutput(torch.zeros(())))
        if dist.get_rank() == 0:
            wrong = np.abs(one - expected["log_probs"][:count].numpy()).max()
            line = {"few": str(case), "log_probs": float(wrong), "grad_norm": alone.grad_norm}
            line |= {"nothing": nothing.grad_norm, "none": actor.log_probs([])}
            print(json.dumps(line), flush=True)
        else:
            actor.log_probs([])


def bf16(root: Path, name: str) -> None:
    """bf16 with fp32 masters: close to fp32, small steps are not lost, and recompute is exact."""
    expected = torch.load(root / f"{name}.pt")
    samples = samples_of(expected["samples"])
    steps = {}
    for recompute in ("none", "core_attention", "full"):
        actor = build_actor(
            root / name, Parallel(2), torch.bfloat16, max_tokens=32, lr=1e-5, recompute=recompute
        )
        before = torch.cat([p.flatten() for p in actor.parameters().values()])
        losses = [
            actor.step(samples, loss, temperature=TEMPERATURE, lr=None).loss for _ in range(20)
        ]
        after = torch.cat([p.flatten() for p in actor.parameters().values()])
        steps[recompute] = (losses, after)
        if dist.get_rank() == 0:
            line = {
                "bf16": recompute, "losses": losses,
                "loss": abs(losses[0] / expected["loss"] - 1),
                "moved": (after != before).float().mean().item(),
                "as_without": bool(torch.equal(after, steps["none"][1])),
            }  # fmt: skip
            print(json.dumps(line), flush=True)


def job() -> None:
    root, names = Path(sys.argv[1]), sys.argv[2].split(",")
    for case in CASES[dist.get_world_size()]:
        for name in names:
            with world.phase(f"{name}, {case}"):
                check(root, name, case)
    if dist.get_world_size() == 2:
        frozen(root, names[0])
        frozen(root, "qwen2-tied")
        not_finite(root, names[0])
        few(root, names[0])
        bf16(root, names[0])


if __name__ == "__main__":
    sys.exit(world.run(job))
