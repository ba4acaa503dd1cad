"""`megaprune convert` over real folders: both ways, byte for byte."""

import filecmp
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rotations import BUILT
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from megaprune.files import RECORD
from megaprune.recipes.tiny_models import make_tiny
from megaprune.weights.rope import rope_parameters
from reference import TINY_MODELS

REPOSITORY = Path(__file__).parents[2]


def tensors(folder):
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        found.update(load_file(path))
    return found


def assert_same_bytes(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype, name
        assert one[name].shape == other[name].shape, name
        assert torch.equal(one[name].view(torch.uint8), other[name].view(torch.uint8)), name


@pytest.mark.parametrize("name", TINY_MODELS)
@pytest.mark.parametrize("multiple", [1, 128])
def test_there_and_back_gives_the_same_files(tiny_models, tmp_path, convert, name, multiple):
    hf, there, back = tiny_models[name], tmp_path / "there", tmp_path / "back"
    padding = ("--pad-vocab-to-multiple-of", multiple)
    assert convert("to-megatron", "--hf", hf, "--out", there, *padding).status == 0
    result = convert("to-hf", "--megatron", there, "--out", back)
    assert result.status == 0
    assert "read back and equal to the input" in result.text
    names = sorted(path.name for path in hf.iterdir())
    assert sorted(p.name for p in back.iterdir()) == sorted(
        [*names, "megaprune_manifest.json", RECORD]
    )
    # Not only the tensors: the files, as the safetensors library wrote them.
    assert filecmp.cmpfiles(hf, back, names, shallow=False) == (names, [], [])


@pytest.mark.parametrize(
    "name",
    [
        "yarn, old",
        "yarn, the original length beside",
        "scaling and other parameters",
        "llama3, new",
    ],
)
def test_rotations_survive_in_their_spelling(hf, tmp_path, convert, name):
    path, there, back = hf / "config.json", tmp_path / "there", tmp_path / "back"
    config = json.loads(path.read_text())
    del config["rope_parameters"]
    path.write_text(json.dumps(config | BUILT[name]))
    assert convert("to-megatron", "--hf", hf, "--out", there).status == 0
    assert convert("to-hf", "--megatron", there, "--out", back).status == 0
    assert json.loads((back / "config.json").read_text()) == config | BUILT[name]
    assert convert("verify", hf, back).status == 0
    # Another spelling of the same is the same; a base that transformers passes over is not.
    same = rope_parameters(config | BUILT[name])
    path.write_text(json.dumps(config | {"rope_parameters": same}))
    for other in (there, back):
        assert convert("verify", hf, other).status == 0
    path.write_text(json.dumps(config | {"rope_parameters": {**same, "rope_theta": 77.0}}))
    for other in (there, back):
        result = convert("verify", hf, other)
        assert result.status == 1
        assert f"config.json: rope_theta: 77.0 against {same['rope_theta']}" in result.text
    result = convert("to-hf", "--megatron", there, "--hf", hf, "--out", tmp_path / "no")
    assert result.status == 1
    assert "rope_theta: 77.0 against" in result.text


def test_shards_have_an_index_that_transformers_loads(hf, megatron, tmp_path, convert):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "out"
    arguments = ("--megatron", megatron, "--out", out, "--max-shard-size", "200KB")
    assert convert("to-hf", *arguments).status == 0
    shards = sorted(out.glob("*.safetensors"))
    assert [s.name for s in shards] == [f"model-0000{i}-of-00004.safetensors" for i in (1, 2, 3, 4)]
    index = json.loads((out / "model.safetensors.index.json").read_text())
    sizes = {name: t.nbytes for name, t in tensors(hf).items()}
    assert index["metadata"]["total_size"] == sum(sizes.values())
    for shard in shards:
        with safe_open(shard, "pt") as file:
            assert file.metadata() == {"format": "pt"}
            assert {index["weight_map"][name] for name in file.keys()} == {shard.name}  # noqa: SIM118
            assert sum(sizes[name] for name in file.keys()) <= 200_000  # noqa: SIM118
    assert_same_bytes(tensors(hf), tensors(out))
    model, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert_same_bytes(
        dict(AutoModelForCausalLM.from_pretrained(hf).state_dict()), dict(model.state_dict())
    )
    assert AutoTokenizer.from_pretrained(out).encode("1+1=2") == [
        *AutoTokenizer.from_pretrained(hf).encode("1+1=2")
    ]


def test_sharded_input_is_read_through_its_index(hf, tmp_path, convert):
    from transformers import AutoModelForCausalLM

    sharded, there, back = tmp_path / "sharded", tmp_path / "there", tmp_path / "back"
    AutoModelForCausalLM.from_pretrained(hf).save_pretrained(sharded, max_shard_size="150KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    assert convert("to-megatron", "--hf", sharded, "--out", there).status == 0
    assert convert("to-hf", "--megatron", there, "--out", back).status == 0
    assert_same_bytes(tensors(sharded), tensors(back))


def test_dtype_converts_elements_and_says_so_in_the_config(hf, tmp_path, convert):
    there, back = tmp_path / "there", tmp_path / "back"
    arguments = ("--hf", hf, "--out", there, "--dtype", "bfloat16")
    assert convert("to-megatron", *arguments).status == 0
    assert convert("to-hf", "--megatron", there, "--out", back).status == 0
    expected = {name: t.to(torch.bfloat16) for name, t in tensors(hf).items()}
    assert_same_bytes(expected, tensors(back))
    assert json.loads((back / "config.json").read_text())["dtype"] == "bfloat16"
    wide = tmp_path / "wide"
    arguments = ("--megatron", there, "--out", wide, "--dtype", "float32")
    assert convert("to-hf", *arguments).status == 0
    assert_same_bytes({name: t.float() for name, t in expected.items()}, tensors(wide))
    assert convert("verify", hf, back).status == 1
    assert convert("verify", hf, back, "--dtype", "bfloat16").status == 0


def test_tensors_larger_than_a_band_are_written_in_parts(hf, tmp_path, convert, monkeypatch):
    from megaprune.weights import verify
    from megaprune.weights.files import checkpoint_index, hf_writer, megatron_writer

    for module in (verify, hf_writer, megatron_writer):
        monkeypatch.setattr(module, "BAND_BYTES", 1000)
    there, back = tmp_path / "there", tmp_path / "back"
    padding = ("--pad-vocab-to-multiple-of", 100)
    assert convert("to-megatron", "--hf", hf, "--out", there, *padding).status == 0
    assert convert("to-hf", "--megatron", there, "--out", back).status == 0
    assert filecmp.cmp(hf / "model.safetensors", back / "model.safetensors", shallow=False)
    index = checkpoint_index.CheckpointIndex(there)
    assert len(index.chunks("embedding.word_embeddings.weight")) == 600 / 3  # rows of 256 bytes


def test_mixed_types_are_kept_or_refused(hf, tmp_path, convert):
    mixed = tensors(hf)
    for name in mixed:
        if "norm" in name:
            mixed[name] = mixed[name].bfloat16()
    save_file(mixed, hf / "model.safetensors", {"format": "pt"})
    assert convert("to-megatron", "--hf", hf, "--out", tmp_path / "there").status == 0
    back = tmp_path / "back"
    assert convert("to-hf", "--megatron", tmp_path / "there", "--out", back).status == 0
    assert_same_bytes(mixed, tensors(back))
    name = "model.layers.1.self_attn.k_proj.weight"
    save_file({**mixed, name: mixed[name].half()}, hf / "model.safetensors", {"format": "pt"})
    result = convert("to-megatron", "--hf", hf, "--out", tmp_path / "other")
    assert result.status == 1
    assert "linear_qkv.weight" in result.text
    assert f"{name} is float16" in result.text
    assert "--dtype" in result.text
    assert not (tmp_path / "other").exists()


def test_json_and_inspect(hf, megatron, tmp_path, convert):
    done = convert("to-hf", "--megatron", megatron, "--out", tmp_path / "back", "--json")
    assert done.json["tensors"] == 51
    assert done.json["verified"] is True
    assert done.err == ""
    seen = convert("inspect", megatron, "--json").json
    assert seen["format"] == "megatron-torch_dist"
    assert seen["architecture"] == "Qwen2ForCausalLM"
    shapes = {entry["name"]: entry["shape"] for entry in seen["entries"]}
    assert shapes["embedding.word_embeddings.weight"] == [512, 64]
    assert shapes["decoder.layers.self_attention.linear_qkv.bias"] == [4, 128]
    table = convert("inspect", hf)
    assert "model.layers.3.self_attn.q_proj.weight" in table.out
    assert "51 tensors" in table.text
    seen = convert("inspect", hf, "--json").json
    assert len(seen["entries"]) == 51
    assert sum(entry["nbytes"] for entry in seen["entries"]) == sum(
        tensor.nbytes for tensor in tensors(hf).values()
    )


def test_a_run_folder_means_its_latest_checkpoint(hf, megatron, tmp_path, convert):
    run = tmp_path / "run"
    run.mkdir()
    megatron.rename(run / "iter_0000020")
    (run / "latest_checkpointed_iteration.txt").write_text("20\n")
    assert convert("verify", hf, run).status == 0
    assert (run / "iter_0000020" / "megaprune_manifest.json").is_file()
    for word in ("30", "what?", ""):
        (run / "latest_checkpointed_iteration.txt").write_text(word)
        assert str(run / "iter_0000020") in convert("inspect", run).text
    (run / "iter_0000020").rename(run / "elsewhere")
    (run / "latest_checkpointed_iteration.txt").write_text("30")
    assert "names '30', which is not a checkpoint" in convert("inspect", run).text


def test_tied_head_that_is_stored_all_the_same(tmp_path, convert):
    hf = make_tiny(tmp_path / "hf", tie_word_embeddings=True)
    stored = tensors(hf)
    stored["lm_head.weight"] = stored["model.embed_tokens.weight"].clone()
    save_file(stored, hf / "model.safetensors", {"format": "pt"})
    result = convert("to-megatron", "--hf", hf, "--out", tmp_path / "there")
    assert result.status == 0
    assert "they are equal, and only the embedding is kept" in result.text
    stored["lm_head.weight"][300, 7] += 1
    save_file(stored, hf / "model.safetensors", {"format": "pt"})
    result = convert("to-megatron", "--hf", hf, "--out", tmp_path / "other")
    assert result.status == 1
    assert "lm_head.weight differs from the embedding" in result.text


def test_two_sets_of_weights_are_refused(hf, tmp_path, convert):
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(hf).save_pretrained(tmp_path / "s", max_shard_size="150KB")
    for path in (tmp_path / "s").glob("model*"):
        path.rename(hf / path.name)
    result = convert("to-megatron", "--hf", hf, "--out", tmp_path / "there")
    assert result.status == 1
    assert "has both model.safetensors and model.safetensors.index.json" in result.text


def test_chat_templates_in_a_folder_come_along(hf, tmp_path, convert):
    (hf / "additional_chat_templates").mkdir()
    (hf / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}")
    assert convert("to-megatron", "--hf", hf, "--out", tmp_path / "there").status == 0
    back = tmp_path / "back"
    assert convert("to-hf", "--megatron", tmp_path / "there", "--out", back).status == 0
    assert (back / "additional_chat_templates" / "tools.jinja").read_text() == "{{ tools }}"


def test_what_the_checkpoint_does_not_say_is_noted(hf, megatron, tmp_path, convert):
    shutil.rmtree(megatron / "hf")
    result = convert("to-hf", "--megatron", megatron, "--hf", hf, "--out", tmp_path / "back")
    assert result.status == 0
    assert f"taken on trust from {hf}, and from what its architecture is" in result.text
    assert "num_attention_heads, head_dim, num_key_value_heads, rms_norm_eps" in result.text
    assert "3 rows above vocab_size=509 are padding" in result.text


def test_scripts_do_what_the_command_does(hf, tmp_path):
    def run(script, *arguments):
        command = [sys.executable, REPOSITORY / "converters" / script, *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    assert run("hf_to_megatron.py", "--hf", "hf", "--out", "there").returncode == 0
    assert run("megatron_to_hf.py", "--megatron", "there", "--out", "back").returncode == 0
    equal = run("verify.py", "hf", "back")
    assert equal.returncode == 0, equal.stderr
    assert "equal" in equal.stdout


SLOW = """
import sys, time
from megaprune.cli.main import main
from megaprune.weights.files import folder

read = folder.Rearranged.read

def slow(self, parameter, box):
    print("reading", parameter, flush=True)
    time.sleep(0.2)
    return read(self, parameter, box)

folder.Rearranged.read = slow
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("job", ["to-megatron", "to-hf"])
def test_a_killed_conversion_leaves_nothing_finished_and_runs_again(
    hf, megatron, tmp_path, convert, job, sent
):
    """A slowed-down conversion is ended while it writes."""
    out = tmp_path / "out"
    source = ("--hf", hf) if job == "to-megatron" else ("--megatron", megatron)
    arguments = ["convert", job, *map(str, source), "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(4):
        assert process.stdout.readline().startswith("reading")
    busy = convert(*arguments[1:])
    assert busy.status == 1
    assert f"is being written by process {process.pid} of" in busy.text
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (-9 if sent == signal.SIGKILL else 128 + sent)
    assert "Traceback" not in errors
    assert not out.exists()
    assert bool(list(tmp_path.glob(".out.megaprune-*"))) == (sent == signal.SIGKILL)
    assert convert(*arguments[1:]).status == 0
    assert convert("verify", hf, out).status == 0
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"hf", "megatron", "out"}


def test_overwrite_replaces_a_model_and_nothing_else(hf, megatron, tmp_path, convert):
    out = tmp_path / "out"
    arguments = ("to-hf", "--megatron", megatron, "--out", out)
    assert convert(*arguments).status == 0
    before = os.stat(out).st_ino
    again = convert(*arguments)
    assert again.status == 1
    assert f"{out} exists; give --overwrite" in again.text
    assert os.stat(out).st_ino == before
    time.sleep(0.01)
    assert convert(*arguments, "--overwrite").status == 0
    assert os.stat(out).st_ino != before
    assert convert("verify", hf, out).status == 0
    link = tmp_path / "link"
    link.symlink_to(out)
    refused = convert("to-hf", "--megatron", megatron, "--out", link, "--overwrite")
    assert "is a link, which is not replaced" in refused.text
    assert link.is_symlink()
    assert convert("verify", hf, link).status == 0
    # The manifest that verifying leaves is the program's too.
    assert convert(*arguments, "--overwrite").status == 0


def test_overwrite_leaves_what_others_made(hf, megatron, tmp_path, convert):
    out = tmp_path / "out"
    assert convert("to-hf", "--megatron", megatron, "--out", out).status == 0
    (out / "thesis.txt").write_text("years of work")
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("years of work")
    (home / "config.json").write_text("{}")
    (home / "model.safetensors").write_text("")
    run = tmp_path / "run"
    shutil.copytree(megatron, run / "iter_0000010")
    (run / "latest_checkpointed_iteration.txt").write_text("10")
    project = tmp_path / "project"
    shutil.copytree(hf, project / "model")
    shutil.copy(hf / "config.json", project)
    beside = [tmp_path / "out.partial", tmp_path / "out.replaced", tmp_path / "out.lock"]
    for path in beside:
        shutil.copytree(hf, path)
    for folder in (home, run, project, out):
        before = sorted(tmp_path.rglob("*"))
        refused = convert("to-hf", "--megatron", megatron, "--out", folder, "--overwrite")
        assert refused.status == 1
        assert ("thesis.txt" if folder == out else "has no record") in refused.text
        assert sorted(tmp_path.rglob("*")) == before
    (out / "thesis.txt").unlink()
    # Its input may even have the name that was once that of the output underway.
    arguments = ("to-megatron", "--hf", beside[0], "--out", tmp_path / "new")
    assert convert("to-hf", "--megatron", megatron, "--out", out, "--overwrite").status == 0
    assert convert(*arguments).status == 0
    assert all(path.is_dir() for path in beside)
    for place in (megatron, megatron.parent):
        result = convert("to-hf", "--megatron", megatron, "--out", place, "--overwrite")
        assert result.status == 1
        assert "is where the input" in result.text
    assert convert("verify", hf, megatron).status == 0
