"""vLLM itself against `vllm_layout`, and on folders that `megaprune convert` made."""

import importlib.util
import json

import pytest
import torch

from launch import launch
from megaprune.cli.main import main
from megaprune.recipes.tiny_models import make_tiny
from reference import TINY_MODELS

# Not importorskip: importing vLLM takes 20 s and changes torch in this process.
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vllm is not installed"
)

VLLM = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}
NEW_TOKENS = 16
LAUNCH_SECONDS = 1200
PROMPTS = [[1, 2, 3], [250, 17, 99, 4, 31], list(range(40, 53))]
# vLLM's attention on CPU wants heads of 32 or more; Qwen3's are 32 whatever hidden_size is. With
# larger weights than usual the layers count: a tied model would otherwise repeat its last token.
SHAPE = {"hidden_size": 128, "num_hidden_layers": 2, "initializer_range": 0.1}
# 509 rows of vocabulary become 512 in vLLM; 257 become 320, where 63 of rank 1's 160 are padding.
ONE_KV_HEAD = {"num_key_value_heads": 1, "vocab_size": 257}
ENGINES = [(name, kv, tp) for kv, tp in ((2, 2), (1, 2), (2, 1)) for name in TINY_MODELS]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """By family and number of kv heads: the folder as transformers wrote it, and converted."""
    root, made = tmp_path_factory.mktemp("vllm"), {}
    for seed, (name, (family, config)) in enumerate(TINY_MODELS.items()):
        for kv_heads in (2, 1):
            config = {**SHAPE, **config, **(ONE_KV_HEAD if kv_heads == 1 else {})}
            folder = root / f"{name}-{kv_heads}"
            original = make_tiny(folder / "original", family, seed=seed, **config)
            made[name, kv_heads] = original, there_and_back(original, folder)
    return made


def there_and_back(hf, folder):
    """To Megatron-core with a vocabulary padded otherwise than vLLM's, and back."""
    megatron, back = folder / "megatron", folder / "converted"
    to_megatron = ["convert", "to-megatron", "--hf", hf, "--out", megatron]
    to_megatron += ["--pad-vocab-to-multiple-of", 96]
    to_hf = ["convert", "to-hf", "--megatron", megatron, "--out", back]
    assert main([str(a) for a in to_megatron]) == 0
    assert main([str(a) for a in to_hf]) == 0
    return back


@pytest.fixture(scope="module")
def results(models, tmp_path_factory):
    """What the worker says of every engine. All are built in one launch: importing is most of it."""
    jobs = []
    for name, kv_heads, tp in ENGINES:
        original, converted = map(str, models[name, kv_heads])
        job = {"model": converted, "tensors": original, "tp": tp}
        jobs.append({**job, "prompts": PROMPTS, "new_tokens": NEW_TOKENS})
    file = tmp_path_factory.mktemp("jobs") / "jobs.json"
    file.write_text(json.dumps(jobs))
    lines = launch(2, "vllm_worker.py", file, seconds=LAUNCH_SECONDS, **VLLM)
    return dict(zip(ENGINES, lines, strict=True))


@pytest.fixture(scope="module")
def greedy(models):
    """Continuations by transformers, of the folder that it wrote itself."""
    from transformers import AutoModelForCausalLM

    said = {}
    for key, (original, _) in models.items():
        model = AutoModelForCausalLM.from_pretrained(original, dtype=torch.float32)
        said[key] = []
        for prompt in PROMPTS:
            ids = torch.tensor([prompt])
            mask = torch.ones_like(ids)
            out = model.generate(
                ids, attention_mask=mask, do_sample=False, max_new_tokens=NEW_TOKENS
            )
            said[key].append(out[0, len(prompt) :].tolist())
    return said


@pytest.mark.parametrize(("name", "kv_heads", "tp"), ENGINES)
def test_every_parameter_of_every_rank_is_what_the_layout_says(results, name, kv_heads, tp):
    ranks = results[name, kv_heads, tp]["ranks"]
    assert [rank["rank"] for rank in ranks] == ([0, 1] if tp == 2 else [0, 0])
    for rank in ranks:
        assert rank["differences"] == []
        assert rank["parameters"] > 2 * 6


@pytest.mark.parametrize(("name", "kv_heads", "tp"), ENGINES)
def test_converted_models_generate_what_transformers_does(results, greedy, name, kv_heads, tp):
    expected = greedy[name, kv_heads]
    assert len({token for tokens in expected for token in tokens}) > 10
    for rank in results[name, kv_heads, tp]["ranks"]:
        assert rank["tokens"] == expected
