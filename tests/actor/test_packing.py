"""Streams of sequences, and their division into micro-batches."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megaprune.actor.packing import Sample, micro_batches, pack
from megaprune.algorithms.records import LossOutput
from megaprune.errors import InputError

CPU = torch.device("cpu")


@st.composite
def samples(draw):
    length = draw(st.integers(1, 30))
    prompt = draw(st.integers(1, length))
    tokens = np.array(draw(st.lists(st.integers(0, 99), min_size=length, max_size=length)))
    return Sample(tokens, prompt, {"w": np.arange(length - prompt, dtype=np.float32)})


@given(st.lists(samples(), min_size=1, max_size=9), st.integers(1, 8))
def test_a_stream_is_its_samples(some, multiple):
    packed = pack(some, CPU, multiple)
    assert len(packed.tokens) % multiple == 0
    assert len(packed.tokens) - sum(len(s.tokens) for s in some) < multiple
    targets, values = [], []
    for sample, start, scored in zip(some, packed.bounds, packed.scored, strict=False):
        stop = start + len(sample.tokens)
        assert packed.tokens[start:stop].tolist() == sample.tokens.tolist()
        assert packed.positions[start:stop].tolist() == list(range(stop - start))
        assert scored == len(sample.tokens) - sample.prompt
        targets += sample.tokens[sample.prompt :].tolist()
        values += sample.values["w"].tolist()
    assert packed.targets.tolist() == targets
    assert packed.values["w"].tolist() == values
    # What predicts a token stands right before it, within the same sample.
    assert packed.tokens[packed.predicts + 1].tolist() == targets
    assert (packed.positions[packed.predicts + 1] == packed.positions[packed.predicts] + 1).all()
    assert packed.bounds[-1] == len(packed.tokens)


@given(
    st.lists(st.integers(1, 50), max_size=40),
    st.integers(50, 120),
    st.integers(1, 5),
    st.integers(1, 4),
)
def test_micro_batches_hold_every_sample_once_within_the_budget(lengths, budget, dp, multiple):
    ranks = micro_batches(tuple(lengths), budget, dp, multiple)
    assert len(ranks) == dp
    assert len({len(r) for r in ranks}) == 1
    assert len(ranks[0]) % multiple == 0
    assert sorted(i for r in ranks for b in r for i in b) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in b) <= budget for r in ranks for b in r)
    # Not many more than needed: another full round of all ranks would be waste.
    needed = max(1, -(-sum(lengths) // (budget * dp * multiple))) * multiple
    assert len(ranks[0]) <= 2 * needed + multiple


@given(
    st.lists(st.tuples(st.integers(1, 25), st.integers(1, 25)), max_size=20),
    st.integers(50, 120),
    st.integers(1, 5),
    st.integers(1, 4),
)
def test_pairs_stay_together_in_their_order(pairs, budget, dp, multiple):
    lengths = tuple(length for pair in pairs for length in pair)
    ranks = micro_batches(lengths, budget, dp, multiple, 2)
    assert len({len(r) for r in ranks}) == 1
    assert len(ranks[0]) % multiple == 0
    assert sorted(i for r in ranks for b in r for i in b) == list(range(len(lengths)))
    for batch in (b for r in ranks for b in r):
        assert sum(lengths[i] for i in batch) <= budget
        assert all(first % 2 == 0 for first in batch[::2])
        assert [i + 1 for i in batch[::2]] == list(batch[1::2])


def test_units_that_cannot_be():
    with pytest.raises(ValueError, match="3 samples; expected whole units of 2"):
        micro_batches((5, 5, 5), 100, 1, 1, 2)
    with pytest.raises(InputError, match="2 samples .* together have 101 tokens.*max_tokens"):
        micro_batches((5, 5, 50, 51), 100, 2, 1, 2)


def test_ranks_get_about_the_same():
    rng = np.random.default_rng(0)
    lengths = rng.lognormal(7, 0.8, 512).astype(int).clip(50, 8000)
    ranks = micro_batches(tuple(lengths.tolist()), 8192, 4)
    loads = [sum(int(lengths[i]) for b in r for i in b) for r in ranks]
    assert max(loads) / min(loads) < 1.01
    fill = sum(loads) / (8192 * 4 * len(ranks[0]))
    assert fill > 0.9


def test_a_sample_longer_than_the_budget_is_refused():
    with pytest.raises(InputError, match="101 tokens.*max_tokens"):
        micro_batches((5, 101), 100, 2)


def test_samples_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="a prompt of 0 tokens"):
        Sample(np.arange(3), 0)
    with pytest.raises(ValueError, match="2 of 'w' for 1 scored tokens"):
        Sample(np.arange(3), 2, {"w": np.zeros(2)})


def test_the_passes_of_a_batch_divide_it_once(make_actor):
    batch = [Sample(np.arange(1, 12), 4), Sample(np.arange(3, 20), 5)]
    actor = make_actor()
    micro_batches.cache_clear()
    actor.log_probs(batch)
    actor.step(batch, lambda b: LossOutput(-b.log_probs.sum() / 20, {}), lr=1e-3)
    actor.log_probs(batch)
    assert micro_batches.cache_info().misses == 1
    actor.log_probs(batch[:1])
    assert micro_batches.cache_info().misses == 2
