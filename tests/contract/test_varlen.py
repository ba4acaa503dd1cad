"""The call of torch's variable-length attention, against its signature in each torch.

The kernel is only on a GPU. Here a function of the same signature computes what its arguments ask
for, each by its documented meaning.
"""

import sys
import types
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.attention.varlen as installed
import torch.nn.functional as F

import wheels
from megaprune.distributed.process import importing
from sources import Sources

with importing():
    from megaprune.actor import attention

KNOWN = {"scale", "window_size", "enable_gqa", "is_causal"}
"""Options whose meaning is written below."""


@pytest.fixture(scope="module", params=["installed", *wheels.TORCH])
def signature(request, wheel):
    if request.param == "installed":
        folder = Path(torch.__file__).parents[1]
    else:
        folder = wheel(*wheels.TORCH[request.param])
    sources = Sources(folder, "torch")
    return sources.signature(sources.find("torch.nn.attention.varlen", "varlen_attn"))


class Kernel:
    """`varlen_attn` of a signature."""

    def __init__(self, signature):
        self.__signature__ = signature

    def __call__(self, *arguments, **options):
        given = self.__signature__.bind(*arguments, **options).arguments
        query, key, value, starts, key_starts, longest, key_longest = list(given.values())[:7]
        options = dict(list(given.items())[7:])
        assert options.keys() <= KNOWN
        assert starts.dtype == key_starts.dtype == torch.int32
        lengths = [stop - start for start, stop in pairwise(starts.tolist())]
        assert key_starts.tolist() == starts.tolist()
        assert longest == key_longest == max(lengths)
        causal = options.get("is_causal", False) or options.get("window_size") == (-1, 0)
        outs = [
            F.scaled_dot_product_attention(
                *(x.transpose(0, 1)[None] for x in parts),
                is_causal=causal,
                scale=options.get("scale"),
                enable_gqa=options.get("enable_gqa", False),
            )
            for parts in zip(*(x.split(lengths) for x in (query, key, value)), strict=True)
        ]
        return torch.cat(outs, 2)[0].transpose(0, 1)


def difference(signature, monkeypatch, code, scale, key_heads):
    monkeypatch.setattr(installed, "varlen_attn", Kernel(signature))
    generator = torch.Generator().manual_seed(0)
    bounds = (0, 5, 6, 19)
    query, key, value = (
        torch.randn(bounds[-1], heads, 8, generator=generator)
        for heads in (4, key_heads, key_heads)
    )
    starts = torch.tensor(bounds, dtype=torch.int32)
    stream = attention.Stream(
        cu_seqlens_q=starts, cu_seqlens_kv=starts, max_seqlen_q=13, max_seqlen_kv=13, bounds=bounds
    )
    expected = attention._one_by_one(query, key, value, stream, scale)
    return (code._varlen(query, key, value, stream, scale) - expected).abs().max().item()


@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("scale", [None, 0.7])
def test_asks_for_causal_attention_within_each_sequence(signature, monkeypatch, scale, key_heads):
    assert difference(signature, monkeypatch, attention, scale, key_heads) <= 1e-6


FAULTS = {
    "a window that looks ahead": ('"window_size": (-1, 0)', '"window_size": (-1, -1)'),
    "a keyword that there is not": ('options["enable_gqa"]', 'options["gqa"]'),
    "an argument too few": ("offsets, offsets, longest, longest", "offsets, offsets, longest"),
    "the scale is dropped": ('{"scale": scale}', '{"scale": None}'),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_seen(monkeypatch, fault):
    sources = Sources(Path(torch.__file__).parents[1], "torch")
    signature = sources.signature(sources.find("torch.nn.attention.varlen", "varlen_attn"))
    text, (right, wrong) = Path(attention.__file__).read_text(), FAULTS[fault]
    assert right in text
    faulty = types.ModuleType("faulty")
    monkeypatch.setitem(sys.modules, "faulty", faulty)
    exec(compile(text.replace(right, wrong), "faulty", "exec"), vars(faulty))
    try:
        seen = difference(signature, monkeypatch, faulty, 0.7, 2)
    except TypeError as error:
        print(error)
    else:
        print(seen)
        assert seen > 1e-3
