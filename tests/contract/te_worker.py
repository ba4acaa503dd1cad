"""The actor with layers of Transformer Engine, beside one without: one JSON line per case.

    te_worker.py ROOT CASES      on the ranks of a job that te_server.py forks

ROOT has Hugging Face folders; CASES is JSON: a list of {"tp", "pp", "sequence", "recompute",
"model": name of a folder}, and of {"checkpoint": dtype, "model"}.
"""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from actors import build_actor

import te_standin
from megaprune.actor.actor import Actor
from megaprune.actor.packing import Sample
from megaprune.algorithms.records import LossOutput
from megaprune.config.run import CheckpointConfig
from megaprune.distributed import world
from megaprune.parallelism import Parallel
from megaprune.trainer.checkpoint import Checkpoints
from megaprune.weights.layouts import Pipeline

LENGTHS = (20, 33, 7, 15)
LR, CLIP = 1e-3, 1.0

Tensors = dict[Any, torch.Tensor]


def samples() -> list[Sample]:
    rng = np.random.default_rng(0)
    return [Sample(rng.integers(0, 509, length), 3) for length in LENGTHS]


def loss(batch):
    return LossOutput(-batch.log_probs.sum() / 50 + batch.entropy.sum() * 1e-3)


def by_place(actor: Actor, tensors: dict[str, torch.Tensor]) -> Tensors:
    """This rank's tensors by what of the model they hold, whatever the layers call them."""
    return {p.pieces: tensors[p.name] for p in actor.layout.ranks[dist.get_rank()]}


def difference(seen: Tensors, expected: Tensors) -> float:
    """The largest over all tensors and ranks, relative to the tensor's largest element."""
    assert seen.keys() == expected.keys()
    worst = max(
        ((seen[key] - expected[key]).abs().max() / expected[key].abs().max().clamp(min=1e-6)).item()
        for key in seen
    )
    everyone = [0.0] * dist.get_world_size()
    dist.all_gather_object(everyone, worst)
    return max(everyone)


def after_torch_adam(actor: Actor, gradients: Tensors, grad_norm: float) -> Tensors:
    """An actor's weights after a step of torch's AdamW."""
    weights = {key: w.clone() for key, w in by_place(actor, actor.parameters()).items()}
    for key, weight in weights.items():
        weight.grad = gradients[key] * min(1.0, CLIP / (grad_norm + 1e-6))
    torch.optim.AdamW(weights.values(), lr=LR, betas=(0.9, 0.999), weight_decay=0.0).step()
    return weights


def compare(folder: Path, case: Parallel, recompute: str) -> dict[str, Any]:
    options = {"max_tokens": 40, "lr": LR, "clip_grad": CLIP, "beta1": 0.9, "beta2": 0.999}
    with te_standin.local_layers():
        local = build_actor(folder, case, distributed=False, **options)
    actors = [
        build_actor(folder, case, distributed=distributed, recompute=recompute, **options)
        for distributed in (False, True)
    ]
    actor = actors[0]
    expected, seen = (np.concatenate(a.log_probs(samples(), 0.7)) for a in (local, actor))
    for each in (local, actor):
        each.accumulate(samples(), loss, temperature=0.7)
    gradients = {key: g.clone() for key, g in by_place(actor, actor.gradients()).items()}
    gradient = difference(gradients, by_place(local, local.gradients()))
    grad_norm = local.step(samples(), loss, temperature=0.7).grad_norm
    weights = after_torch_adam(actor, gradients, grad_norm)
    steps = [a.step(samples(), loss, temperature=0.7) for a in actors]
    return {
        "log_probs": float(np.abs(seen - expected).max()),
        "gradient": gradient,
        "grad_norm": max(abs(step.grad_norm / grad_norm - 1) for step in steps),
        "weights": max(difference(by_place(a, a.parameters()), weights) for a in actors),
        "fused": sum(getattr(m, "fuse_wgrad_accumulation", False) for m in actor._chunks.modules()),
        "norms": sum("layer_norm_weight" in name for name in actor.parameters()),
        "optimizers": sorted(
            {
                type(single.optimizer).__name__
                for a in actors
                for single in getattr(a._optimizer, "chained_optimizers", [a._optimizer])
            }
        ),
    }


def there_and_back(folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    """A checkpoint of FusedAdam, read by other actors: they go on as the one that wrote it."""
    make = {"max_tokens": 40, "lr": LR, "dtype": dtype}
    writer = build_actor(folder, Parallel(2), **make)
    for _ in range(2):
        writer.step(samples(), loss)
    saved = folder.with_name(f"checkpoints-{dtype}")
    if dist.get_rank() == 0:
        saved.mkdir()
    dist.barrier()
    checkpoints = Checkpoints(saved, {}, CheckpointConfig())
    checkpoints.save(2, writer, {})
    checkpoints.finish()
    expected = [writer.step(samples(), loss) for _ in range(2)]
    losses = []
    for case, layers, offload in (
        (Parallel(2), nullcontext, "none"),
        (Parallel(2), nullcontext, "all"),
        (Parallel(1, Pipeline(2)), nullcontext, "none"),
        (Parallel(1, Pipeline(2)), te_standin.local_layers, "none"),
    ):
        with layers():
            reader = build_actor(folder, case, offload=offload, **make)
        assert Checkpoints(saved, {}, CheckpointConfig()).load_latest(reader).step == 2
        losses.append([_step_between_syncs(reader) for _ in range(2)])
    return {"expected": [s.loss for s in expected], "losses": losses}


def _step_between_syncs(actor: Actor) -> float:
    """The loss of a step before which all that may leave the device has left it."""
    actor.offload_state()
    actor.offload_weights()
    return actor.step(samples(), loss).loss


def job() -> None:
    root = Path(sys.argv[1])
    for case in json.loads(sys.argv[2]):
        folder = root / case["model"]
        if "checkpoint" in case:
            line = there_and_back(folder, getattr(torch, case["checkpoint"]))
        else:
            parallel = Parallel(case["tp"], Pipeline(case["pp"]), case["sequence"])
            line = compare(folder, parallel, case["recompute"])
        if dist.get_rank() == 0:
            print(json.dumps(case | line), flush=True)


if __name__ == "__main__":
    sys.exit(world.run(job))
