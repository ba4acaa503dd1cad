"""Metrics of a loss: each kind by hand, and the same however the batch is divided."""

import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megaprune.algorithms.loss_metrics import (
    combine,
    maximum,
    mean_by_sequence,
    mean_by_token,
    percentiles,
    sum_of,
    to_host,
)
from megaprune.algorithms.records import BatchInfo, LossBatch, LossOutput


def host(loss=0.0, **metrics):
    return to_host(LossOutput(torch.tensor(float(loss)), metrics))


def test_every_kind_by_hand():
    # Two micro-batches: tokens 1, 2, 3 and 10; sequences 6 and 10.
    first, second = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0])
    shares = [
        host(
            0.5,
            total=sum_of(values),
            token=mean_by_token(values),
            large=mean_by_token(values, values > 1),
            sequence=mean_by_sequence(values.sum().reshape(1)),
            largest=maximum(values),
            spread=percentiles(values, 0, 50, 100),
        )
        for values in (first, second)
    ]
    loss, metrics = combine(shares)
    assert loss == 1.0
    assert metrics == {
        "total": 16.0,
        "token": 4.0,
        "large": 5.0,
        "sequence": 8.0,
        "largest": 10.0,
        "spread/p0": 1.0,
        "spread/p50": 2.5,
        "spread/p100": 10.0,
    }


def test_what_nothing_was_counted_of_is_not_told():
    nothing = torch.zeros(0)
    values = torch.tensor([1.0])
    share = host(
        total=sum_of(nothing),
        token=mean_by_token(nothing),
        none=mean_by_token(values, values > 1),
        largest=maximum(nothing),
        spread=percentiles(nothing, 50),
    )
    assert combine([share]) == (0.0, {"total": 0.0})
    assert combine([]) == (0.0, {})


def test_a_metric_that_some_micro_batches_lack():
    shares = [host(1.0), host(1.0, a=mean_by_token(torch.tensor([2.0, 4.0])))]
    assert combine(shares) == (2.0, {"a": 3.0})


def test_a_metric_is_of_one_kind():
    values = torch.ones(1)
    with pytest.raises(ValueError, match="'a' is a SumKind.*MaximumKind"):
        combine([host(a=sum_of(values)), host(a=maximum(values))])
    with pytest.raises(ValueError, match="between 0 and 100"):
        percentiles(values, 101)
    with pytest.raises(ValueError, match="between 0 and 100"):
        percentiles(values)


def test_a_nan_is_not_hidden():
    odd, plain = torch.tensor([1.0, math.nan]), torch.ones(2)
    for kind in (sum_of, mean_by_token, mean_by_sequence, maximum, lambda v: percentiles(v, 50)):
        _, metrics = combine([host(a=kind(plain)), host(a=kind(odd))])
        assert all(map(math.isnan, metrics.values()))
        assert metrics
    masked = mean_by_token(odd, torch.tensor([True, False]))
    assert combine([host(a=masked)])[1] == {"a": 1.0}  # what does not count cannot spoil it
    assert math.isnan(combine([host(math.inf), host(-math.inf)])[0])


def test_metrics_have_no_gradient_and_travel():
    values = torch.ones(3, requires_grad=True)
    metrics = {"a": mean_by_token(values), "b": percentiles(values, 50), "c": sum_of(values > 0)}
    assert not any(metric.share.requires_grad for metric in metrics.values())
    share = to_host(LossOutput(values.sum(), metrics))
    assert combine([pickle.loads(pickle.dumps(share))]) == combine([share])
    assert combine([share]) == (3.0, {"a": 1.0, "b/p50": 1.0, "c": 3.0})


@settings(deadline=None)  # other tests share the processors
@given(st.data())
def test_no_division_can_be_seen(data):
    lengths = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=8))
    borders = np.cumsum([0, *lengths]).tolist()
    rng = np.random.default_rng(sum(lengths))
    values = torch.from_numpy(rng.normal(size=borders[-1]))

    def told(start, stop):
        mine = values[borders[start] : borders[stop]]
        edges = tuple(b - borders[start] for b in borders[start : stop + 1])
        info = BatchInfo(max(1, borders[-1]), len(lengths))
        batch = LossBatch(mine, mine, {}, edges, info)
        by_sequence = batch.mean_by_sequence(mine)
        return to_host(
            LossOutput(
                mine.sum() / batch.total_tokens,
                {
                    "sum": sum_of(mine),
                    "token": mean_by_token(mine),
                    "positive": mean_by_token(mine, mine > 0),
                    "sequence": mean_by_sequence(by_sequence),
                    "maximum": maximum(mine),
                    "spread": percentiles(mine, 10, 50, 99),
                    "sequences": percentiles(by_sequence, 25, 75),
                },
            )
        )

    cuts = sorted(data.draw(st.lists(st.integers(0, len(lengths)), max_size=6)))
    shares = [told(*pair) for pair in zip([0, *cuts], [*cuts, len(lengths)], strict=True)]
    data.draw(st.randoms()).shuffle(shares)
    expected_loss, expected = combine([told(0, len(lengths))])
    loss, metrics = combine(shares)
    assert loss == pytest.approx(expected_loss, abs=1e-12)
    assert metrics == pytest.approx(expected, abs=1e-12)
