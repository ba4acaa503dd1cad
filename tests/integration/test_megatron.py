"""Converted checkpoints in real megatron-core, in real processes; its own checkpoints converted."""

import filecmp

import pytest
import torch
from megatron_worker import DIVIDED
from safetensors.torch import load_file

from launch import launch
from megaprune.cli.main import main
from megaprune.recipes.tiny_models import make_tiny
from megaprune.weights.argument_names import changes_nothing
from reference import TINY_MODELS

pytest.importorskip("megatron.core", reason="megatron-core is not installed: pip install '.[cpu]'")

LAYOUTS = [(1, 1, 1), (2, 1, 1), (1, 2, 1), (2, 2, 1), (1, 2, 2), (2, 2, 2), (4, 1, 1)]


def reference_logits(folder, ids):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype="float32", attn_implementation="eager"
    )
    with torch.no_grad():
        return model(ids).logits


@pytest.fixture(scope="module")
def megatron_run(tmp_path_factory):
    """One torchrun of four ranks that does everything; its folder and the lines it printed."""
    root = tmp_path_factory.mktemp("megatron")
    ids = torch.randint(1, 509, (2, 24), generator=torch.Generator().manual_seed(0))
    for seed, (name, (family, config)) in enumerate(TINY_MODELS.items()):
        hf = make_tiny(root / name / "hf", family, seed=seed, **config)
        torch.save({"ids": ids, "logits": reference_logits(hf, ids)}, root / name / "logits.pt")
        out = root / name / "megatron"
        assert main(["convert", "to-megatron", "--hf", str(hf), "--out", str(out)]) == 0
    lines = launch(4, "megatron_worker.py", root, ",".join(TINY_MODELS), seconds=900)
    return root, ids, lines


@pytest.mark.parametrize("name", TINY_MODELS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_dist_checkpointing_loads_it_and_logits_are_hugging_faces(megatron_run, name, layout):
    _, _, lines = megatron_run
    (line,) = [
        line
        for line in lines
        if line["job"] == "load"
        and line["model"] == name
        and (line["tp"], line["pp"], line["vpp"]) == layout
    ]
    assert line["difference"] <= 1e-5
    assert line["largest"] > 0.1
    assert line["padding"] == 0.0  # rows that Megatron-core adds hold zeros


def test_arguments_that_divide_a_model_change_nothing(megatron_run):
    """What `weights.arguments` lets through, and one process cannot build."""
    _, _, lines = megatron_run
    divided = {line["argument"]: line for line in lines if line["job"] == "divide"}
    assert divided.keys() == DIVIDED.keys()
    assert {name: d["difference"] for name, d in divided.items() if d["difference"] > 1e-5} == {}
    on_the_last_stage = {name: line["layers"] for name, line in divided.items()}
    assert on_the_last_stage == {
        "tensor_model_parallel_size": 4, "sequence_parallel": 4, "pipeline_model_parallel_size": 2,
        "pipeline_model_parallel_layout": 3, "virtual_pipeline_model_parallel_size": 2,
        "num_layers_in_first_pipeline_stage": 3, "num_layers_in_last_pipeline_stage": 1,
        "decoder_first_pipeline_num_layers": 1, "decoder_last_pipeline_num_layers": 3,
    }  # fmt: skip
    assert all(changes_nothing(name) for name in DIVIDED)


def test_a_checkpoint_that_training_saved_becomes_a_model(megatron_run, tmp_path, capsys):
    root, ids, lines = megatron_run
    trained, out = root / "trained", tmp_path / "hf"
    (line,) = [line for line in lines if line["job"] == "train"]
    # Padding rows get gradients through the softmax, so Adam moved them: they must not leak.
    assert line["padding_moved"] > 1e-3
    assert main(["convert", "to-hf", "--megatron", str(trained), "--out", str(out)]) == 1
    assert (
        "give a Hugging Face folder of the same model (to-hf: with --hf" in capsys.readouterr().err
    )
    hf = root / "qwen2" / "hf"
    arguments = ["--megatron", str(trained), "--hf", str(hf), "--out", str(out)]
    assert main(["convert", "to-hf", *arguments]) == 0
    exported, original = load_file(out / "model.safetensors"), load_file(hf / "model.safetensors")
    assert {n: t.shape for n, t in exported.items()} == {n: t.shape for n, t in original.items()}
    assert all(not torch.equal(exported[name], original[name]) for name in original)
    after = torch.load(root / "trained.pt.0")["logits"][..., :509]
    assert (reference_logits(out, ids) - after).abs().max() <= 1e-5
    assert (torch.load(root / "qwen2" / "logits.pt")["logits"] - after).abs().max() > 1e-2
    assert main(["convert", "inspect", str(trained)]) == 0
    assert "optimizer.state.exp_avg" in capsys.readouterr().out
    # As a reference its padding does not matter; as what is checked it is named.
    assert main(["convert", "verify", str(trained), str(out)]) == 0
    assert main(["convert", "verify", str(out), str(trained)]) == 1
    assert "output_layer.weight" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "saved"), [("qwen3", "by-layer"), ("qwen2-tied", "by-layer-tied")]
)
def test_a_checkpoint_with_a_tensor_for_each_layer(megatron_run, tmp_path, name, saved):
    root, _, _ = megatron_run
    hf, out = root / name / "hf", tmp_path / "hf"
    arguments = ["--megatron", str(root / saved), "--hf", str(hf), "--out", str(out)]
    assert main(["convert", "to-hf", *arguments]) == 0
    assert filecmp.cmp(hf / "model.safetensors", out / "model.safetensors", shallow=False)
