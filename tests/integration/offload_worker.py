"""Three steps with each kind of offload, beside none: one JSON line for each case.

    torchrun --nproc-per-node 2 offload_worker.py ROOT

ROOT/llama and ROOT/qwen2-tied are Hugging Face folders. Between steps everything is done that a run
does: syncs, passes for log-probs of the actor and of a reference, a checkpoint that is written while
training goes on.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from actors import build_actor

from megaprune.actor.actor import Actor
from megaprune.actor.packing import Sample
from megaprune.actor.state import single_optimizers
from megaprune.algorithms.records import LossOutput
from megaprune.config.run import CheckpointConfig
from megaprune.distributed import world
from megaprune.parallelism import Parallel
from megaprune.trainer.checkpoint import Checkpoints
from megaprune.weights.layouts import Pipeline

KINDS = ("none", "optimizer", "all")
BF16, FP32 = torch.bfloat16, torch.float32
CASES = {
    "DP2": (Parallel(), BF16, {"distributed": False}),
    "DP2 distributed": (Parallel(), BF16, {"distributed": True}),
    "DP2 distributed, half on the CPU": (Parallel(), BF16, {"on_cpu": 0.5}),
    "DP2 distributed, all on the CPU": (Parallel(), BF16, {"on_cpu": 1.0}),
    # The optimizer's shards look into the weights themselves.
    "DP2 distributed, fp32": (Parallel(), FP32, {"distributed": True}),
    "TP2 distributed": (Parallel(2, sequence=True), BF16, {"distributed": True}),
    "PP2, fp32": (Parallel(1, Pipeline(2)), FP32, {"distributed": False}),
    "PP2 VPP2 distributed": (Parallel(1, Pipeline(2, 2)), BF16, {"distributed": True}),
    # The embedding has a copy in the last stage, and is a bucket by itself.
    "PP2 distributed, tied": (Parallel(1, Pipeline(2)), BF16, {"distributed": True}),
    "PP2 distributed with a frozen layer": (
        Parallel(1, Pipeline(2)), BF16, {"distributed": True, "frozen_layers": 1},
    ),
}  # fmt: skip
STEPS = 3


def samples() -> list[Sample]:
    rng = np.random.default_rng(0)
    return [
        Sample(rng.integers(0, 509, length), 2, {"w": rng.normal(size=length - 2).astype("f4")})
        for length in (5, 17, 9, 30, 12, 25)
    ]


def loss(batch):
    return LossOutput(-(batch.log_probs * batch.values["w"]).sum() / 50)


def optimizer_tensors(actor: Actor) -> list[torch.Tensor]:
    tensors = []
    for single in single_optimizers(actor._optimizer):
        if getattr(single, "is_stub_optimizer", False):
            continue
        for group in single.optimizer.param_groups:
            for parameter in group["params"]:
                state = single.optimizer.state.get(parameter, {})
                names = ("exp_avg", "exp_avg_sq", "master_param")
                tensors += [parameter, *(state[n] for n in names if n in state)]
    return tensors


def held(actor: Actor, bound: dict[str, torch.Tensor]) -> dict[str, int]:
    """Bytes in the storages of the device, counted once each.

    While they are away, the optimizer's own tensors lie on the host: those that were bound before
    tell whether the device has anything.
    """
    gradients = [b.grad_data for stage in actor._stages for b in stage.buffers]
    buffers = [
        b.param_data for stage in actor._stages for b in stage.buffers if b.param_data is not None
    ]
    parts = {
        "gradients": gradients,
        "weights": [*bound["weights"], *buffers],
        "optimizer": bound["optimizer"],
    }  # fmt: skip
    return {name: count(tensors) for name, tensors in parts.items()}


def count(tensors) -> int:
    storages = {s._cdata: s.nbytes() for s in (t.untyped_storage() for t in tensors)}
    return sum(storages.values())


def bind(actor: Actor) -> dict[str, list[torch.Tensor]]:
    """Other tensors in the same storages, as a sync or Megatron-core's buffers have them."""
    weights = [p.detach() for p in actor._chunks.parameters()]
    own = {t.untyped_storage()._cdata for t in weights}
    state = [t.detach() for t in optimizer_tensors(actor)]
    return {
        "weights": weights,
        "optimizer": [t for t in state if t.untyped_storage()._cdata not in own],
    }


