"""What importing a package really does. Runs as a script, in a process that may crash.

python probes.py SYS_PATH PROBE [MODULE...]    prints one line of JSON, behind all other output
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import warnings
from types import TracebackType
from typing import Any

MARK = "megaprune-doctor: "

VARIABLES = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "WANDB_SILENT": "true",
}


def main() -> None:
    """Run a probe, and print its report, or the error."""
    path, probe, *names = sys.argv[1:]
    sys.path[:] = json.loads(path)
    sys.excepthook = _print_error
    os.environ.update(VARIABLES)
    warnings.simplefilter("ignore")
    report = {"modules": probe_modules, "torch": probe_torch, "vllm": probe_vllm}[probe](*names)
    print(f"\n{MARK}{json.dumps(report)}", flush=True)
    os._exit(0)  # what happens while libraries unload is of no interest


def probe_modules(*names: str) -> dict[str, Any]:
    """Import the modules."""
    for name in names:
        importlib.import_module(name)
    return {}


def probe_torch() -> dict[str, Any]:
    """Import torch and use the GPU, if there is one that it can use."""
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if available:
        # Only a kernel shows that the build has kernels for this GPU.
        assert torch.ones(2, device="cuda").sum().item() == 2
    nccl = torch.version.cuda and torch.distributed.is_nccl_available()
    count = torch.cuda.device_count() if available else 0
    properties = [torch.cuda.get_device_properties(index) for index in range(count)]
    return {
        "available": available,
        "warning": str(caught[0].message) if caught and not available else None,
        "gpus": [[gpu.name, gpu.total_memory] for gpu in properties],
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if nccl else None,
    }


def probe_vllm() -> dict[str, Any]:
    """Import vLLM's engine, a model of it and its kernels."""
    importlib.import_module("vllm").LLM  # noqa: B018  # it is imported by being asked for
    importlib.import_module("vllm.model_executor.models.qwen2")
    platform = importlib.import_module("vllm.platforms").current_platform
    if platform.is_unspecified():
        raise RuntimeError("vLLM knows neither the processor nor a GPU to run on")
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("vllm").addHandler(handler)
    platform.import_kernels()  # those for this processor; a failure is only logged
    operators = importlib.import_module("torch").ops._C
    if platform.device_type in ("cpu", "cuda") and not hasattr(operators, "silu_and_mul"):
        raise ImportError(f"its kernels are not there ({'; '.join(messages) or 'no reason given'})")
    return {"device": platform.device_type}


def _print_error(kind: type[BaseException], error: BaseException, _: TracebackType | None) -> None:
    # What packages raise in place of an error may say less than the error did.
    first = error
    while first.__cause__ is not None:
        first = first.__cause__
    text = f"{kind.__name__}: {error}"
    if first is not error:
        text = f"{type(first).__name__}: {first}"
    print(f"\n{MARK}{json.dumps({'error': text})}", flush=True)


if __name__ == "__main__":
    main()
