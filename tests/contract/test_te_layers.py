"""Transformer Engine's real Python over a stand-in of its compiled half (te_standin.py)."""

import json
from pathlib import Path

import pytest

from launch import launch
from megaprune.recipes.tiny_models import make_tiny
from reference import ROTATED_MODELS

HERE = Path(__file__).parent
SERVER = HERE / "te_server.py"


def case(model, tp=1, pp=1, sequence=False, recompute="none"):
    return {"model": model, "tp": tp, "pp": pp, "sequence": sequence, "recompute": recompute}


COMPARED = {
    1: [*map(case, ROTATED_MODELS)]
    + [case("qwen2", recompute="core_attention"), case("qwen2", recompute="full")],
    2: [
        case("qwen2"),  # two replicas
        case("qwen2", tp=2),
        case("qwen3", tp=2, sequence=True),
        case("qwen2-tied", pp=2, recompute="full"),
    ],
}
"""By number of ranks."""

SAVED = [{"model": "qwen2", "checkpoint": dtype} for dtype in ("float32", "bfloat16")]


@pytest.fixture(scope="module")
def root(transformer_engine, tmp_path_factory):
    root = tmp_path_factory.mktemp("te")
    for seed, (name, (family, config)) in enumerate(ROTATED_MODELS.items()):
        make_tiny(root / name, family, seed=seed, initializer_range=0.1, **config)
    return root


@pytest.fixture(scope="module")
def lines(root):
    lines = []
    for ranks, cases in COMPARED.items():
        cases = json.dumps(cases + (SAVED if ranks == 2 else []))
        lines += launch(ranks, HERE / "te_worker.py", root, cases, server=SERVER)
    return lines


@pytest.fixture(scope="module")
def compared(lines):
    compared = [line for line in lines if "log_probs" in line]
    assert len(compared) == sum(map(len, COMPARED.values()))
    return compared


def test_equals_the_layers_without_it_in_every_division(compared):
    """Layers are built with the names and shapes of the layout, or `fill` refuses them."""
    for line in compared:
        print(line)
        assert line["norms"]
        assert line["fused"]
        assert line["log_probs"] == 0.0
        assert line["gradient"] <= 5e-6
        assert line["grad_norm"] <= 1e-6


def test_its_adam_steps_as_that_of_torch(compared):
    for line in compared:
        assert line["optimizers"] == ["FusedAdam"]
        assert line["weights"] <= 1e-6


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 5e-3)])
def test_its_adam_goes_on_from_a_checkpoint(lines, dtype, tolerance):
    """In the division that wrote it, with offload too, in another, and without TE's layers."""
    (line,) = (line for line in lines if line.get("checkpoint") == dtype)
    print(line)
    same, offloaded, *others = line["losses"]
    assert same == offloaded == line["expected"]
    assert len(others) == 2
    for losses in others:
        assert losses == pytest.approx(line["expected"], abs=tolerance)


def test_faults_are_seen(root):
    """Of a model whose attention has a scale of its own (YaRN)."""
    first, *faulty = launch(1, HERE / "te_faults.py", root / "qwen3", server=SERVER)
    assert first["difference"] == 0.0
    seen = {line.pop("fault"): line for line in faulty}
    for name, line in seen.items():
        print(name, line)
    expected = {
        "another_format": "must match the size of tensor",
        "a_longest_sequence_too_short": "max_seqlen_q",
        "another_mask": "('thd', 'padding')",
        "names_of_local_layers": "the model differs from its layout",
        "a_name_that_the_package_has_no_more": "Transformer-Engine",
        "a_renamed_argument": "cu_seqlens_q",
    }
    for name, words in expected.items():
        assert words in seen.pop(name)["error"]
    assert set(seen) == {"frequencies_of_megatron", "no_scale_of_its_own"}
    assert all(line["difference"] > 1e-3 for line in seen.values())
