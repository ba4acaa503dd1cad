"""vLLM's settings of memory, by device and environment."""

import os
from dataclasses import replace

import pytest
import torch

from megaprune.config.run import EngineConfig
from megaprune.generation import memory

CONFIG = EngineConfig(max_num_seqs=100, enforce_eager=False)


@pytest.fixture
def cuda(monkeypatch):
    monkeypatch.setattr(memory, "device", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(os, "environ", os.environ.copy())


@pytest.mark.parametrize(
    ("most", "sizes"),
    [
        (1, [1]),
        (3, [1, 2, 3]),
        (16, [1, 2, 4, 8, 16]),
        (20, [1, 2, 4, 8, 16, 20]),
        (290, [1, 2, 4, *range(8, 257, 8), 272, 288, 290]),
    ],
)
def test_graphs_are_captured_up_to_the_most_sequences_at_once(most, sizes):
    assert memory.graph_sizes(most) == sizes


def test_graphs_of_a_gpu(cuda):
    assert memory.options(CONFIG, 512, 1 << 20)["cudagraph_capture_sizes"][-1] == 100
    for other in (replace(CONFIG, enforce_eager=True), replace(CONFIG, max_num_seqs=1024)):
        assert "cudagraph_capture_sizes" not in memory.options(other, 512, 1 << 20)


@pytest.mark.parametrize("tp", [1, 2])
def test_segments_that_grow_and_vllms_own_all_reduce(cuda, tp):
    config = replace(CONFIG, tp=tp)
    assert "disable_custom_all_reduce" not in memory.options(config, 512, 1 << 20)
    os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    assert memory.options(config, 512, 1 << 20).get("disable_custom_all_reduce", False) == (tp > 1)


def test_a_cpu_has_no_graphs():
    assert "cudagraph_capture_sizes" not in memory.options(CONFIG, 512, 1 << 20)


@pytest.mark.parametrize(
    ("given", "sequence_bytes", "size"),
    [(None, 1 << 20, 101 << 20), (None, 1 << 24, 1 << 30), (1 << 22, 1 << 20, 1 << 22)],
)
def test_the_cache_of_a_cpu_holds_all_sequences_and_no_more(given, sequence_bytes, size):
    """That of 100 sequences and a block of vLLM's own, unless another size is given; 1 GiB at most."""
    config = replace(CONFIG, kv_cache_memory_bytes=given)
    assert memory.options(config, 512, sequence_bytes)["kv_cache_memory_bytes"] == size
