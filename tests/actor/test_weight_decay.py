"""Which parameters decay."""

import numpy as np
import pytest
import torch
from actors import build_actor

from megaprune.actor.packing import Sample
from megaprune.algorithms.records import LossOutput
from megaprune.recipes.tiny_models import make_tiny


@pytest.fixture(scope="module", params=["qwen2", "qwen3"])
def folder(request, tmp_path_factory):
    """One family has biases, the other norms of queries and keys."""
    path = tmp_path_factory.mktemp("decay") / request.param
    return make_tiny(path, request.param, num_hidden_layers=2)


@pytest.mark.parametrize("distributed", [False, True])
@pytest.mark.parametrize("vectors", [False, True])
def test_norms_and_biases_decay_if_asked_to(alone, folder, vectors, distributed):
    """Without a gradient, a step of AdamW multiplies by 1 - lr * weight_decay and does no more."""
    actor = build_actor(
        folder, lr=0.25, weight_decay=0.5, weight_decay_on_vectors=vectors, distributed=distributed
    )
    before = {name: p.clone() for name, p in actor.parameters().items()}
    samples = [Sample(np.arange(1, 9), 2, {})]
    actor.step(samples, lambda b: LossOutput(0.0 * b.log_probs.sum(), {}), temperature=1.0, lr=None)
    kinds = set()
    for name, now in actor.parameters().items():
        decays = vectors or now.dim() > 1
        kinds.add((now.dim(), name.endswith(".bias")))
        expected = before[name] * (1 - 0.25 * 0.5) if decays else before[name]
        torch.testing.assert_close(now, expected, rtol=1e-6, atol=0, msg=name)
    assert {(1, False), (2, False)} <= kinds
    assert ((1, True) in kinds) == ("qwen2" in str(folder))
