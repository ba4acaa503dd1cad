"""Offload: the bytes are those of a run without it, and the device's memory is really freed."""

import pytest
from offload_worker import CASES, KINDS

from launch import launch
from megaprune.recipes.tiny_models import make_tiny
from reference import ROTATED_MODELS


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp("offload")
    for model in ("llama", "qwen2-tied"):
        family, config = ROTATED_MODELS[model]
        make_tiny(root / model, family, seed=0, initializer_range=0.1, **config)
    lines = launch(2, "offload_worker.py", root, seconds=900)
    return {(line["case"], line["kind"]): line["ranks"] for line in lines}


@pytest.mark.parametrize("case", CASES)
def test_three_steps_and_a_resume_are_bit_equal(results, case):
    """Weights, optimizer state, losses, log-probs of actor and reference, on every rank."""
    for number, expected in enumerate(results[case, "none"]):
        assert len(set(expected["numbers"])) > 12  # each step has others
        assert expected["resumed"] == expected["third"]
        for kind in KINDS[1:]:
            rank = results[case, kind][number]
            assert rank["numbers"] == expected["numbers"]
            assert rank["resumed"] == rank["third"]


@pytest.mark.parametrize(
    ("case", "least", "most"),
    [("DP2 distributed, half on the CPU", 0.5, 0.9), ("DP2 distributed, all on the CPU", 1, 1)],
)
def test_the_optimizer_on_the_cpu_does_what_the_other_does(results, case, least, most):
    for rank, other in zip(results[case, "none"], results["DP2 distributed", "none"], strict=True):
        on_cpu, elements = rank["shares"]
        assert least <= on_cpu / elements <= most
        assert other["shares"] == [0, elements]
        assert rank["losses"] == pytest.approx(other["losses"], rel=1e-4)
        assert len(set(rank["losses"])) == 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_storages_are_freed_and_come_back(results, case, kind):
    for rank in results[case, kind]:
        # Before the sync, in it, while the engine generates, after the next update; of each step.
        for before, during, away, after in zip(*[iter(rank["bytes"])] * 4, strict=False):
            assert min(before["gradients"], before["weights"]) > 0
            freed = {"gradients": 0, "optimizer": 0}
            assert during == (before if kind == "none" else before | freed)
            assert away == (during | {"weights": 0} if kind == "all" else during)
            assert after == before
        first, last = rank["bytes"][0], rank["bytes"][-3]
        assert last["optimizer"] > first["optimizer"]  # Adam's moments are there by then
