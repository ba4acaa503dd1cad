"""The model in training: log-probs, losses, gradients and optimizer steps, over any parallelism."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel
from megatron.core.pipeline_parallel import get_forward_backward_func

from megaprune.actor import build
from megaprune.actor.attention import stream_of
from megaprune.actor.logprobs import LogProbs, log_probs
from megaprune.actor.offload import Offload
from megaprune.actor.optimizer import make_optimizer, with_gradients
from megaprune.actor.packing import Array, MicroBatches, Packed, Sample, micro_batches, pack
from megaprune.actor.pipeline import communication
from megaprune.actor.state import State, restore, sharded, with_tensors
from megaprune.algorithms.loss_metrics import Share, combine, to_host
from megaprune.algorithms.records import BatchInfo, LossBatch, LossOutput
from megaprune.config.run import ActorConfig, OptimizerConfig
from megaprune.distributed import start_times
from megaprune.distributed.device import deterministic_algorithms, device
from megaprune.distributed.objects import all_gather_object
from megaprune.parallelism import Frozen, Parallel
from megaprune.weights.files.hf_folder import HfFolder
from megaprune.weights.layouts import Layout
from megaprune.weights.layouts.sharding import round_up

Loss = Callable[[LossBatch], LossOutput]
"""A micro-batch -> its share of the whole batch's loss, and its metrics.

