"""What a real actor holds, in bytes, with several kinds of parallelism: one JSON line per case.

    torchrun --nproc-per-node N estimate_worker.py ROOT MODEL,MODEL...

Counted at the tensors themselves: storages of parameters, gradient buffers, optimizer state, what
autograd saves in a forward pass.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from actors import build_actor

from megaprune.actor.actor import Actor
from megaprune.actor.packing import Sample
from megaprune.algorithms.records import LossOutput
from megaprune.distributed import world
from megaprune.distributed.objects import all_gather_object
from megaprune.parallelism import Parallel
from megaprune.weights.layouts import Pipeline

PARALLELISMS = {
    1: [Parallel()],
    2: [
        Parallel(),  # dp 2
        Parallel(2),
        Parallel(2, sequence=True),
        Parallel(1, Pipeline(2)),
        Parallel(1, Pipeline(2, 2)),
        Parallel(1, Pipeline(2, first=1)),
    ],
}
LENGTH, SAMPLES, MICRO_BATCHES = 64, 4, 4  # tokens; samples of a micro-batch; of a replica
TOKENS = LENGTH * SAMPLES


def batch(replicas: int) -> list[Sample]:
    rng = np.random.default_rng(0)
    values = {"w": np.ones(LENGTH - 1, np.float32)}
    count = SAMPLES * MICRO_BATCHES * replicas
    return [Sample(rng.integers(0, 500, LENGTH), 1, values) for _ in range(count)]


class Saved:
    """Bytes of the storages that autograd keeps alive, those of parameters left out.

    Args:
        forward: when the first loss is there; None if this stage computes none.
        peak: at the most.
    """

    def __init__(self, actor: Actor):
        self._not = {p.untyped_storage().data_ptr() for p in actor.parameters().values()}
        self._holders: dict[int, int] = {}
        self._now = self.peak = 0
        self.forward: int | None = None

    def pack(self, tensor: torch.Tensor) -> Held:
        return Held(tensor, self)

    def change(self, tensor: torch.Tensor, by: int) -> None:
        storage = tensor.untyped_storage()
        at = storage.data_ptr()
        if at in self._not:
            return
        before = self._holders.get(at, 0)
        self._holders[at] = before + by
        self._now += storage.nbytes() * (bool(before + by) - bool(before))
        self.peak = max(self.peak, self._now)

    def loss(self, batch):
        if self.forward is None:
            self.forward = self._now
        return LossOutput(-(batch.log_probs * batch.values["w"]).sum() + batch.entropy.sum())


class Held:
    """A tensor that autograd keeps: counted from when it is saved until it is dropped."""

    def __init__(self, tensor: torch.Tensor, saved: Saved):
        self.tensor, self._saved = tensor, saved
        saved.change(tensor, 1)

    def __del__(self):
        self._saved.change(self.tensor, -1)


def model_bytes(actor: Actor) -> int:
    storages = {p.untyped_storage().data_ptr(): p for p in actor.parameters().values()}
    return sum(p.untyped_storage().nbytes() for p in storages.values())


def optimizer_bytes(actor: Actor) -> int:
    """Masters that are not views of the model, and moments; steps, of one element, left out."""
    model = {p.untyped_storage().data_ptr() for p in actor.parameters().values()}
    total = 0
    optimizer = actor._optimizer
    for one in getattr(optimizer, "chained_optimizers", [optimizer]):
        for group in one.optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.untyped_storage().data_ptr() not in model:
                    total += parameter.nbytes
        for state in one.optimizer.state.values():
            total += sum(state[name].nbytes for name in ("exp_avg", "exp_avg_sq"))
    return total


def measure(root: Path, name: str, parallel: Parallel, **options) -> None:
    actor = build_actor(root / name, parallel, max_tokens=TOKENS, lr=1e-3, **options)
    saved = Saved(actor)
    samples = batch(parallel.dp(dist.get_world_size()))
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda held: held.tensor):
        step = actor.step(samples, saved.loss)
    mine = {
        "weights": model_bytes(actor),
        "gradients": sum(b.grad_data.nbytes for stage in actor._stages for b in stage.buffers),
        "optimizer": optimizer_bytes(actor),
        "parameters": len(actor.parameters()),
        "kept": saved.forward,
        "peak": saved.peak,
    }
    everyone = all_gather_object(mine)
    if dist.get_rank() == 0:
        pipeline = parallel.pipeline
        line = {
            "model": name, "tp": parallel.tp, "pp": pipeline.stages, "vpp": pipeline.chunks,
            "first": pipeline.first, "sequence": parallel.sequence,
            "dtype": str(actor.dtype).removeprefix("torch."), "recompute": actor.config.recompute,
            "distributed": actor.optimizer.distributed, "frozen": actor.config.frozen_layers,
            "micro_batches": step.micro_batches, "ranks": everyone,
        }  # fmt: skip
        print(json.dumps(line), flush=True)


def job() -> None:
    root, (name, tied) = Path(sys.argv[1]), sys.argv[2].split(",")
    world_size = dist.get_world_size()
    for parallel in PARALLELISMS[world_size]:
        with world.phase(str(parallel)):
            for dtype in (torch.float32, torch.bfloat16):
                for distributed in (True, False):
                    measure(root, name, parallel, dtype=dtype, distributed=distributed)
            for recompute in ("core_attention", "full"):
                measure(root, name, parallel, dtype=torch.bfloat16, recompute=recompute)
            measure(root, tied, parallel, dtype=torch.bfloat16)
    measure(root, tied, Parallel(world_size), dtype=torch.bfloat16, frozen_layers=2)
    if world_size == 2:
        measure(root, tied, Parallel(1, Pipeline(2)), dtype=torch.bfloat16, frozen_layers=1)


if __name__ == "__main__":
    sys.exit(world.run(job))
