"""The actor, real Megatron-core on several processes, against transformers one by one."""

import numpy as np
import pytest
import torch

from actor_worker import BUDGETS, CASES, LR, TEMPERATURE
from launch import launch
from megaprune.recipes.tiny_models import make_tiny
from reference import ROTATED_MODELS

LENGTHS = (30, 2, 5, 25, 17, 9, 12, 3)  # pairs fit the smallest budget


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("actor")
    for seed, (name, (family, config)) in enumerate(ROTATED_MODELS.items()):
        make_tiny(root / name, family, seed=seed, initializer_range=0.1, **config)
        torch.save(expected_of(root / name, seed), root / f"{name}.pt")
    return root


def expected_of(folder, seed):
    """What transformers and torch's AdamW make of the samples, one sample after another."""
    from transformers import AutoModelForCausalLM

    rng = np.random.default_rng(seed)
    samples = []
    for length in LENGTHS:
        prompt = int(rng.integers(1, length))
        samples.append(
            {
                "tokens": torch.from_numpy(rng.integers(0, 509, length)),
                "prompt": prompt,
                "w": torch.from_numpy(rng.normal(size=length - prompt).astype(np.float32)),
                "reference": torch.from_numpy(-rng.exponential(3, length - prompt)).float(),
                "advantage": float(rng.choice([-1, 1])) if len(samples) % 2 == 0 else None,
            }
        )
        samples[-1]["advantage"] = samples[-1]["advantage"] or -samples[-2]["advantage"]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    total, log_probs, scores = torch.zeros(()), [], []
    for sample in samples:
        prompt, tokens = sample["prompt"], sample["tokens"]
        logits = model(tokens[None]).logits[0, prompt - 1 : -1]
        p = (logits / TEMPERATURE).log_softmax(-1)
        chosen = p.gather(1, tokens[prompt:, None])[:, 0]
        log_probs.append(chosen.detach())
        scores.append(sample["advantage"] * (chosen - sample["reference"]).sum())
        total = total - (chosen * sample["w"]).sum() / 50 - (p.exp() * p).sum() * 1e-3
    # Log-odds that the preferred responses of pairs are preferred, at a tenth of their differences.
    pairs = -torch.stack(scores).reshape(-1, 2).sum(1).mul(0.1).sigmoid().log().mean()
    pairs.backward(retain_graph=True)
    of_pairs = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    total.backward()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0)
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return {
        "samples": samples, "log_probs": torch.cat(log_probs), "loss": total.item(),
        "gradients": gradients, "grad_norm": norm.item(),
        "pair_loss": pairs.item(), "pair_gradients": of_pairs,
        "weights": {name: p.detach() for name, p in model.named_parameters()},
    }  # fmt: skip


@pytest.fixture(scope="module")
def results(root):
    lines = [
        line
        for ranks in CASES
        for line in launch(ranks, "actor_worker.py", root, ",".join(ROTATED_MODELS))
    ]
    return lines


def metrics_of(root, model):
    """The metrics of the worker's loss, from the samples as they are."""
    weights = [s["w"].double().numpy() for s in torch.load(root / f"{model}.pt")["samples"]]
    every, sums = np.concatenate(weights), [float(w.astype(np.float32).sum()) for w in weights]
    return {
        "tokens": len(every),
        "w": every.mean(),
        "sum": np.mean(sums),
        "largest": every.max(),
        "spread/p10": np.percentile(sums, 10),
        "spread/p50": np.percentile(sums, 50),
    }


@pytest.mark.parametrize("model", ROTATED_MODELS)
@pytest.mark.parametrize("ranks", CASES)
def test_equals_transformers_in_every_division(root, results, model, ranks):
    wanted = {(str(case), budget) for case in CASES[ranks] for budget in BUDGETS}
    lines = [r for r in results if r.get("name") == model and (r["case"], r["budget"]) in wanted]
    assert len(lines) >= len(wanted)
    expected = metrics_of(root, model)
    for line in lines:
        print(line)
        assert line["log_probs"] <= 1e-5
        assert line["loss"] <= 1e-5
        assert line["grad_norm"] <= 1e-5
        assert line["gradient"] <= 1e-5
        assert line["pair_loss"] <= 1e-5
        assert line["pair_gradient"] <= 1e-5
        assert line["compared"] > 4 * 6
        assert line["weights"] <= 1e-2
        assert line["weights_distributed"] <= 1e-2
        # Of all tokens and sequences, in whatever micro-batches and on whatever replicas they were.
        assert line["metrics"] == pytest.approx(expected, rel=1e-6)


def test_a_loss_that_is_not_a_number_ends_the_step_on_all_ranks(results):
    (line,) = (r for r in results if "not_finite" in r)
    assert line["not_finite"] == [["the loss is nan", True]] * 2


@pytest.mark.parametrize("model", ["llama", "qwen2-tied"])
def test_what_is_frozen_stays_and_has_no_state(results, model):
    lines = [r for r in results if "frozen" in r and r["model"] == model]
    assert len(lines) == 5
    for line in lines:
        assert line["loss"] <= (2e-2 if "bf16" in line["frozen"] else 1e-5)
        assert line["gradient"] <= (5e-2 if "bf16" in line["frozen"] else 1e-5)
        for rank in line["ranks"]:
            if "bf16" in line["frozen"]:  # one such step is nothing to a norm's weights
                assert set(rank["moved"]) <= set(rank["trained"])
                assert bool(rank["moved"]) == bool(rank["trained"])
            else:
                assert rank["moved"] == rank["trained"]
            assert rank["state_bytes"] == 8 * rank["elements"]  # Adam's two moments, in fp32
            assert rank["resumed"]
    pipeline, tensor, recomputed, last, rounded = (
        [r["trained"] for r in line["ranks"]] for line in lines
    )
    assert pipeline[0] == []
    assert len(pipeline[1]) > 2 * 6
    for trained in tensor:
        assert not any("embedding" in n or "layers.0." in n for n in trained)
        assert any("output_layer" in n for n in trained) == (model != "qwen2-tied")
        assert any("layers.1." in n for n in trained)
    # The first stage's second layer is trained, though nothing before it is.
    assert any("layers.1." in n for n in recomputed[0])
    # Of the last stage its second layer alone, without the final norm and the head.
    assert last[0] == []
    assert last[1]
    assert all("decoder.layers.1." in n for n in last[1])
    assert rounded == last


def test_fewer_samples_than_micro_batches_and_nothing_to_learn(results):
    lines = [r for r in results if "few" in r]
    assert len(lines) == 3
    for line in lines:
        assert line["log_probs"] <= 1e-5
        assert line["grad_norm"] == pytest.approx(lines[0]["grad_norm"], rel=1e-5)
        assert line["grad_norm"] > 0
        assert line["nothing"] == 0
        assert line["none"] == []


def test_bf16_keeps_fp32_masters_and_recompute_changes_nothing(results):
    lines = {r["bf16"]: r for r in results if "bf16" in r}
    assert set(lines) == {"none", "core_attention", "full"}
    for line in lines.values():
        assert line["loss"] <= 2e-2
        assert line["losses"][-1] < line["losses"][0]
        # Single steps of 1e-5 vanish in bf16 weights of 0.1: that they add up shows the masters.
        assert line["moved"] > 0.05
        assert line["as_without"]
