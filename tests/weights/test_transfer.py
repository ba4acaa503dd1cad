"""Digests, which tell whether weights arrived."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megaprune.weights import transfer
from megaprune.weights.transfer import digest


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


def test_the_same_whether_in_bands_strided_or_cast_before(monkeypatch):
    tensor = torch.randn(64, 48)
    whole = digest(tensor, torch.bfloat16)
    monkeypatch.setattr(transfer, "_DIGEST_ELEMENTS", 100)
    assert digest(tensor, torch.bfloat16) == whole
    assert digest(tensor.bfloat16(), torch.bfloat16) == whole
    assert digest(tensor.t().contiguous().t(), torch.bfloat16) == whole
    assert digest(-tensor, torch.bfloat16) != whole
