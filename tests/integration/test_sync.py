"""Megatron-core and vLLM in the same processes: weights from one to the other, and what they say."""

import importlib.util
from functools import cache

import pytest
import torch

from launch import launch
from megaprune.recipes.tiny_models import make_tiny
from reference import ROTATED_MODELS

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vllm is not installed"
)
# vLLM's attention on CPU wants heads of 32; larger weights than usual make the layers count.
SHAPE = {"hidden_size": 128, "num_hidden_layers": 4, "initializer_range": 0.1, "vocab_size": 257}
WORLDS = {1: 1, 2: 5, 4: 8}  # ranks: layouts of the actor, as in sync_worker.py


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("sync")
    for seed, (name, (family, config)) in enumerate(ROTATED_MODELS.items()):
        make_tiny(root / name, family, seed=seed, **SHAPE, **config)
    return root


@pytest.fixture(scope="module")
def launched(root):
    """Lines of a world, each launched once."""

    @cache
    def lines(ranks):
        # One family in every layout; the others on two ranks, where they cost least.
        others = [name for name in ROTATED_MODELS if name != "qwen2"]
        names = ",".join(["qwen2", *(others if ranks == 2 else [])])
        return launch(ranks, "sync_worker.py", root, names, seconds=1200)

    return lines


@pytest.fixture(scope="module", params=WORLDS)
def results(request, launched):
    return request.param, launched(request.param)


def test_every_parameter_is_what_vllm_itself_would_load(results):
    ranks, lines = results
    syncs = [line for line in lines if line["job"] == "sync"]
    engines = 1 if ranks == 1 else 2
    assert len([s for s in syncs if s["model"] == "qwen2"]) == WORLDS[ranks] * engines
    for sync in syncs:
        assert sync["wrong"] == [[] for _ in range(ranks)], sync["case"]
        assert sync["parameters"] > 4 * 6


def test_an_engine_that_read_no_weights_is_the_same_after_a_sync(launched):
    (line,) = (line for line in launched(1) if line["job"] == "dummy")
    assert line["random"]
    assert line["tensors"] > 4 * 10  # buffers are among them
    assert line["same_tensors"]
    assert line["same_tokens"]
    assert line["same_log_probs"]


def test_vllm_rotates_as_the_actor_does(launched):
    (line,) = (line for line in launched(1) if line["job"] == "rotations")
    assert len(line["off"]) > 25
    print(line["off"])
    # vLLM divides the position by a linear factor, the others the frequency.
    assert max(line["off"].values()) <= 1e-5


def test_bytes_sent_are_the_plan_and_the_lower_bound(results):
    _, lines = results
    syncs = [line for line in lines if line["job"] == "sync"]
    for sync in syncs:
        assert [sent[0] for sent in sync["sent"]] == sync["planned"]
        assert [sent[1] for sent in sync["sent"]] == sync["bound"]
    assert results[0] == 1 or any(sum(s["bound"]) > 0 for s in syncs)


def test_weights_that_differ_are_found_and_named(results):
    ranks, lines = results
    for sync in (line for line in lines if line["job"] == "sync"):
        assert sync["stale"]
        assert sync["flipped"].startswith("1 parts of the weights differ")
        assert f"rank {ranks - 1}: {sync['last']}" in sync["flipped"]


def test_both_engines_say_the_same_before_and_after_training(results):
    _, lines = results
    agreements = [line for line in lines if line["job"] == "agree"]
    assert agreements
    for line in agreements:
        print(
            f"{line['model']}, {line['case']}, vLLM tp {line['vllm_tp']}: mean |log-prob Megatron - "
            f"vLLM| {line['mean']:.2e} (largest {line['largest']:.2e}) of {line['tokens']} tokens; "
            f"trained and synced {line['after_mean']:.2e} (largest {line['after_largest']:.2e})"
        )
        assert line["largest"] <= 1e-5
        assert line["after_largest"] <= 1e-5
        assert line["tokens"] > 200


def test_sampling_is_a_function_of_the_seed(results):
    _, lines = results
    agreements = [line for line in lines if line["job"] == "agree"]
    for line in agreements:
        assert line["repeated"]
        assert line["reseeded"]
        assert line["cold"]
        assert line["alike_in_engine"]
        assert line["finishes"] == ["length"]
        assert line["stopped"] == ["stop", True]
        assert line["same_until_stopped"]
        assert line["refused"]
        assert line["random_state"]
        assert line["threads"] == 1
        assert len(set(map(tuple, line["first"]))) == len(line["first"])


def test_another_job_with_other_engines_draws_the_same_samples(launched):
    drawn = [
        sorted(line["first"])
        for ranks in WORLDS
        for line in launched(ranks)
        if line["job"] == "agree" and line["model"] == "qwen2"
    ]
    assert len(drawn) == 5
    assert all(samples == drawn[0] for samples in drawn)


def test_generation_follows_the_weights_with_cached_prefixes_and_requests_in_flight(results, root):
    """Greedy tokens after the sync are those of transformers with the trained weights."""
    from transformers import AutoModelForCausalLM

    _, lines = results
    for line in (line for line in lines if line["job"] == "agree"):
        assert line["greedy"] != line["trained"]
        assert line["early"] < 24
        assert line["early_alike"]
        assert line["late"] >= 3 - 1
        assert not line["late_alike"]
        model = AutoModelForCausalLM.from_pretrained(root / line["model"], dtype=torch.float32)
        trained = torch.load(root / "trained" / f"{line['model']}-{line['vllm_tp']}.pt")
        if "lm_head.weight" not in trained:
            trained["lm_head.weight"] = trained["model.embed_tokens.weight"]
        model.load_state_dict(trained)
        for sequence in line["greedy_samples"]:
            prompt = torch.tensor([sequence[:5]])
            with torch.no_grad():
                out = model.generate(
                    prompt, attention_mask=torch.ones_like(prompt), do_sample=False,
                    max_new_tokens=24, min_new_tokens=24, suppress_tokens=None,
                )  # fmt: skip
            same = [a == b for a, b in zip(out[0].tolist(), sequence, strict=True)]
            assert same[:8] == [True] * 8


def test_fp32_weights_become_bf16_at_the_source(results):
    ranks, lines = results
    casts = [line for line in lines if line["job"] == "cast"]
    assert len(casts) == (1 if ranks == 2 else 0)
    for cast in casts:
        assert cast["same"]
        assert cast["half"]
