"""Digests, which tell whether weights arrived."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megaprune.weights import sync
from megaprune.weights.sync import digest


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_flipped_bit_shows(dtype):
    torch.manual_seed(0)
    tensor = torch.randn(7, 5).to(dtype)
    before = digest(tensor, dtype)
    bits = tensor.view({2: torch.int16, 4: torch.int32}[dtype.itemsize]).view(-1)
    seen = {before.item()}
    for place in range(bits.numel()):
        for bit in range(dtype.itemsize * 8):
            flip = 1 << bit if bit < dtype.itemsize * 8 - 1 else -(1 << bit)
            bits[place] ^= flip
            seen.add(digest(tensor, dtype).item())
            bits[place] ^= flip
    assert len(seen) == 1 + bits.numel() * dtype.itemsize * 8
    assert digest(tensor, dtype) == before


@given(st.integers(0, 33), st.integers(0, 33))
def test_swapped_elements_show(one, other):
    tensor = torch.arange(34, dtype=torch.float32)
    swapped = tensor.clone()
    swapped[one], swapped[other] = tensor[other], tensor[one]
    same = digest(tensor, torch.float32) == digest(swapped, torch.float32)
    assert bool(same) == (one == other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("nbytes", [64, 1 << 20])
def test_the_same_whether_strided_or_cast_before(monkeypatch, dtype, nbytes):
    monkeypatch.setattr(sync, "_DIGEST_BYTES", nbytes)
    tensor = torch.randn(65, 47)
    part = tensor[1:, 2:]  # begins in the middle of a word
    seen = digest(part, dtype)
    assert digest(part.contiguous(), dtype) == seen
    assert digest(part.to(dtype), dtype) == seen
    assert digest(part.t().contiguous().t(), dtype) == seen
    assert digest(-part, dtype) != seen
    swapped = part.clone()
    swapped[[0, 40]] = swapped[[40, 0]]  # rows, which lie in different bands if bands are small
    assert digest(swapped, dtype) != seen
