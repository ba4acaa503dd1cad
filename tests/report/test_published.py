"""Published results, and the figures that they stand in."""

import json

import pytest

from megaprune.data.sets import SETS
from megaprune.report import trade_off
from megaprune.report.curves import RunSegment, draw_curves
from megaprune.report.published import (
    PROTOCOLS,
    R1_1_5B,
    R1_7B,
    curve_of,
    published_results,
    results_of,
)
from megaprune.report.run_records import read_run
from megaprune.report.summary import Estimate, summarize
from megaprune.report.trade_off import TradeOffPoint

NOT_MADE_HERE = {"minerva", "math_test"}
"""Sets that `megaprune data` does not make."""


def test_results_are_what_they_can_be():
    results = list(published_results())
    for result in results:
        assert 0 < result.accuracy < 1
        assert 100 < result.tokens < 32_768
        assert result.set in SETS.keys() | NOT_MADE_HERE
        assert result.source in PROTOCOLS
    keys = [(result.source, result.model, result.method, result.set) for result in results]
    assert len(set(keys)) == len(keys)
    # Every pruned model has its base beside it, from the same source.
    for source, model, _, name in keys:
        assert (source, model, "base", name) in keys


def test_dler_s_mean_length():
    """The table's own average: 2466 tokens over its five sets."""
    lengths = [
        r.tokens
        for r in published_results()
        if (r.model, r.method) == (R1_1_5B, "DLER") and r.source.startswith("2510.15110")
    ]
    assert sum(lengths) / len(lengths) == pytest.approx(2466, abs=1)


@pytest.mark.parametrize(
    ("model", "method", "accuracy", "tokens"),
    [
        (R1_1_5B, "DLER", 54.9, 2508),
        (R1_1_5B, "ThinkPrune-iter2k", 49.8, 2947),
        (R1_1_5B, "LASER-DE-4096", 49.5, 3208),
        (R1_1_5B, "L1-Max", 51.4, 2436),
        (R1_7B, "DLER", 64.6, 2197),
        (R1_7B, "LASER-DE-4096", 63.2, 2783),
    ],
)
def test_the_side_by_side_s_own_means(model, method, accuracy, tokens):
    """Its overall row is over all sets but AIME 2025."""
    rows = [
        r
        for r in published_results()
        if (r.source, r.model, r.method) == ("APR's repository", model, method)
        and r.set != "aime25"
    ]
    assert len(rows) == 5
    assert 100 * sum(r.accuracy for r in rows) / 5 == pytest.approx(accuracy, abs=0.06)
    assert sum(r.tokens for r in rows) / 5 == pytest.approx(tokens, abs=1)


@pytest.mark.parametrize(
    "model",
    ["deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", f"/models/{R1_1_5B}/", R1_1_5B.lower()],
)
def test_models_go_by_the_last_part_of_their_name(model):
    results = results_of(frozenset({model, "runs/mine/model"}), "aime24")
    assert {"base", "DLER", "ThinkPrune-iter2k"} <= {result.method for result in results}
    assert results_of(frozenset({model}), "gsm8k") == []
    assert results_of(frozenset({"runs/mine/model"}), "aime24") == []


def test_they_are_drawn_beside_ones_own():
    point = TradeOffPoint("mine", Estimate(6000, 5000, 7000), Estimate(0.31, 0.28, 0.35))
    alone = trade_off.draw_models("m", [point], None)
    beside = trade_off.draw_models("m", [point], None, results_of(frozenset({R1_1_5B}), "aime24"))
    assert "In grey, published results of the same model (2510.15110" in beside.caption
    assert "grey" not in alone.caption
    assert beside.png != alone.png


def test_the_curve_is_of_the_same_model_and_problems():
    curve = curve_of(f"models/{R1_1_5B}", ["aime22_23"])
    assert [point.step for point in curve.points] == [*range(20, 200, 20)]
    assert curve.points[-1] == (180, pytest.approx(0.206), 9336)
    assert curve.source in PROTOCOLS
    assert curve_of(f"models/{R1_1_5B}", ["aime22_23", "math500"]) is None
    assert curve_of(R1_1_5B, []) is None
    assert curve_of("runs/round_1/model", ["aime22_23"]) is None


def test_results_are_drawn_beside_a_path():
    point = TradeOffPoint("step 0", Estimate(6000, 5000, 7000), Estimate(0.31, 0.28, 0.35))
    results = results_of(frozenset({R1_1_5B}), "aime24")
    caption = trade_off.draw_path("p", [point], "a validation", results).caption
    assert "In grey, published results of the same model (2510.15110" in caption
    assert "measured with at most 8,000 tokens" in caption


def test_the_curve_goes_to_the_first_point_beyond_the_run(run, monkeypatch):
    """Of 180 steps, most would be to the right of a run that has just begun."""
    drawn = []
    plot = trade_off.Axes.plot

    def noted(self, *args, **style):
        if "published" in style.get("label", ""):
            drawn.append([*args[0]])
        return plot(self, *args, **style)

    monkeypatch.setattr(trade_off.Axes, "plot", noted)
    curve = curve_of(R1_1_5B, ["aime22_23"])
    record = read_run(run)
    segment = RunSegment(record, summarize(record).outcomes, published=curve)
    for picture in draw_curves([segment]):
        assert (
            "a published run of the same model on the same problems: ThinkPrune" in picture.caption
        )
        assert "issue 1; by its authors, under a training limit of 4,000" in picture.caption
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 41, "reward": 0.5}) + "\n")
    record = read_run(run)
    draw_curves([RunSegment(record, summarize(record).outcomes, begin=100, published=curve)])
    assert drawn == [[20], [20], [120, 140, 160], [120, 140, 160]]
