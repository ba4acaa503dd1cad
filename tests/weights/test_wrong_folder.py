"""Folders that are not what a command needs are called by their names, and what would do is said."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from megaprune.errors import InputError
from megaprune.weights.files import open_folder
from megaprune.weights.files.folder import otherwise_named
from megaprune.weights.files.hf_folder import HfFolder
from megaprune.weights.files.megatron_folder import MegatronFolder
from megaprune.weights.files.wrong_folder import check_checkpoint, check_hugging_face
from megaprune.weights.inspect import inspect

FORMATS = {
    # (files, the folder that is given, what it is called, what is said to do)
    "verl's FSDP": (
        ["model_world_size_8_rank_0.pt", "optim_world_size_8_rank_0.pt", "huggingface/config.json"],
        ".", "a checkpoint of verl's FSDP trainer", "verl.model_merger merge --backend fsdp",
    ),
    "verl's FSDP, with config.json beside": (
        ["model_world_size_1_rank_0.pt", "config.json", "tokenizer.json"],
        ".", "a checkpoint of verl's FSDP trainer", "--local_dir {path} --target_dir",
    ),
    "verl's FSDP, the step": (
        ["actor/model_world_size_16_rank_11.pt", "critic/model_world_size_16_rank_0.pt", "data.pt"],
        ".", "a checkpoint of verl's FSDP trainer", "--local_dir {path}/actor",
    ),
    "verl's FSDP, the run": (
        ["latest_checkpointed_iteration.txt", "global_step_9/actor/model_world_size_2_rank_0.pt",
         "global_step_10/actor/model_world_size_2_rank_0.pt"],
        ".", "a checkpoint of verl's FSDP trainer", "--local_dir {path}/global_step_10/actor",
    ),
    "verl's FSDP, its configuration": (
        ["model_world_size_2_rank_0.pt", "huggingface/config.json"],
        "huggingface", "a part of {parent}, a checkpoint of verl's FSDP trainer", "model_merger",
    ),
    "verl's Megatron": (
        ["dist_ckpt/.metadata", "dist_ckpt/metadata.json", "huggingface/config.json"],
        ".", "a checkpoint of verl's Megatron trainer", "{path}/dist_ckpt, with --hf {path}/huggingface",
    ),
    "verl's Megatron, the step": (
        ["actor/dist_ckpt/.metadata", "actor/dist_ckpt/metadata.json", "actor/huggingface/config.json"],
        ".", "Below it", "{path}/actor",
    ),
    "Megatron-LM's old format": (
        ["mp_rank_00/model_optim_rng.pt"], ".", "Megatron-LM's old format", "--ckpt-convert-format torch_dist",
    ),
    "Megatron-LM's old format, with pipelines": (
        ["mp_rank_03_001/model_optim_rng.pt", "mp_rank_03_001/distrib_optim.pt"],
        ".", "Megatron-LM's old format", "--ckpt-convert-save",
    ),
    "Megatron-LM's old format, the run": (
        ["latest_checkpointed_iteration.txt", "iter_0000010/mp_rank_00/model_optim_rng.pt"],
        ".", "Megatron-LM's old format", "--ckpt-convert-save",
    ),
    "Megatron-LM's old format, a rank": (
        ["mp_rank_00/model_optim_rng.pt"], "mp_rank_00", "Megatron-LM's old format", "--ckpt-convert-save",
    ),
    "DCP": (
        [".metadata", "__0_0.distcp", "__1_0.distcp"],
        ".", "torch.distributed.checkpoint (DCP)", "format_utils dcp_to_torch {path}",
    ),
    "DCP, torchtitan's": (
        ["checkpoint/step-500/.metadata", "checkpoint/step-500/__0_0.distcp"],
        ".", "Below it", "dcp_to_torch {path}/checkpoint/step-500",
    ),
    "DCP, accelerate's": (
        ["pytorch_model_fsdp_0/.metadata", "pytorch_model_fsdp_0/__0_0.distcp", "optimizer_0/.metadata"],
        ".", "Below it", "dcp_to_torch {path}/pytorch_model_fsdp_0",
    ),
    "DCP without its metadata": (["__0_0.distcp"], ".", "torch.distributed.checkpoint (DCP)", "dcp_to_torch"),
    "NeMo 2": (
        ["context/io.json", "context/model.yaml", "weights/metadata.json", "weights/.metadata"],
        ".", "a checkpoint of NeMo 2", "{path}/weights, with --hf",
    ),
    "NeMo 2, its context": (
        ["context/model.yaml", "weights/metadata.json"], "context", "a part of {parent}, a checkpoint of NeMo 2",
        "{parent}/weights",
    ),
    "NeMo 1": (["model_config.yaml", "model_weights/metadata.json"], ".", "NeMo 1", "NeMo's own scripts"),
    "DeepSpeed": (
        ["mp_rank_00_model_states.pt", "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"],
        ".", "a checkpoint of DeepSpeed", "zero_to_fp32.py",
    ),
    "DeepSpeed, by the Trainer": (
        ["zero_to_fp32.py", "latest", "global_step500/zero_pp_rank_0_mp_rank_00_model_states.pt"],
        ".", "a checkpoint of DeepSpeed", "--safe_serialization",
    ),
    "an adapter": (
        ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json"],
        ".", "a PEFT adapter, without the model", "merge_and_unload().save_pretrained",
    ),
    "an adapter beside config.json": (
        ["adapter_config.json", "adapter_model.bin", "config.json"],
        ".", "a PEFT adapter, without the model", "merge_and_unload",
    ),
    "GGUF": (["qwq-32b-q4_k_m.gguf"], ".", "GGUF weights", "the Hugging Face folder"),
    "Meta's": (["consolidated.00.pth", "params.json", "tokenizer.model"], ".", "Meta's original release", "config.json"),
    "a run": (
        ["config.yaml", "metrics.jsonl", "checkpoints/iter_0000020/metadata.json"],
        ".", "a run's folder, not one of its checkpoints", "{path}/checkpoints",
    ),
    "a pruning": (
        ["rounds.json", "round_1_limit_4000/checkpoints/iter_0000020/metadata.json"],
        ".", "Below it", "{path}/round_1_limit_4000/checkpoints (a folder of Megatron-core checkpoints)",
    ),
    "runs of a Trainer": (
        ["checkpoint-500/config.json", "checkpoint-500/model.safetensors",
         "checkpoint-1000/config.json", "checkpoint-1000/model.safetensors"],
        ".", "Below it", "{path}/checkpoint-1000 (a Hugging Face model), {path}/checkpoint-500",
    ),
    "NeMo-RL's": (
        ["step_10/training_info.json", "step_10/policy/weights/iter_0000000/metadata.json"],
        ".", "Below it", "{path}/step_10/policy/weights (a folder of Megatron-core checkpoints)",
    ),
    "nothing": (["readme.txt"], ".", "neither a Hugging Face model nor", "metadata.json is not there"),
}  # fmt: skip


@pytest.fixture
def make(tmp_path):
    def made(files):
        root = tmp_path / "given"
        for name in files:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        return root

    return made


@pytest.mark.parametrize("name", FORMATS)
def test_a_folder_is_called_by_its_name(make, name):
    """From names alone: all files are empty."""
    files, given, what, cure = FORMATS[name]
    path = make(files) / given
    places = {"path": path, "parent": path.parent}
    for command in (HfFolder, MegatronFolder, inspect, open_folder):
        with pytest.raises(InputError) as error:
            command(path)
        for words in (what, cure):
            assert words.format(**places) in str(error.value), command
        assert str(error.value).count("\n") == 0


def test_each_direction_names_the_other(hf, megatron):
    with pytest.raises(InputError, match=rf"convert to-megatron --hf {hf} --out DIR"):
        check_checkpoint(hf)
    with pytest.raises(InputError, match=rf"convert to-hf --megatron {megatron} --out DIR"):
        check_hugging_face(megatron)
    run = megatron.parent / "checkpoints"
    run.mkdir()
    megatron.rename(run / "iter_0000020")
    with pytest.raises(InputError, match=rf"convert to-hf --megatron {run} --out DIR"):
        HfFolder(run)


CACHED = ["refs/main", "blobs/0a1b", "snapshots/{0}/config.json", "snapshots/{0}/model.safetensors"]


@pytest.fixture
def cache(make, monkeypatch):
    """A cache with two models, of which the first has two revisions."""
    first, second = "hub/models--Qwen--QwQ-32B/", "hub/models--org--a-b--c/"
    root = make(
        [first + name.format(rev) for name in CACHED for rev in ("aaaa", "bbbb")]
        + [second + name.format("cccc") for name in CACHED]
    )
    (root / first / "refs" / "main").write_text("aaaa\n")
    monkeypatch.setenv("HF_HOME", str(root))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    return root


@pytest.mark.parametrize("part", ["", "snapshots", "blobs", "refs"])
def test_a_model_in_the_cache_of_the_hub(cache, part):
    model = cache / "hub" / "models--Qwen--QwQ-32B"
    for command in (check_checkpoint, HfFolder):
        with pytest.raises(InputError) as error:
            command(model / part)
        assert "the folder of Qwen/QwQ-32B in the cache of Hugging Face's hub" in str(error.value)
        snapshots = f"Give {model}/snapshots/aaaa or {model}/snapshots/bbbb"
        assert snapshots in str(error.value)


def test_the_cache_of_the_hub(cache):
    with pytest.raises(InputError, match="a cache of Hugging Face's hub") as error:
        HfFolder(cache / "hub")
    assert f"{cache}/hub/models--Qwen--QwQ-32B/snapshots/aaaa" in str(error.value)
    assert f"{cache}/hub/models--org--a-b--c/snapshots/cccc" in str(error.value)
    with pytest.raises(InputError, match="Below it") as error:
        HfFolder(cache)
    assert f"{cache}/hub/models--Qwen--QwQ-32B/snapshots/aaaa (a Hugging Face" in str(error.value)
    shutil.rmtree(cache / "hub" / "models--Qwen--QwQ-32B" / "snapshots")
    with pytest.raises(InputError, match="No model in it is complete"):
        HfFolder(cache / "hub" / "models--Qwen--QwQ-32B")


def test_a_name_on_the_hub(cache, convert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    done = convert("to-megatron", "--hf", "Qwen/QwQ-32B", "--out", out)
    assert done.status == 1
    assert f"{cache}/hub/models--Qwen--QwQ-32B/snapshots/aaaa" in done.err
    for command in (
        ("to-megatron", "--hf", "Qwen/Qwen3-8B", "--out", out),
        ("to-hf", "--megatron", "Qwen/Qwen3-8B", "--out", out),
        ("verify", "Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("inspect", "Qwen/Qwen3-8B"),
    ):
        done = convert(*command)
        assert done.status == 1
        assert "`hf download Qwen/Qwen3-8B --local-dir Qwen3-8B`" in done.err
    (tmp_path / "Qwen").mkdir()
    assert "hf download" not in convert("inspect", "Qwen/Qwen3-8B").err


def test_a_configuration_that_is_given_beside_a_checkpoint(hf, megatron, tmp_path, convert):
    shutil.rmtree(megatron / "hf")
    arguments = ("to-hf", "--megatron", megatron, "--out", tmp_path / "out", "--hf")
    done = convert(*arguments, megatron)
    assert done.status == 1
    assert f"{megatron} is a Megatron-core checkpoint; expected a Hugging Face model" in done.err
    renamed = hf / "qwen.json"
    (hf / "config.json").rename(renamed)
    assert f"{renamed} is not a folder; expected" in convert(*arguments, renamed).err
    assert "hf download ORG/NAME" in convert(*arguments, "ORG/NAME").err
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").touch()
    assert "a PEFT adapter" in convert(*arguments, tmp_path / "adapter").err


def test_a_merged_model_beside_the_shards_is_named_too(hf, make):
    path = make(["model_world_size_2_rank_0.pt"])
    shutil.copytree(hf, path / "huggingface")
    with pytest.raises(InputError, match="Merge it") as error:
        MegatronFolder(path)
    assert f". Below it: {path}/huggingface (a Hugging Face model)" in str(error.value)


def test_files_in_place_of_their_folders(hf, tmp_path):
    for name in ("config.json", "model.safetensors"):
        with pytest.raises(InputError, match=rf"is not a folder.*Give its folder, {hf}"):
            HfFolder(hf / name)
    (tmp_path / "model.nemo").touch()
    with pytest.raises(InputError, match="an archive of NeMo 1"):
        check_checkpoint(tmp_path / "model.nemo")


def test_verl_s_and_nemo_s_megatron_folders_convert_as_they_are_told_to(
    hf, megatron, tmp_path, convert
):
    shutil.rmtree(megatron / "hf")
    actor = tmp_path / "global_step_10" / "actor"
    actor.mkdir(parents=True)
    megatron.rename(actor / "dist_ckpt")
    shutil.copytree(hf, actor / "huggingface", ignore=shutil.ignore_patterns("*.safetensors"))
    told = convert("to-hf", "--megatron", actor, "--out", tmp_path / "out")
    assert f"Give the Megatron-core checkpoint in it, {actor}/dist_ckpt" in told.err
    arguments = ("--megatron", actor / "dist_ckpt", "--hf", actor / "huggingface")
    assert convert("to-hf", *arguments, "--out", tmp_path / "out").status == 0
    assert convert("verify", hf, tmp_path / "out").status == 0


WRAPPED = {
    "compiled": (lambda n: f"_orig_mod.{n}", "_orig_mod. in names is what torch.compile adds"),
    "compiled layers": (
        lambda n: n.replace("self_attn.", "self_attn._orig_mod."), "is what torch.compile adds",
    ),
    "data parallel": (lambda n: f"module.{n}", "module. in names is what DistributedDataParallel"),
    "both": (lambda n: f"module._orig_mod.{n}", "module. and _orig_mod. in names is what"),
    "FSDP": (lambda n: n.replace("layers.1.", "layers.1._fsdp_wrapped_module."), "is what FSDP adds"),
    "an adapter": (lambda n: f"base_model.model.{n}", "merge_and_unload"),
    "an adapter's layers": (
        lambda n: n.replace("q_proj.", "q_proj.base_layer."), "is what PEFT adds",
    ),
    "a part of a larger model": (lambda n: f"language_model.{n}", "names of tensors begin otherwise"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRAPPED)
def test_names_with_the_words_of_wrappers(hf, name):
    rename, words = WRAPPED[name]
    tensors = {rename(n): t for n, t in load_file(hf / "model.safetensors").items()}
    save_file(tensors, hf / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="is missing") as error:
        HfFolder(hf)
    assert words in str(error.value)


def test_tensors_that_are_really_missing_are_not_said_to_be_elsewhere(hf):
    tensors = load_file(hf / "model.safetensors")
    tensors.pop("model.layers.1.self_attn.k_proj.weight")
    save_file(tensors, hf / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="k_proj.weight is missing") as error:
        HfFolder(hf)
    assert "stored as" not in str(error.value)
    assert "is there: names" not in str(error.value)


def test_a_hugging_face_folder_with_files_of_that_name(hf, tmp_path, convert):
    """Its metadata.json is no checkpoint's: it goes along, both ways."""
    (hf / "metadata.json").write_text(json.dumps({"dataset": "none"}))
    there, back = tmp_path / "there", tmp_path / "back"
    assert convert("inspect", hf).status == 0
    assert convert("to-megatron", "--hf", hf, "--out", there).status == 0
    assert convert("to-hf", "--megatron", there, "--out", back).status == 0
    assert convert("verify", hf, back).status == 0
    assert (back / "metadata.json").read_text() == (hf / "metadata.json").read_text()


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ("decoder.layers._orig_mod.mlp.linear_fc1.weight", "is what torch.compile adds"),
        ("module.decoder.layers.mlp.linear_fc1.weight", "is what DistributedDataParallel"),
        ("decoder.layers.mlp._fsdp_wrapped_module.linear_fc1.weight", "is what FSDP adds"),
        ("vision.decoder.layers.mlp.linear_fc1.weight", "names of tensors begin otherwise"),
        ("decoder.layers.mlp.linear_fc2.weight", ""),
        ("decoder.layers.mlp.my_module.linear_fc1.weight", ""),
    ],
)
def test_names_of_a_checkpoint_with_the_words_of_wrappers(stored, words):
    said = otherwise_named("decoder.layers.mlp.linear_fc1.weight", ["other", stored])
    assert words in said
    assert bool(words) == bool(said)
