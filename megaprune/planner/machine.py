"""GPUs and what is assumed of them; every figure of a plan follows from these and the fields."""

from __future__ import annotations

from dataclasses import dataclass

GB = 10**9
TRANSFER_BUFFER_BYTES = 240 << 20
"""As in weights/transfer.py, which imports torch."""

LOGIT_CHUNK_BYTES = 32 << 20
"""As in actor/logprobs.py, which imports torch."""

ENGINE_BATCH_TOKENS = 16384
"""Tokens that vLLM computes at once on a GPU of 70 GiB or more, in its own choice."""

ELEMENT_BYTES = {"bfloat16": 2, "float32": 4}
PEAK_TFLOPS = {"bfloat16": 989.0, "float32": 67.0}
"""Of an H100 (SXM), dense."""


@dataclass(frozen=True)
class Machine:
    """Where a run is to be, and what is assumed.

    Args:
        gpus: in all.
        gpus_per_node: on a host, which share its memory and are close to each other.
        gpu_memory: GB (1e9 bytes) of each. An H100 of "80 GB" has 85: 80 is on the safe side.
        reserve: GB of each that the allocator may lose to fragments; kept free in every phase.
        overhead: GB of each for CUDA contexts and NCCL's buffers, of both engines.
        graphs: GB of each for vLLM's CUDA graphs, unless rollout.enforce_eager; kept in sleep.
        host_memory: GB of a host; None if it is not to be checked.
        bandwidth: GB/s that a GPU sends and receives in a weight sync, and to other replicas.
        host_bandwidth: GB/s between a GPU and ordinary memory of its host.
        peak_tflops: of a GPU; None for an H100's.
        memory_bandwidth: TB/s of a GPU's own memory (H100: 3.35).
        mfu: share of the peak that training reaches, bubbles of the pipeline not counted.
        forward_mfu: share of the peak that passes without gradient and prompts reach.
        decode_efficiency: share of the memory's bandwidth that decoding reaches.
        decode_overhead: seconds of a decoding step that are neither: the scheduler, all-reduces.
        mean_length: of responses, as a share of the limit.
        mean_prompt: of prompts, as a share of data.max_prompt_length.
        validation_problems: that are measured on.
        process_memory: GB of host memory of each process, for libraries and its other data.
    """

    gpus: int = 8
    gpus_per_node: int = 8
    gpu_memory: float = 80.0
    reserve: float = 3.0
    overhead: float = 2.0
    graphs: float = 1.0
    host_memory: float | None = None
    bandwidth: float = 50.0
    host_bandwidth: float = 10.0
    peak_tflops: float | None = None
    memory_bandwidth: float = 3.35
    mfu: float = 0.4
    forward_mfu: float = 0.5
    decode_efficiency: float = 0.7
    decode_overhead: float = 0.005
    mean_length: float = 0.75
    mean_prompt: float = 0.25
    validation_problems: int = 60
    process_memory: float = 6.0

    @property
    def on_a_node(self) -> int:
        """GPUs of the fullest host."""
        return min(self.gpus, self.gpus_per_node)

    @property
    def usable(self) -> float:
        """Bytes of a GPU that a phase may take."""
        return (self.gpu_memory - self.reserve) * GB

    def flops(self, dtype: str) -> float:
        """Floating-point operations a second that a GPU could do."""
        return (self.peak_tflops or PEAK_TFLOPS[dtype]) * 1e12
