"""Published results, and the figures that they stand in."""

import re

import pytest

from megaprune.data.sets import SETS
from megaprune.report import charts
from megaprune.report.charts import TradeOffPoint
from megaprune.report.published import R1_1_5B, published_results, results_of
from megaprune.report.summary import Estimate

NOT_MADE_HERE = {"minerva", "math_test"}
"""Sets that `megaprune data` does not make."""


def test_results_are_what_they_can_be():
    results = list(published_results())
    for result in results:
        assert 0 < result.accuracy < 1
        assert 100 < result.tokens < 32_768
        assert result.set in SETS.keys() | NOT_MADE_HERE
        assert re.match(r"\d{4}\.\d{5}", result.source)
    keys = [(result.source, result.model, result.method, result.set) for result in results]
    assert len(set(keys)) == len(keys)
    # Every pruned model has its base beside it, from the same source.
    for source, model, _, name in keys:
        assert (source, model, "base", name) in keys


def test_dler_s_mean_length():
    """The table's own average: 2466 tokens over its five sets."""
    lengths = [r.tokens for r in published_results() if (r.model, r.method) == (R1_1_5B, "DLER")]
    assert sum(lengths) / len(lengths) == pytest.approx(2466, abs=1)


@pytest.mark.parametrize(
    "model",
    ["deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", f"/models/{R1_1_5B}/", R1_1_5B.lower()],
)
def test_models_go_by_the_last_part_of_their_name(model):
    results = results_of(frozenset({model, "runs/mine/model"}), "aime24")
    assert {result.method for result in results} == {"base", "DLER"}
    assert results_of(frozenset({model}), "aime25") == []
    assert results_of(frozenset({"runs/mine/model"}), "aime24") == []


def test_they_are_drawn_beside_ones_own():
    point = TradeOffPoint("mine", Estimate(6000, 5000, 7000), Estimate(0.31, 0.28, 0.35))
    alone = charts.draw_models("m", [point], None)
    beside = charts.draw_models("m", [point], None, results_of(frozenset({R1_1_5B}), "aime24"))
    assert "In grey, published results of the same model (2510.15110" in beside.caption
    assert "grey" not in alone.caption
    assert beside.png != alone.png
