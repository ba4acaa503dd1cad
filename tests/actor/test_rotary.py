"""Rotations in the actor: the frequencies, and log-probs beyond the original context."""

import json
import shutil

import numpy as np
import pytest
import torch
from actors import build_actor
from rotations import BUILT, LLAMA3, YARN, named_config, transformers_rotation

from megaprune.actor.packing import Sample
from megaprune.actor.rotary import attention_factor, inverse_frequencies
from megaprune.recipes.tiny_models import make_tiny
from megaprune.weights.rope import rope_parameters


@pytest.mark.parametrize("hidden", [64, 480])
@pytest.mark.parametrize("name", BUILT)
def test_frequencies_are_those_of_transformers_bit_by_bit(name, hidden):
    config = named_config({**BUILT[name], "hidden_size": hidden})
    expected, factor = transformers_rotation(config)
    rope = rope_parameters(config)
    assert torch.equal(inverse_frequencies(rope, hidden // 4), expected)
    assert attention_factor(rope) == factor


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("rotary") / "model"
    return make_tiny(path, "qwen2", seed=3, initializer_range=0.1, num_hidden_layers=2)


LENGTHS = (150, 40, 7, 300)  # the rotations' original context has 32 tokens
ROTATIONS = {
    "a base with a fraction": {"rope_theta": 12.34},
    "linear": {"rope_scaling": {"type": "linear", "factor": 16}},
    "yarn": {"rope_scaling": {**YARN, "factor": 16.0}, "rope_theta": 1e6},
    "yarn, as DeepSeek has it": {
        "rope_parameters": {**YARN, "factor": 16, "mscale": 0.7, "mscale_all_dim": 1.2}
    },
    "llama3": {"rope_scaling": LLAMA3, "rope_theta": 500.0},
    "scaling and other parameters": {
        "rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": YARN
    },
}  # fmt: skip


@pytest.mark.parametrize("name", ROTATIONS)
def test_log_probs_beyond_the_original_context(alone, folder, tmp_path, name):
    from transformers import AutoModelForCausalLM

    config = json.loads((folder / "config.json").read_text())
    del config["rope_parameters"]
    model = shutil.copytree(folder, tmp_path / "model")
    (model / "config.json").write_text(json.dumps(config | ROTATIONS[name]))

    rng = np.random.default_rng(0)
    samples = [Sample(rng.integers(0, 509, length), 1, {}) for length in LENGTHS]
    seen = build_actor(model, max_tokens=400).log_probs(samples, 1.0)
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    for sample, log_probs in zip(samples, seen, strict=True):
        tokens = torch.from_numpy(sample.tokens)
        with torch.no_grad():
            expected = reference(tokens[None]).logits[0, :-1].log_softmax(-1)
        expected = expected.gather(1, tokens[1:, None])[:, 0].numpy()
        print(name, len(tokens), np.abs(log_probs - expected).max())
        assert np.abs(log_probs - expected).max() <= 1e-5