Shares are summed, over micro-batches and replicas, never averaged, so that neither can change the
gradient; metrics are combined by `loss_metrics.combine`.
"""


@dataclass(frozen=True)
class Step:
    """What an optimizer step did. Sums over the whole batch, the same on all ranks.

    Args:
        loss: the loss.
        grad_norm: of all gradients, before clipping.
        metrics: of the loss.
        micro_batches: how many this rank computed.
        shares: what every micro-batch of every replica contributed to loss and metrics, so that
            several steps can be told as one.
    """

    loss: float
    grad_norm: float
    metrics: dict[str, float]
    micro_batches: int
    shares: tuple[Share, ...]


class Actor:
    """This rank's part of the model. All methods are collective, with the same arguments.

    The default process group must be there, and each rank's device be set.

    Args:
        folder: a Hugging Face folder.
        config: how it is divided and computed.
        optimizer: how it is trained.
        dtype: of parameters and activations; with bfloat16 the optimizer keeps fp32 masters.
        deterministic: whether a GPU adds all sums of a pass in a fixed order.

    Raises:
        InputError: the folder is not a model that can be built, or cannot be divided so.
    """

    def __init__(
        self,
        folder: Path,
        config: ActorConfig,
        optimizer: OptimizerConfig,
        dtype: torch.dtype,
        deterministic: bool = False,
    ):
        weights = HfFolder(folder)
        self.config, self.optimizer, self.dtype = config, optimizer, dtype
        self.model, self.parallel = weights.model, Parallel.of(config)
        self.layout: Layout = self.parallel.layout(
            weights.model, dist.get_world_size(), build.norms()
        )
        """Where each rank has which weights, as in `parameters()`."""
        self._frozen = Frozen.of(config, weights.model)
        assert 0 <= self._frozen.layers < weights.model.layers, "megaprune.rules refuses this"
        transformer = build.transformer_config(
            weights.model, weights.config, self.parallel, dtype, config.recompute, deterministic
        )
        build.start_megatron(self.parallel)
        self._transformer = transformer
        self._chunks = build.build(weights.model, weights.config, transformer)
        start_times.lap("model")
        build.fill(self._chunks, weights, self.layout)
        start_times.lap("weights")
        shard = self.layout.ranks[dist.get_rank()]
        build.freeze(self._chunks, shard, self._frozen, config.recompute)
        self._qkv_format = "thd" if build.has_transformer_engine() else "packed"
        self._stages = with_gradients(self._chunks, transformer, optimizer)
        self._optimizer = make_optimizer(self._stages, transformer, optimizer)
        self._offload = Offload(config.offload, self._chunks, self._stages, self._optimizer)

    def parameters(self) -> dict[str, torch.Tensor]:
        """This rank's parameters, named as in `layout`; what the optimizer steps change.

        While weights are offloaded, these are what lies in the host's memory.
        """
        return {n: self._offload.readable(p) for n, p in self._chunks.named_parameters()}

    def offload_state(self) -> None:
        """Free gradients and the optimizer's state on the device, if `config.offload` says so.

        Whatever a later call needs comes back by itself.
        """
        self._offload.offload_state()

    def offload_weights(self) -> None:
        """Free the weights on the device, if `config.offload` says so; after `offload_state`."""
        self._offload.offload_weights()

    def state(self, loading: bool = False) -> State:
        """Weights and optimizer state, to save, or (`loading`) to load into and `restore`."""
        if loading:
            self._offload.reload_all()
        state = sharded(self._chunks, self._optimizer, loading, self._frozen.layers)
        return state if loading else with_tensors(state, self._offload.readable)

    def restore(self, loaded: State) -> None:
        """Go on from a saved state, of whatever parallelism."""
        restore(self._chunks, self._optimizer, loaded)

    def weights(self) -> dict[str, torch.Tensor]:
        """A copy of this rank's weights in the host's memory."""
        return {name: p.to("cpu", copy=True) for name, p in self.parameters().items()}

    @contextmanager
    def using(self, weights: Mapping[str, torch.Tensor]) -> Iterator[None]:
        """Compute with other weights for a while, as `weights()` gave them; then with its own."""
        self._offload.reload_for_pass()
        own = self.weights()
        try:
            for name, parameter in self.parameters().items():
                parameter.copy_(weights[name])
            yield
        finally:
            for name, parameter in self.parameters().items():
                parameter.copy_(own[name])

    def gradients(self) -> dict[str, torch.Tensor]:
        """This rank's fp32 gradients after `accumulate`, named as in `layout`.

        With the distributed optimizer and several replicas, each replica has only the sum of its
        own share of them; the rest is what it computed itself. A step clips them in place.
        """
        assert self._offload.gradients_are_here, "gradients are gone once they are offloaded"
        return {n: p.main_grad for n, p in self._chunks.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def log_probs(self, samples: Sequence[Sample], temperature: float = 1.0) -> list[Array]:
        """Log-prob of each scored token of each sample, fp32, on all ranks."""
        if not samples:
            return []
        self._offload.reload_for_pass()

        def collect(result: LogProbs, packed: Packed, count: int) -> tuple[torch.Tensor, Array]:
            return result.log_probs.sum(), result.log_probs.cpu().numpy()

        mine, batches = self._run(samples, temperature, collect, forward_only=True)
        pieces = []
        for numbers, values in zip(batches, mine, strict=False):
            if not numbers:
                continue
            ends = np.cumsum([samples[i].scored for i in numbers])[:-1]
            pieces += list(zip(numbers, np.split(values, ends), strict=True))
        by_number = dict(piece for part in all_gather_object(pieces) for piece in part)
        return [by_number[i] for i in range(len(samples))]

    def step(
        self,
        samples: Sequence[Sample],
        loss: Loss,
        *,
        info: BatchInfo | None = None,
        unit: int = 1,
        temperature: float = 1.0,
        lr: float | None = None,
    ) -> Step:
        """One optimizer step on all samples.

        Args:
            loss: see `Loss`.
            info: totals of the whole batch, if it has more samples than those given, or a limit.
            unit: so many samples, one behind the other, are in one micro-batch.
            temperature: of the log-probs that `loss` gets.
            lr: the learning rate of this step; the configured one if None.

        Raises:
            FloatingPointError: on all ranks, if the loss or a gradient is not finite. In the first
                case nothing was changed; in the second the weights are not to be used any more.
        """
        shares, count = self.accumulate(
            samples, loss, info=info, unit=unit, temperature=temperature
        )
        total, metrics = combine(shares)
        for group in self._optimizer.param_groups:
            group["lr"] = self.optimizer.lr if lr is None else lr
            # Megatron-core marks the group of norms and biases, and leaves the rest to a scheduler.
            multiple = 1.0 if self.optimizer.weight_decay_on_vectors else group["wd_mult"]
            group["weight_decay"] = self.optimizer.weight_decay * multiple
        if not math.isfinite(total):
            raise FloatingPointError(f"the loss is {total}")
        self._offload.reload_for_update()
        done, grad_norm, _ = self._optimizer.step()
        if not done or not math.isfinite(grad_norm or 0.0):
            raise FloatingPointError(
                f"the norm of the gradient is {grad_norm}; the loss is {total}"
            )
        return Step(total, float(grad_norm or 0.0), metrics, count, shares)

    def accumulate(
        self,
        samples: Sequence[Sample],
        loss: Loss,
        *,
        info: BatchInfo | None = None,
        unit: int = 1,
        temperature: float = 1.0,
    ) -> tuple[tuple[Share, ...], int]:
        """Gradients of a batch, without a step.

        Args:
            samples, loss, info, unit, temperature: as `step` takes them.

        Returns:
            What every micro-batch of every replica contributed to loss and metrics, and how many
            micro-batches this rank computed.

        Raises:
            ValueError: there are no samples.
        """
        if not samples:
            raise ValueError("no samples to learn from")
        info = info or BatchInfo(sum(sample.scored for sample in samples), len(samples))
        self._offload.reload_for_gradients()
        for stage in self._stages:
            stage.zero_grad_buffer()
        self._optimizer.zero_grad()
        replicas = parallel_state.get_data_parallel_world_size()

        def share(result: LogProbs, packed: Packed, count: int) -> tuple[torch.Tensor, Share]:
            batch = LossBatch(*result, packed.values, packed.borders, info)
            output = loss(batch)
            value = output.loss.reshape(())
            if not value.requires_grad:
                # Nothing of this micro-batch counts; the stages before this one wait all the same.
                value = value + 0.0 * result.log_probs.sum()
            # Megatron-core averages over micro-batches, then replicas; a share is to be summed.
            return value * (count * replicas), to_host(output)

        shares, batches = self._run(samples, temperature, share, forward_only=False, unit=unit)
        every_rank = all_gather_object(shares)
        return tuple(share for rank in every_rank for share in rank), len(batches)

    def _run(
        self,
        samples: Sequence[Sample],
        temperature: float,
        use: Callable[[LogProbs, Packed, int], tuple[torch.Tensor, Any]],
        forward_only: bool,
        unit: int = 1,
    ) -> tuple[list[Any], MicroBatches]:
        """Run this replica's micro-batches through all stages.

        Args:
            use: called with each micro-batch's log-probs, its samples, and the number of
                micro-batches; gives back the loss, and what is to be collected.

        Returns:
            What was collected of each micro-batch (one rank of the last stage has it; the others
            have nothing), and the numbers of the samples in each.
        """
        batches = self._micro_batches(samples, unit)
        # Sequence parallelism divides the stream among ranks.
        parts = self.parallel.tp if self.parallel.sequence else 1
        lengths = [sum(len(samples[i].tokens) for i in numbers) or 1 for numbers in batches]
        tokens = [round_up(length, parts) // parts for length in lengths]
        # bf16 hidden states leave the last stage as they are: log_probs goes to fp32 itself.
        as_it_is = {"fp32_output": False} if self.dtype == torch.bfloat16 else {}
        collected: list[Any] = []

        def forward(source: Iterator[Packed], stage: torch.nn.Module) -> Any:
            packed = next(source)
            hidden = stage(
                packed.tokens[None],
                packed.positions[None],
                None,
                packed_seq_params=stream_of(packed, self._qkv_format),
                **as_it_is,
            )
            return hidden, partial(end, packed, build.unwrapped(stage))

        def end(packed: Packed, chunk: build.Decoder, hidden: torch.Tensor) -> tuple[Any, Any]:
            result = self._log_probs(packed, chunk, hidden, temperature)
            value, summary = use(result, packed, len(batches))
            if parallel_state.get_tensor_model_parallel_rank() == 0:
                collected.append(summary)
            return value, {}

        for stage in self._stages:
            stage.train(not forward_only)
        with deterministic_algorithms(self._transformer.deterministic_mode):
            get_forward_backward_func()(
                forward_step_func=forward,
                data_iterator=[_packed(samples, batches, parts) for _ in self._stages],
                model=self._stages,
                num_microbatches=len(batches),
                seq_length=self.config.max_tokens,
                micro_batch_size=1,
                forward_only=forward_only,
                **communication(self._transformer, tokens),
            )
        return collected, batches

    def _micro_batches(self, samples: Sequence[Sample], unit: int) -> MicroBatches:
        """Numbers of the samples in each of this replica's micro-batches."""
        pipeline = self.parallel.pipeline
        # An interleaved pipeline takes micro-batches by the number of its stages.
        multiple = pipeline.stages if pipeline.chunks > 1 else 1
        replicas = parallel_state.get_data_parallel_world_size()
        lengths = tuple(len(sample.tokens) for sample in samples)
        by_replica = micro_batches(lengths, self.config.max_tokens, replicas, multiple, unit)
        return by_replica[parallel_state.get_data_parallel_rank()]

    def _log_probs(
        self, packed: Packed, chunk: build.Decoder, hidden: torch.Tensor, temperature: float
    ) -> LogProbs:
        """Log-probs and entropies of a micro-batch's scored tokens, from the last hidden states."""
        if self.parallel.sequence:
            hidden = tensor_parallel.gather_from_sequence_parallel_region(hidden)
        else:
            hidden = tensor_parallel.copy_to_tensor_model_parallel_region(hidden)
        divided = self.parallel.tp > 1
        return log_probs(
            hidden[packed.predicts, 0],
            chunk.output_weight(),
            packed.targets,
            vocab=self.model.vocab,
            temperature=temperature,
            group=parallel_state.get_tensor_model_parallel_group() if divided else None,
        )


def _packed(
    samples: Sequence[Sample], batches: Sequence[Sequence[int]], multiple: int
) -> Iterator[Packed]:
    """The micro-batches of these numbers; one without samples is a token that is not scored."""
    names = {name: values.dtype for name, values in samples[0].values.items()}
    empty = Sample(np.zeros(1, np.int64), 1, {n: np.zeros(0, d) for n, d in names.items()})
    for numbers in batches:
        if numbers:
            yield pack([samples[i] for i in numbers], device(), multiple)
        else:
            yield replace(pack([empty], device(), multiple), scored=())
