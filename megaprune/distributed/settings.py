"""What CUDA, its libraries and compilers are told through the environment: all in this one place.

They read it as they start, so a process of a job has it before that. What the environment says
already stays, whether a user or a launcher has set it.
"""

from __future__ import annotations

import os

from megaprune.errors import InputError

_SETTINGS = {
    # Kernels start in the order in which Megatron-core gives them: so a collective of tensor
    # parallelism begins before the multiplication that hides it.
    "CUDA_DEVICE_MAX_CONNECTIONS": "1",
}

_COMPILED = {
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",  # torch's own choice is in /tmp
    "TRITON_CACHE_DIR": "triton",
    "FLASHINFER_WORKSPACE_BASE": "flashinfer",
}
"""By variable, the folder in vLLM's cache that has what is compiled while a job runs.

All of it is found by a hash of source, versions and GPU, and is written aside and renamed, so that
ranks and jobs share one folder.
"""

_DETERMINISTIC = {
    "NVTE_ALLOW_NONDETERMINISTIC_ALGO": ("0",),
    "CUBLAS_WORKSPACE_CONFIG": (":4096:8", ":16:8"),
    # NVLink's switches add in the order in which values arrive.
    "NCCL_ALGO": ("^NVLS", "Ring", "Tree"),
}
"""By variable, the values with which sums are added in a fixed order; the first is the default."""

_RECORDED = (
    "CUDA_", "NCCL_", "NVTE_", "TORCH_NCCL_", "CUBLAS_WORKSPACE_CONFIG", "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF", "VLLM_CACHE_ROOT", "VLLM_BATCH_INVARIANT", "VLLM_SKIP_P2P_CHECK",
    *_COMPILED,
)  # fmt: skip
"""Beginnings of the names of variables that change what CUDA and its libraries do."""


def set_up_cuda() -> None:
    """Set what both engines need, where the environment does not say otherwise."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    root = os.environ.setdefault("VLLM_CACHE_ROOT", os.path.join(caches, "vllm"))
    for name, folder in _COMPILED.items():
        os.environ.setdefault(name, os.path.join(os.path.expanduser(root), folder))


def set_up_determinism() -> None:
    """Set what equal bits need on a GPU (`deterministic=true`).

    Raises:
        InputError: the environment has another value, with which bits may differ.
    """
    for name, values in _DETERMINISTIC.items():
        value = os.environ.setdefault(name, values[0])
        if value not in values:
            raise InputError(
                f"deterministic=true, and the environment has {name}={value}; unset it, or set it "
                f"to {' or '.join(values)}"
            )


def recorded_settings() -> dict[str, str]:
    """Return the variables that change what CUDA and its libraries do, by name."""
    return {name: os.environ[name] for name in sorted(os.environ) if name.startswith(_RECORDED)}


def expandable_segments() -> bool:
    """Whether the environment has torch allocate in segments that grow."""
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
    return any("expandable_segments:True" in os.environ.get(name, "") for name in names)