def shares(actor: Actor) -> tuple[int, int]:
    """Elements that a hybrid optimizer updates on the CPU, and all of its elements."""
    inner = single_optimizers(actor._optimizer)[0].optimizer
    on_cpu = getattr(inner, "gpu_params_map_cpu_copy", {})
    elements = [p.numel() for group in inner.param_groups for p in group["params"]]
    return sum(p.numel() for p in on_cpu), sum(elements)


def digest(tensors) -> str:
    total = hashlib.sha256()
    for tensor in tensors:
        flat = tensor.detach().clone().reshape(-1)  # a storage that numpy has seen is not freed
        total.update(flat.view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


class Trainer:
    """An actor between steps as the loop has it."""

    def __init__(self, folder: Path, case: str, kind: str, out: Path):
        parallel, dtype, fields = CASES[case]
        self.actor = build_actor(
            folder, parallel, dtype, max_tokens=32, lr=1e-3, offload=kind, **fields
        )
        self.reference = self.actor.weights()
        self.checkpoints = Checkpoints(
            out, {"config.json": folder / "config.json"}, CheckpointConfig()
        )
        self.bytes: list[dict[str, int]] = []
        self.numbers: list[str] = []
        self.losses: list[float] = []

    def sync(self) -> None:
        """The engine's memory is free when it wakes, and it reads weights that are whole."""
        bound = bind(self.actor)
        before = held(self.actor, bound)
        self.actor.offload_state()
        during = held(self.actor, bound)
        self.numbers.append(digest(bound["weights"]))
        self.actor.offload_weights()
        self.bytes += [before, during, held(self.actor, bound)]
        self.numbers.append(digest(self.actor.parameters().values()))
        self.bound = bound

    def step(self) -> None:
        actor = self.actor
        with actor.using(self.reference):
            reference = actor.log_probs(samples())
        old = actor.log_probs(samples())
        done = actor.step(samples(), loss)
        self.losses.append(done.loss)
        self.numbers += [
            *(hashlib.sha256(np.concatenate(p).tobytes()).hexdigest() for p in (reference, old)),
            repr((done.loss, done.grad_norm)),
            digest(actor.parameters().values()),
            digest(optimizer_tensors(actor)),
        ]
        self.bytes.append(held(actor, self.bound))


def trained(root: Path, case: str, kind: str) -> dict[str, object]:
    """Three steps, with a checkpoint after the second; and the third again, from there."""
    folder = root / ("qwen2-tied" if case.endswith("tied") else "llama")
    out = root / f"{case}-{kind}"
    trainer = Trainer(folder, case, kind, out)
    for number in range(STEPS):
        trainer.sync()
        if number == 2:
            trainer.checkpoints.save(2, trainer.actor, {})
        trainer.step()
    trainer.sync()  # the host's memory has other bytes now than when it was saved
    trainer.checkpoints.finish()
    resumed = Trainer(folder, case, kind, out)
    resumed.sync()
    assert resumed.checkpoints.load_latest(resumed.actor).step == 2
    resumed.reference = trainer.reference
    resumed.sync()
    resumed.step()
    return {
        "numbers": trainer.numbers,
        "losses": trainer.losses,
        "bytes": trainer.bytes,
        "shares": shares(trainer.actor),
        "third": trainer.numbers[-7:-2],  # behind it are the last sync's two
        "resumed": resumed.numbers[-5:],
    }


def job() -> None:
    root = Path(sys.argv[1])
    for case in CASES:
        for kind in KINDS:
            with world.phase(f"{case}, {kind}"):
                told = trained(root, case, kind)
            everyone = [None] * dist.get_world_size()
            dist.all_gather_object(everyone, told)
            if dist.get_rank() == 0:
                line = {"case": case, "kind": kind, "ranks": everyone}
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(world.run(job))
