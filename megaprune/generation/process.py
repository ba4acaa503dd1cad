"""vLLM's side effects on the process that it is started in, all in this one place."""

from __future__ import annotations

import gc
import os
import random
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist

from megaprune.distributed.device import device, random_numbers_kept
from megaprune.distributed.objects import broadcast_from_rank0
from megaprune.distributed.process import hidden, importing

_KEPT_VARIABLES = ("LOCAL_WORLD_SIZE", "LD_PRELOAD", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")


def prepare() -> None:
    """Import vLLM, and set what must be set before an engine is built. Collective.

    Until `release`, the garbage collector leaves alone what is there now.
    """
    # An engine looks for cycles five times as it starts and ends. Among all modules, that takes
    # seconds.
    gc.collect()
    with importing():
        import_engine()
        _name_shared_memory()
        gc.freeze()


def release() -> None:
    """End what `prepare` has begun, when the engine is gone."""
    gc.collect()
    gc.unfreeze()


def import_engine() -> None:
    """Import vLLM as engines here want it; nothing is started. May be called again."""
    # The engine's own loop in this process, where its parameters can be written in place.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # it warns of what is chosen here
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if device().type == "cpu":
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        # Imported here: it takes a second, which whoever only checks need not wait for.
        from torch import _dynamo

        # vLLM would compile one small function of its sampler: seconds at each start, and a C++
        # compiler, which is not everywhere.
        _dynamo.config.disable = True
        # vLLM would import the compiler, only to tell it of its own operators.
        with hidden("torch._inductor.lowering"):
            import vllm.env_override
        import vllm._custom_ops
        import vllm.model_executor.layers.utils

        # Packed into opaque handles, weights could not be written any more.
        vllm._custom_ops._supports_onednn = False
        vllm.model_executor.layers.utils.check_cpu_sgl_kernel = lambda *_: False
    import vllm.entrypoints.llm  # noqa: F401 (so that it is there)


def _name_shared_memory() -> None:
    from vllm.v1.executor.uniproc_executor import ExecutorWithExternalLauncher

    # vLLM names its shared memory after the end of this address, which nobody connects to. Its own
    # choice, env://, is the same for all jobs of a host; a port may have been that of a killed job,
    # whose shared memory is still there.
    address = f"tcp://127.0.0.1:{broadcast_from_rank0(uuid.uuid4().hex)}"
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    ExecutorWithExternalLauncher._distributed_args = lambda self: (address, rank, local_rank)


@contextmanager
def unchanged() -> Iterator[None]:
    """Random numbers, threads and environment are afterwards as they were before."""
    variables = {name: os.environ.get(name) for name in _KEPT_VARIABLES}
    set_threads, threads = torch.set_num_threads, torch.get_num_threads()
    numbers, arrays = random.getstate(), np.random.get_state()
    try:
        with random_numbers_kept():
            yield
    finally:
        random.setstate(numbers)
        np.random.set_state(arrays)
        torch.set_num_threads = set_threads
        torch.set_num_threads(threads)
        for name, value in variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def default_group_kept() -> Iterator[None]:
    """torch.distributed's default group outlives an engine, which would end it with its own."""
    end = dist.destroy_process_group

    def end_others(group: dist.ProcessGroup | None = None) -> None:
        if group is not None and group is not dist.group.WORLD:
            end(group)

    dist.destroy_process_group = end_others
    try:
        yield
    finally:
        dist.destroy_process_group = end


@contextmanager
def frozen_kept() -> Iterator[None]:
    """vLLM neither freezes objects nor gives back to the collector what `prepare` has frozen."""
    freeze, unfreeze = gc.freeze, gc.unfreeze
    gc.freeze = gc.unfreeze = lambda: None
    try:
        yield
    except BaseException:  # there is no engine to be released
        unfreeze()
        raise
    finally:
        gc.freeze, gc.unfreeze = freeze, unfreeze
