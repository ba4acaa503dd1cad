"""GPUs and what is assumed of them; every figure of a plan follows from these and the fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from megaprune.errors import InputError

GB = 10**9
TRANSFER_BUFFER_BYTES = 240 << 20
"""As in weights/sync.py, which imports torch."""

LOGIT_CHUNK_BYTES = 512 << 20
"""On a GPU, as in actor/logprobs.py, which imports torch."""

KEPT_LOGIT_CHUNKS = 2
"""As in actor/logprobs.py."""

ELEMENT_BYTES = {"bfloat16": 2, "float32": 4}


@dataclass(frozen=True)
class GpuType:
    """What a plan takes for granted of a GPU.

    Args:
        memory: GB (1e9 bytes) as sold. Drivers show 4 to 7 % more: this is on the safe side.
        peak_tflops: dense floating-point operations a second of each dtype, in 1e12.
        memory_bandwidth: TB/s of its own memory.
        bandwidth: GB/s to GPUs of other nodes: its share of the network cards of a usual server.
        node_bandwidth: GB/s to other GPUs of its node that collective operations reach.
        pinned_bandwidth: GB/s to and from page-locked memory of its host, beside its neighbours.
        engine_batch_tokens: tokens that vLLM computes at once, in its own choice.
    """

    memory: float
    peak_tflops: dict[str, float]
    memory_bandwidth: float
    bandwidth: float
    node_bandwidth: float
    pinned_bandwidth: float = 40
    engine_batch_tokens: int = 16384


def _peak(bfloat16: float, float32: float) -> dict[str, float]:
    return {"bfloat16": bfloat16, "float32": float32}


# Memory, operations and memory bandwidth: NVIDIA's data sheets, which give bfloat16 with sparsity:
# half of that. Links: a network card of 400 Gb/s for each GPU of DGX H100, H200 and B200, of
# 200 Gb/s in DGX A100, and in servers with PCIe cards. In a node: three quarters of what NVLink
# (or PCIe, L40S and H100 PCIe) has in one direction: 300, 450 and 900 GB/s, 32 and 64. Page-locked
# memory: an H100 alone was measured at 54 GB/s (docs/gpu.md), and shares its host's memory with
# others; half of that with PCIe 4 (A100, L40S). Tokens at once: vLLM's arg_utils.py has 8192 for
# GPUs below 70 GiB and for the A100.
GPU_TYPES = {
    # A100 80GB and 40GB SXM, data sheet of 2021.
    "a100": GpuType(80, _peak(312, 19.5), 2.039, 25, 230, 20, 8192),
    "a100-40gb": GpuType(40, _peak(312, 19.5), 1.555, 25, 230, 20, 8192),
    # L40S, data sheet of 2023; no NVLink.
    "l40s": GpuType(48, _peak(362, 91.6), 0.864, 25, 24, 20, 8192),
    # H100 SXM and PCIe, data sheet of 2022.
    "h100": GpuType(80, _peak(989, 67), 3.35, 50, 350),
    "h100-pcie": GpuType(80, _peak(756, 51), 2.0, 25, 48),
    # H200 SXM, data sheet of 2023: an H100 with other memory.
    "h200": GpuType(141, _peak(989, 67), 4.8, 50, 350),
    # B200, an eighth of DGX B200's data sheet of 2024 (1,440 GB, 64 TB/s, 36 PFLOPS with sparsity).
    "b200": GpuType(180, _peak(2250, 75), 8.0, 50, 700),
}
"""GPUs by name, as `megaprune plan --gpu` takes them."""

DEFAULT_GPU = "h100"


@dataclass(frozen=True)
class HardwareSpec:
    """Where a run is to be, and what is assumed of it.

    Args:
        gpu: type of the GPUs, a name in `GPU_TYPES`.
        gpus: in all.
        gpus_per_node: on a host, which share its memory and are close to each other.
        gpu_memory: GB (1e9 bytes) of each.
        reserve: GB of each that the allocator may lose to fragments; kept free in every phase.
        overhead: GB of each for CUDA contexts and NCCL's buffers, of both engines.
        graphs: GB of each for vLLM's CUDA graphs, unless rollout.enforce_eager; kept in sleep.
        host_memory: GB of a host; None if it is not to be checked.
        bandwidth: GB/s that a GPU sends and receives in a weight sync, and to other replicas.
        node_bandwidth: GB/s that a GPU sends and receives in collectives among those of its node.
        pinned_bandwidth: GB/s between a GPU and page-locked memory of its host (actor.offload).
        host_bandwidth: GB/s between a GPU and ordinary memory of its host.
        host_memory_bandwidth: GB/s that the CPUs of a host reach in Adam (optimizer.on_cpu).
        peak_tflops: of a GPU; None for that of its type.
        memory_bandwidth: TB/s of a GPU's own memory.
        mfu: share of the peak that training reaches while it computes: bubbles of the pipeline and
            collectives come on top. 0.49 to 0.53 was measured on an H100 (docs/gpu.md).
        forward_mfu: the same of passes without gradient, and of prompts. 0.48 to 0.50 was measured.
        decode_efficiency: share of the memory's bandwidth that decoding reaches. This and the next
            are such that published runs come out (tests/planner/test_published_runs.py).
        decode_overhead: seconds of a decoding step for the scheduler and for sampling.
        all_reduce_seconds: seconds of an all-reduce within a node besides those of its bytes.
        mean_length: of responses, as a share of the limit.
        mean_prompt: of prompts, as a share of data.max_prompt_length.
        validation_problems: that are measured on.
        training_problems: that a harmonizing draws responses to, before it learns from them.
        process_memory: GB of host memory of each process, for libraries and its other data.
    """

    gpu: str = DEFAULT_GPU
    gpus: int = 8
    gpus_per_node: int = 8
    gpu_memory: float = GPU_TYPES[DEFAULT_GPU].memory
    reserve: float = 3.0
    overhead: float = 2.0
    graphs: float = 1.0
    host_memory: float | None = None
    bandwidth: float = GPU_TYPES[DEFAULT_GPU].bandwidth
    node_bandwidth: float = GPU_TYPES[DEFAULT_GPU].node_bandwidth
    host_bandwidth: float = 10.0
    pinned_bandwidth: float = GPU_TYPES[DEFAULT_GPU].pinned_bandwidth
    host_memory_bandwidth: float = 200.0
    peak_tflops: float | None = None
    memory_bandwidth: float = GPU_TYPES[DEFAULT_GPU].memory_bandwidth
    mfu: float = 0.5
    forward_mfu: float = 0.5
    decode_efficiency: float = 0.6
    decode_overhead: float = 0.007
    all_reduce_seconds: float = 1e-5
    mean_length: float = 0.75
    mean_prompt: float = 0.25
    validation_problems: int = 60
    training_problems: int = 5000
    process_memory: float = 6.0

    @staticmethod
    def of_type(gpu: str, **given: Any) -> HardwareSpec:
        """Describe hardware with a type of GPU, whose figures `given` fields override.

        Raises:
            InputError: no GPU of that name is known.
        """
        if gpu not in GPU_TYPES:
            # Only here: pydantic takes time to import, and --help needs none of it.
            from megaprune.config.fields import nearest

            raise InputError(
                f"--gpu {gpu} is not known (for another type give --gpu-memory, --peak-tflops, "
                f"--memory-bandwidth and --bandwidth); {nearest(gpu, list(GPU_TYPES))}"
            )
        known = GPU_TYPES[gpu]
        figures = {
            "gpu_memory": known.memory,
            "memory_bandwidth": known.memory_bandwidth,
            "bandwidth": known.bandwidth,
            "node_bandwidth": known.node_bandwidth,
            "pinned_bandwidth": known.pinned_bandwidth,
        }
        return HardwareSpec(gpu=gpu, **{**figures, **given})

    @property
    def on_a_node(self) -> int:
        """GPUs of the fullest host."""
        return min(self.gpus, self.gpus_per_node)

    @property
    def usable(self) -> float:
        """Bytes of a GPU that a phase may take."""
        return (self.gpu_memory - self.reserve) * GB

    @property
    def engine_batch_tokens(self) -> int:
        """Tokens that vLLM computes at once."""
        return GPU_TYPES[self.gpu].engine_batch_tokens

    def bandwidth_among(self, ranks: int) -> float:
        """Return the GB/s that each of so many neighbouring ranks has to the others."""
        return self.node_bandwidth if ranks <= self.on_a_node else self.bandwidth

    def flops(self, dtype: str) -> float:
        """Return the floating-point operations a second that a GPU could do."""
        return (self.peak_tflops or GPU_TYPES[self.gpu].peak_tflops[dtype]) * 1e12
