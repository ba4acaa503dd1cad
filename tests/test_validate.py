"""What is asked before a run, besides what the command line's own tests refuse."""

import json
import os
import pickle
import shutil
from types import SimpleNamespace

import pytest
import torch

from megaprune import validate
from megaprune.cli.main import main
from megaprune.config.run import read_config
from megaprune.data import ProblemRow, write_parquet
from megaprune.errors import InputError
from megaprune.recipes.tiny import FOLDER

RUN = ["recipe=tiny_overthinker", "processes=1"]


@pytest.fixture
def config(tmp_path):
    return lambda *fields: read_config([*RUN, f"out={tmp_path / 'run'}", *fields])


@pytest.fixture
def full_disk(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))


@pytest.fixture
def small_gpu(monkeypatch):
    monkeypatch.setattr(validate, "gpu_memory_bytes", lambda: [1 << 28] * 2)


def test_a_full_disk_is_a_warning_that_strict_makes_an_error(config, full_disk, capsys, tmp_path):
    validate.check_run(config(), 1)
    words = capsys.readouterr().err
    assert words.startswith("megaprune: warning: out=")
    assert "checkpoints may take 0.1 GB (checkpoint.keep_last=2)" in words
    with pytest.raises(InputError, match=r"strict=true, and out=.*free"):
        validate.check_run(config("strict=true"), 1)
    assert not (tmp_path / "run").exists()


def test_memory_is_what_the_plan_says(config, small_gpu, capsys):
    validate.check_run(config(), 1)
    (line,) = capsys.readouterr().err.splitlines()
    assert "of a GPU (stage 0), more than the 0.3" in line
    assert "--gpus 1, --gpus-per-node 2 and --gpu-memory 0.3 names fields that fit" in line
    with pytest.raises(InputError, match="strict=true, and .*of a GPU"):
        validate.check_run(config("strict=true"), 1)


@pytest.mark.parametrize("command", ["train", "prune"])
def test_a_gpu_too_small_ends_a_strict_command_in_one_line(small_gpu, tmp_path, capsys, command):
    recipe = "tiny_overthinker" if command == "train" else "tiny_overthinker_rounds"
    out = tmp_path / "run"
    fields = [f"recipe={recipe}", f"out={out}", "strict=true"]
    assert main([command, *fields, "--check", "1"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "strict=true, and generate: " in line
    assert not out.exists()


def test_nothing_is_said_where_all_is_well(config, capsys, tmp_path):
    validate.check_run(config("strict=true"), 1)
    assert capsys.readouterr().err == ""
    assert not (tmp_path / "run").exists()


def test_stored_responses_that_no_micro_batch_holds(config, monkeypatch):
    monkeypatch.setattr(
        validate,
        "read_rollouts",
        lambda _, problems, n: (
            problems[:1],
            {problems[0].name: [SimpleNamespace(length=5000)] * n},
        ),
    )
    with pytest.raises(InputError, match=r"actor.max_tokens=2048.*a response in data.rollouts"):
        validate.check_run(config("data.rollouts=elsewhere"), 1)


def test_an_order_that_is_not_there(config):
    with pytest.raises(InputError, match="data.order=sorted; expected shuffled"):
        validate.check_run(config("data.order=sorted"), 1)


@pytest.fixture
def rotated(tmp_path):
    """The tiny model, of 1024 tokens, with a config.json that says more."""

    def make(**fields):
        folder = shutil.copytree(FOLDER / "model", tmp_path / "rotated")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | fields))
        return f"model={folder}"

    return make


@pytest.mark.parametrize(
    ("scaling", "context"),
    [
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1000}, 4000),
        ({"type": "yarn", "factor": 0.75}, 768),
        ({"type": "linear", "factor": 2}, 2048),
        ({"type": "default"}, 1024),
    ],
)
def test_responses_may_be_as_long_as_the_rotation_reaches(config, rotated, scaling, context):
    model = rotated(rope_scaling=scaling)
    fields = [model, "data.max_prompt_length=64", "actor.max_tokens=10000"]
    validate.check_run(config(*fields, f"rollout.max_response_length={context - 64}"), 1)
    with pytest.raises(InputError, match=f"are more than the model's context of {context} tokens"):
        validate.check_run(config(*fields, f"rollout.max_response_length={context - 63}"), 1)


@pytest.mark.parametrize(
    ("scaling", "words"),
    [
        ({"type": "dynamic", "factor": 2.0}, "rope_scaling of type 'dynamic' is not supported"),
        ({"type": "yarn"}, "rope_scaling of type yarn has no factor"),
        ({"type": "yarn", "factor": 2.0, "attn_factor": 0.9}, "rope_scaling has attn_factor=0.9"),
    ],
)
def test_a_rotation_that_is_not_built(config, rotated, scaling, words):
    with pytest.raises(InputError, match=words):
        validate.check_run(config(rotated(rope_scaling=scaling)), 1)


@pytest.fixture
def model(tmp_path):
    """A tiny chat model, and a checkpoint of it; what either's pickles call would make `trace`."""
    from megaprune.recipes.tiny_models import make_tiny
    from megaprune.weights.convert import hf_to_megatron

    hf = make_tiny(tmp_path / "hf")
    (hf / "chat_template.jinja").write_text("{{ messages[0].content }}")
    checkpoint = tmp_path / "checkpoint"
    hf_to_megatron(hf, checkpoint, lambda *_: lambda *_: None, check=False)
    return hf, checkpoint


