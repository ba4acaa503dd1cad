"""The engine's memory while the model trains: what differs by device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from megaprune.config.run import EngineConfig
from megaprune.distributed.device import device
from megaprune.distributed.settings import expandable_segments

if TYPE_CHECKING:
    from vllm import LLM

_CPU_TOKENS = 8192
"""Of prompts that are read at once."""

_CPU_CACHE = 1 << 30
"""Bytes of a key-value cache of which nobody has said the size, at most."""

_MOST_IN_A_GRAPH = 512
"""With more sequences at once, vLLM chooses itself what is worth a graph."""


def graph_sizes(most: int) -> list[int]:
    """List the numbers of sequences that a CUDA graph is captured for: `most`, and fewer.

    vLLM's own go up to twice as many, which only prompts come to; each takes time at every start.
    A batch takes the next larger graph, so steps are as small as vLLM's.
    """
    sizes = [1, 2, 4, *range(8, 256, 8), *range(256, most, 16)]
    return [*(size for size in sizes if size < most), most]


def options(config: EngineConfig, max_length: int, sequence_bytes: int) -> dict[str, Any]:
    """vLLM's settings of memory.

    Args:
        max_length: tokens of prompt and response together, at most.
        sequence_bytes: what these take in this rank's key-value cache.
    """
    kv_cache_bytes = config.kv_cache_memory_bytes
    chosen: dict[str, Any] = {}
    if device().type == "cuda":
        chosen |= {
            "enable_sleep_mode": True,
            "gpu_memory_utilization": config.gpu_memory_utilization,
        }
        if config.max_num_seqs <= _MOST_IN_A_GRAPH and not config.enforce_eager:
            chosen["cudagraph_capture_sizes"] = graph_sizes(config.max_num_seqs)
        if expandable_segments() and config.tp > 1:
            # Its own all-reduce shares the memory of CUDA graphs among processes, which is not
            # possible with such segments: the engine would end as it captures them.
            chosen["disable_custom_all_reduce"] = True
    else:
        # A prompt in parts draws a token after each, and takes back all but the last: vLLM cannot
        # take back what a request's own generator drew on a CPU.
        chosen |= {
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(_CPU_TOKENS, max_length),
        }
        # Without a figure, vLLM takes most of the host's memory, and writes zeros to all of it. It
        # keeps a block for itself.
        most = (config.max_num_seqs + 1) * sequence_bytes
        kv_cache_bytes = kv_cache_bytes or min(most, _CPU_CACHE)
    if kv_cache_bytes is not None:
        chosen["kv_cache_memory_bytes"] = kv_cache_bytes
    return chosen


def sleep(llm: LLM) -> None:
    """Give the GPU's memory to whoever trains: weights and cache are dropped, not saved."""
    if device().type == "cuda":
        llm.sleep(level=2)


def wake_weights(llm: LLM) -> None:
    """Memory for the weights again; they are to be written before anything is generated."""
    if device().type == "cuda":
        llm.wake_up(tags=["weights"])


def wake_cache(llm: LLM) -> None:
    """Memory for the key-value cache again."""
    if device().type == "cuda":
        llm.wake_up(tags=["kv_cache"])
