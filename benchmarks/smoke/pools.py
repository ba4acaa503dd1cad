"""An engine's memory as vLLM keeps it: weights and cache in pools that leave the GPU and come back.

vLLM's own `CuMemAllocator`, as its worker uses it in `sleep(level=2)` and `wake_up`. Where vLLM is
not installed, its Python and cumem_allocator.abi3.so are taken from a folder:

    unzip vllm-*.whl 'vllm/cumem_allocator*' 'vllm/device_allocator/*' \\
        'vllm/distributed/device_communicators/cuda_wrapper.py' 'vllm/utils/system_utils.py' -d DIR
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import logging
import sys
import types
from pathlib import Path
from typing import Any

import torch

from megaprune.distributed import device
from megaprune.weights.layouts import Layout
from smoke.report import Skipped


class Pools:
    """Weights and cache of an engine's rank; on a CPU they stay, and sleep fills weights with NaN.

    Args:
        layout: of the engine; this process is its first rank.
        cache_bytes: of the key-value cache.
        folder: with vLLM's files; None where vLLM is installed.
    """

    def __init__(self, layout: Layout, cache_bytes: int, folder: Path | None):
        where = device.device()
        self._allocator = allocator(folder) if where.type == "cuda" else None

        def weights() -> dict[str, torch.Tensor]:
            return {
                p.name: torch.zeros(p.shape, dtype=torch.bfloat16, device=where)
                for p in layout.ranks[0]
            }

        def cache() -> torch.Tensor:
            return torch.zeros(cache_bytes, dtype=torch.uint8, device=where)

        if self._allocator is None:
            self.weights, self.cache = weights(), cache()
        else:
            with self._allocator.use_memory_pool(tag="weights"):
                self.weights = weights()
            with self._allocator.use_memory_pool(tag="kv_cache"):
                self.cache = cache()
        device.synchronize()

    @property
    def nbytes(self) -> int:
        """Of all weights and the cache."""
        return sum(t.nbytes for t in self.weights.values()) + self.cache.nbytes

    def addresses(self) -> list[int]:
        """Where everything lies."""
        return [t.data_ptr() for t in (*self.weights.values(), self.cache)]

    def sleep(self) -> None:
        """Drop everything, as `sleep(level=2)` does."""
        device.synchronize()
        if self._allocator is None:
            for tensor in self.weights.values():
                tensor.fill_(torch.nan)
        else:
            self._allocator.sleep(offload_tags=())
        device.synchronize()

    def wake(self, tag: str) -> None:
        """Memory for "weights" or "kv_cache" again, with whatever is in it."""
        if self._allocator is not None:
            self._allocator.wake_up([tag])
        device.synchronize()


def allocator(folder: Path | None) -> Any:
    """vLLM's allocator: of an installed vLLM, else of a folder with its files.

    Raises:
        Skipped: there is neither.
    """
    if folder is not None:
        _stand_ins(folder / "vllm")
        _load_libraries()
    elif importlib.util.find_spec("vllm") is None:
        raise Skipped("vLLM is not installed, and --cumem names no folder with its allocator")
    module = importlib.import_module("vllm.device_allocator.cumem")
    return module.CuMemAllocator.get_instance()


def _stand_ins(folder: Path) -> None:
    """What the allocator's modules import of the rest of vLLM: a logger, and which platform it is."""
    if "vllm" in sys.modules:
        return
    for name in ("", ".utils", ".distributed", ".distributed.device_communicators"):
        package = types.ModuleType(f"vllm{name}")
        package.__path__ = [str(folder.joinpath(*name.split(".")))]
        sys.modules[package.__name__] = package
    platform = types.SimpleNamespace(
        is_rocm=lambda: False, is_cuda_alike=lambda: True, is_xpu=lambda: False
    )
    small: dict[str, dict[str, Any]] = {
        "vllm.logger": {"init_logger": logging.getLogger},
        "vllm.platforms": {"current_platform": platform},
        "vllm.envs": {"VLLM_CUDART_SO_PATH": None},
        "vllm.utils.torch_utils": {"PIN_MEMORY": True},
        "vllm.utils.system_utils": {"find_loaded_library": _loaded},
    }
    for name, content in small.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        sys.modules[name] = module
        parent, _, last = name.rpartition(".")
        setattr(sys.modules[parent], last, module)


def _loaded(name: str) -> str | None:
    """The path of a library that this process has loaded."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        for line in maps:
            path = line[line.find("/") :].strip() if "/" in line else ""
            if Path(path).name.startswith(name):
                return path
    return None


def _load_libraries() -> None:
    """What the allocator's library is linked with, and would otherwise not find."""
    root = Path(torch.__file__).parent
    for name in ("libtorch.so", "libc10_cuda.so", "libnvrtc.so.13"):
        found = [*root.glob(f"lib/{name}"), *root.parent.glob(f"nvidia/*/lib/{name}")]
        if found and _loaded(name) is None:
            ctypes.CDLL(str(found[0]), mode=ctypes.RTLD_GLOBAL)
