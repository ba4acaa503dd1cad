"""What of the model in training is on the device: all in a pass, less while the engine generates.

With `actor.offload=optimizer`, gradients and the optimizer's state are away while responses are
generated, and the optimizer's state is there for the update alone: passes and update take turns
with its memory. With `all`, weights are away too, from the sync to the next pass. Gradients are not
copied, since each batch begins with new ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from megaprune.actor.host_memory import OffloadedStorages
from megaprune.actor.state import single_optimizers
from megaprune.distributed.device import device, release_cached


class Offload:
    """Moves an actor's gradients, optimizer state and weights off the device, and back.

    Args:
        kind: "none", "optimizer" or "all" (`actor.offload`).
        chunks: the model on this rank.
        stages: the same, with their gradient buffers.
        optimizer: Megatron-core's.
    """

    def __init__(
        self,
        kind: str,
        chunks: torch.nn.ModuleList,
        stages: Sequence[torch.nn.Module],
        optimizer: Any,
    ):
        self._kind, self._optimizer = kind, optimizer
        self._parameters = list(chunks.parameters())
        self._gradients = [
            (buffer.grad_data, buffer.grad_data.untyped_storage().nbytes())
            for stage in stages
            for buffer in (*stage.buffers, *stage.expert_parallel_buffers)
        ]
        self._state, self._weights = OffloadedStorages(), OffloadedStorages()

    @property
    def gradients_are_here(self) -> bool:
        """Whether gradients can be read."""
        return all(g.untyped_storage().nbytes() == nbytes for g, nbytes in self._gradients)

    def offload_state(self) -> None:
        """Free gradients and the optimizer's state; the engine is about to have their memory."""
        if self._kind == "none":
            return
        for gradient, _ in self._gradients:
            gradient.untyped_storage().resize_(0)
        self._offload_optimizer()

    def offload_weights(self) -> None:
        """Free the weights, which the engine has its own copy of by now."""
        if self._kind != "all":
            return
        own = {id(parameter) for parameter in self._parameters}
        redirected = [t for t in self._of_optimizer(in_weights=True) if id(t) not in own]
        self._weights.offload(self._parameters, redirected)

    def reload_for_pass(self) -> None:
        """Have the weights here."""
        self._weights.reload()

    def reload_for_gradients(self) -> None:
        """Have weights and gradients here, the latter with whatever values."""
        self._weights.reload()
        if self._kind == "none":
            return
        self._offload_optimizer()
        release_cached()
        for gradient, nbytes in self._gradients:
            storage = gradient.untyped_storage()
            if storage.nbytes() != nbytes:
                storage.resize_(nbytes)

    def reload_for_update(self) -> None:
        """Have all here; what passes took of the memory is given back for it."""
        if self._kind != "none":
            release_cached()
        self._weights.reload()
        self._state.reload()

    def reload_all(self) -> None:
        """Have all here, gradients with whatever values."""
        self.reload_for_gradients()
        self.reload_for_update()

    def readable(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a parameter as it is, in the device's memory or, while it is away, the host's."""
        return self._weights.on_host(tensor)

    def _offload_optimizer(self) -> None:
        tensors = list(self._of_optimizer(in_weights=False))
        self._state.offload(tensors, tensors)

    def _of_optimizer(self, in_weights: bool) -> Iterator[torch.Tensor]:
        """The optimizer's tensors on the device, of those that look into the weights or of others.

        In fp32 the optimizer writes the weights themselves, of which it has shards.
        """
        weights = {p.untyped_storage()._cdata for p in self._parameters}
        for tensor in _tensors_of(self._optimizer):
            if not tensor.dim():
                continue  # a count of steps: a checkpoint would hold all that lies beside it
            here = tensor.device == device() and tensor.untyped_storage().nbytes() > 0
            if here and (tensor.untyped_storage()._cdata in weights) == in_weights:
                yield tensor


def _tensors_of(optimizer: Any) -> Iterable[torch.Tensor]:
    """Main parameters, and the state of each."""
    for single in single_optimizers(optimizer):
        if getattr(single, "is_stub_optimizer", False):
            continue  # of a stage that is not trained
        for group in single.optimizer.param_groups:
            yield from group["params"]
        for state in single.optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, torch.Tensor))
        # Masters of a hybrid optimizer, which its state has only after the first step.
        yield from getattr(single.optimizer, "param_to_fp32_param", {}).values()
