"""What leaves the GPU while an engine generates comes back to the bit, and is really gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from megaprune.actor.actor import Actor, Loss
from megaprune.actor.packing import Sample
from megaprune.distributed import device
from smoke.report import expect


def offload(actor: Actor, samples: list[Sample], loss: Loss) -> dict:
    """Everything comes back to the bit, and the memory was really given back in between.

    The first time pages of the host are locked; the seconds are those of the second.
    """
    weights_leave = actor.config.offload == "all"
    actor.step(samples, loss)
    values: dict = {}
    for times in ("first", "second"):
        actor._offload.reload_all()
        before, parts = np.concatenate(actor.log_probs(samples)), parts_of(actor)
        bytes_of = {name: storage_bytes(tensors) for name, tensors in parts.items()}
        copies = {n: [t.to("cpu", copy=True) for t in parts[n]] for n in ("weights", "optimizer")}
        held = allocated()
        seconds = {"state_away": timed(actor.offload_state)}
        leaving = bytes_of["gradients"] + bytes_of["optimizer"]
        freed = held - allocated()
        seconds["weights_away"] = timed(actor.offload_weights)
        leaving_then = leaving + (bytes_of["weights"] if weights_leave else 0)
        freed_then = held - allocated()
        left = {name: storage_bytes(tensors) for name, tensors in parts.items()}
        away = {"gradients": 0, "optimizer": 0} | ({"weights": 0} if weights_leave else {})
        expect(left == bytes_of | away, f"storages are empty: {left}, they had {bytes_of}")
        if device.device().type == "cuda":
            expect(
                abs(freed - leaving) < 0.01 * leaving
                and abs(freed_then - leaving_then) < 0.01 * leaving_then,
                f"freed {freed} of {leaving}, then {freed_then} of {leaving_then}",
            )
        seconds["weights_back"] = timed(actor._offload.reload_for_pass)
        after = np.concatenate(actor.log_probs(samples))
        expect(bool((before == after).all()), "log-probs are as they were")
        seconds["state_back"] = timed(actor._offload.reload_all)
        for name, tensors in copies.items():
            same = [torch.equal(a.cpu(), b) for a, b in zip(parts[name], tensors, strict=True)]
            expect(all(same), f"{name}: {same.count(False)} of {len(same)} tensors differ")
        values[times] = seconds
    moved = 2 * (bytes_of["optimizer"] + (bytes_of["weights"] if weights_leave else 0))
    values |= {"GB": {name: nbytes / 1e9 for name, nbytes in bytes_of.items()}}
    values["GB_per_second"] = moved / 1e9 / sum(values["second"].values())
    steps = [actor.step(samples, loss).loss for _ in range(2)]
    expect(steps[1] < steps[0], f"training goes on: {steps}")
    return values


def parts_of(actor: Actor) -> dict[str, list[torch.Tensor]]:
    """Other tensors in the storages of what may leave: they see when a storage is empty."""
    gradients = [buffer.grad_data for stage in actor._stages for buffer in stage.buffers]
    return {
        "gradients": gradients,
        "weights": [parameter.detach() for parameter in actor._chunks.parameters()],
        "optimizer": [tensor.detach() for tensor in optimizer_tensors(actor)],
    }


def storage_bytes(tensors: Sequence[torch.Tensor]) -> int:
    storages = {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in tensors)}
    return sum(storages.values())


def allocated() -> int:
    """Bytes that torch has in use on the GPU; 0 on a CPU."""
    return device.held_bytes() if device.device().type == "cuda" else 0


def timed(action: Callable[[], None]) -> float:
    device.synchronize()
    began = time.perf_counter()
    action()
    device.synchronize()
    return time.perf_counter() - began


def optimizer_tensors(actor: Actor) -> list[torch.Tensor]:
    """fp32 masters and moments, in their order."""
    optimizer = actor._optimizer
    found = []
    for one in getattr(optimizer, "chained_optimizers", [optimizer]):
        for group in one.optimizer.param_groups:
            for parameter in group["params"]:
                state = one.optimizer.state[parameter]
                found += [parameter.detach(), state["exp_avg"], state["exp_avg_sq"]]
    return found
