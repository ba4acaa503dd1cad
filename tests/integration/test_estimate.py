"""A plan's bytes against those of real actors: parameters, gradients, optimizer, activations."""

import pytest

from launch import launch
from megaprune.parallelism import Frozen, Parallel
from megaprune.planner.actor_memory import (
    MicroBatch,
    actor_parts,
    in_flight,
    rank_elements,
)
from megaprune.planner.hardware import ELEMENT_BYTES
from megaprune.planner.request import find_shape
from megaprune.recipes.tiny_models import make_tiny
from megaprune.weights.layouts import Pipeline

# Sizes that are no multiples of what Megatron-core pads to.
SIZES = {"hidden_size": 120, "intermediate_size": 200, "vocab_size": 507}
TOKENS = 256  # of a micro-batch, as in estimate_worker.py
MICRO_BATCHES = 4


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("estimate")
    make_tiny(root / "plain", "qwen2", **SIZES)
    make_tiny(root / "tied", "qwen2", seed=1, tie_word_embeddings=True, **SIZES)
    return root


@pytest.fixture(scope="module")
def ranks(root):
    """What each rank of each case holds, and what the estimate says of its stage."""
    cases = []
    for world in (1, 2):
        for line in launch(world, "estimate_worker.py", root, "plain,tied", seconds=600):
            model = find_shape(str(root / line["model"])).model
            pipeline = Pipeline(line["pp"], line["vpp"], line["first"])
            parallel = Parallel(line["tp"], pipeline, line["sequence"])
            dp = parallel.dp(world)
            stages = rank_elements(model, parallel, dp, Frozen(line["frozen"]), line["distributed"])
            for rank, seen in enumerate(line["ranks"]):
                stage = rank // (line["tp"] * dp)
                cases.append(({**line, "dp": dp, "stage": stage}, seen, stages[stage], model))
    return cases


def micro_batch(case, model):
    size = ELEMENT_BYTES[case["dtype"]]
    return MicroBatch(
        model, TOKENS, case["tp"], case["sequence"], case["recompute"], size, fused=False
    )


def test_all_kinds_of_parallelism_were_measured(ranks):
    assert {(c["tp"], c["pp"], c["dp"], c["vpp"]) for c, *_ in ranks} == {
        (1, 1, 1, 1), (1, 1, 2, 1), (2, 1, 1, 1), (1, 2, 1, 1), (1, 2, 1, 2),
    }  # fmt: skip
    for key in ("dtype", "distributed", "frozen", "recompute", "sequence", "model"):
        assert len({c[key] for c, *_ in ranks}) >= 2, key
    assert all(c["micro_batches"] == MICRO_BATCHES for c, *_ in ranks)


def test_weights_and_gradients_to_the_byte(ranks):
    for case, seen, stage, _ in ranks:
        estimate = actor_parts(stage, case["dp"], case["dtype"], case["distributed"])
        assert seen["weights"] == estimate["weights"], case
        assert seen["gradients"] == estimate["gradients"], case


def test_optimizer_state_to_the_byte_but_for_padding(ranks):
    """Without the distributed optimizer exactly; with it the estimate has the padding of buffers.

    A rank's share of a buffer has at most 63 elements of padding before each parameter and 127 at
    each bucket's end, which have no state: there, and nowhere else, the estimate is more."""
    for case, seen, stage, _ in ranks:
        estimate = actor_parts(stage, case["dp"], case["dtype"], case["distributed"])["optimizer"]
        if not case["distributed"]:
            assert seen["optimizer"] == estimate, case
        else:
            padding = 12 * (63 * seen["parameters"] + 127 * 2 * case["vpp"])
            assert 0 <= estimate - seen["optimizer"] <= padding, case
            assert seen["optimizer"] > 0.95 * estimate, case


def test_what_a_micro_batch_keeps_within_two_percent(ranks):
    """At the first loss, in the last stage; layers that are frozen keep less, and are left out."""
    compared = set()
    for case, seen, stage, model in ranks:
        if seen["kept"] is None or case["frozen"] or case["vpp"] > 1:
            continue
        estimate = micro_batch(case, model).kept(sum(stage.layers), True)
        assert seen["kept"] == pytest.approx(estimate, rel=0.02), case
        compared.add((case["recompute"], case["tp"], case["sequence"], case["dtype"]))
    assert {recompute for recompute, *_ in compared} == {"none", "core_attention", "full"}
    assert len(compared) >= 9


def test_micro_batches_in_flight(ranks):
    """The most that autograd holds in a step is what all micro-batches in flight keep.

    Without recomputation, which adds a layer's own. What a stage gives out is not autograd's."""
    compared = set()
    for case, seen, stage, model in ranks:
        if case["recompute"] != "none" or case["frozen"]:
            continue
        batch = micro_batch(case, model)
        last = case["stage"] == case["pp"] - 1
        flying = in_flight(case["pp"], case["stage"], case["vpp"], MICRO_BATCHES)
        layers = max(stage.layers)
        between = batch.kept(layers, False) - batch.between
        if last:
            most = batch.kept(layers, True)
            most += (flying - 1) * (between if case["vpp"] > 1 else batch.kept(layers, True))
        else:
            most = flying * between
        assert seen["peak"] == pytest.approx(most, rel=0.03), case
        compared.add((case["pp"], case["stage"], case["vpp"], flying))
    assert compared == {(1, 0, 1, 1), (2, 0, 1, 2), (2, 1, 1, 1), (2, 0, 2, 5), (2, 1, 2, 3)}