class Attack:
    """Pickles as a call that leaves a trace."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.fixture
def check_evaluation(tmp_path, capsys):
    """Run `megaprune evaluate --check` of a model; gives its status and what it printed."""
    data, out = tmp_path / "data.parquet", tmp_path / "evaluation"
    write_parquet(data, [ProblemRow("set", ({"role": "user", "content": "1+1?"},), "2")])

    def check(model):
        fields = [f"model={model}", f"data={data}", f"out={out}", "max_response_length=100"]
        status = main(["evaluate", *fields, "max_prompt_length=100", "--check=1"])
        captured = capsys.readouterr()
        assert not out.exists()
        return status, captured.out + captured.err

    return check


def test_checking_an_evaluation_runs_nothing_of_the_model(model, check_evaluation, tmp_path):
    hf, checkpoint = model
    assert check_evaluation(hf)[0] == 0
    assert check_evaluation(checkpoint)[0] == 0
    attack = Attack(tmp_path / "trace")
    whole = (checkpoint / ".metadata").read_bytes()
    (checkpoint / ".metadata").write_bytes(pickle.dumps(attack))
    status, said = check_evaluation(checkpoint)
    assert status == 1
    assert f"{checkpoint / '.metadata'} names posix.mkdir" in said
    (checkpoint / ".metadata").write_bytes(whole)
    torch.save({"args": attack}, checkpoint / "common.pt")
    status, said = check_evaluation(checkpoint)
    assert status == 1
    assert f"{checkpoint / 'common.pt'} names posix.mkdir" in said
    # The same beside a Hugging Face model: it is not looked at.
    shutil.copy(checkpoint / "metadata.json", hf)
    (hf / ".metadata").write_bytes(pickle.dumps(attack))
    torch.save({"args": attack}, hf / "common.pt")
    assert check_evaluation(hf)[0] == 0
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("where", ["config.json", "hf_quant_config.json"])
def test_a_stale_quantization_is_refused_where_vllm_reads_it(model, check_evaluation, where):
    hf, checkpoint = model
    for folder in (hf, checkpoint / "hf"):
        content = json.loads((folder / where).read_text()) if where == "config.json" else {}
        content["quantization_config"] = {"quant_method": "awq", "bits": 4}
        (folder / where).write_text(json.dumps(content))
    status, said = check_evaluation(hf)
    assert status == 1
    assert "says that its weights are quantized" in said
    assert check_evaluation(checkpoint)[0] == 0  # it is converted first, and it stays behind


def test_checking_an_evaluation_ends_if_the_template_does_not(model, check_evaluation):
    hf, _ = model
    loop = "{% for i in range(99999) %}"
    (hf / "chat_template.jinja").write_text(loop * 4 + "{% endfor %}" * 4 + "a")
    status, said = check_evaluation(hf)
    assert status == 1
    assert "row 0" in said
    assert "CPU time" in said


def write_problems(path, *texts, source="set"):
    rows = [ProblemRow(source, [{"role": "user", "content": text}], "2") for text in texts]
    write_parquet(path, rows)
    return path


def test_what_is_said_of_the_problems(config, tmp_path, capsys):
    texts = ["1+1?", "1+2?", " 1+1? ", '1+3? End with a line "Answer: N".']
    path = write_problems(tmp_path / "p.parquet", *texts)
    fields = [f"data.train={path}", "data.max_prompt_length=200", "data.train_batch_size=8"]
    validate.check_run(config(*fields), 1)
    said = capsys.readouterr().err
    assert f"data.train={path}: 1 problem has the prompt of an earlier one; data.dup" in said
    assert "data.train_batch_size=8, and data.train has 4 problems: some come more" in said
    assert "1 prompt asking for the answer as 'Answer:', and not for the box" in said
    fields += ["data.duplicates=drop", "grading.default=lenient"]
    validate.check_run(config(*fields), 1)
    said = capsys.readouterr().err
    assert "an earlier one" not in said
    assert "ask for the answer" not in said
    assert "data.train has 3 problems" in said
    fields = [f"data.train={path}", f"data.validation={path}", "data.train_batch_size=4"]
    validate.check_run(config(*fields, "data.max_prompt_length=200"), 1)
    said = capsys.readouterr().err
    assert f"data.validation={path}: 1 problem has" in said
    assert "train_batch_size" not in said


THINKING = {
    "<think>\\n": {"think": None, "qwen3": "think", "marco": "think", "none": "think"},
    "<think>\\n\\n</think>\\n\\n": {"think": "none", "qwen3": None, "none": None, "s1": "none"},
    "<Thought>": {"marco": None, "think": "marco"},
    "": {"think": "none", "none": None, "s1": None},
}


@pytest.mark.parametrize("end", THINKING)
def test_prompts_that_end_with_a_mark_of_a_thought(config, model, tmp_path, capsys, end):
    hf, _ = model
    (hf / "chat_template.jinja").write_text("{{ messages[0].content }}{{ '" + end + "' }}")
    path = write_problems(tmp_path / "p.parquet", "1+1?", "1+2?")
    fields = [f"model={hf}", f"data.train={path}", "data.validation=null"]
    fields += ["data.train_batch_size=2", "data.max_prompt_length=100", "validation.every=0"]
    fields += ["validation.max_response_length=100", "rollout.max_response_length=100"]
    for thought, expected in THINKING[end].items():
        validate.check_run(config(*fields, f"grading.thought={thought}"), 1)
        said = capsys.readouterr().err
        assert ("grading.thought=" in said) == (expected is not None), (thought, said)
        if expected is not None:
            assert f"grading.thought={thought} " in said
            assert f"grading.thought={expected}" in said
    validate.check_run(config(*fields, "grading.default=last_box"), 1)
    assert "grading.thought" not in capsys.readouterr().err
