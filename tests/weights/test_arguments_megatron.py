"""Training arguments against what Megatron-core builds of them, on checkpoints that it saved.

Every argument is set otherwise, by itself. Either the checkpoint is refused and the argument is
named, or the exported model has the logits of the model that Megatron-core builds with it.
"""

import argparse
import dataclasses
import inspect
import json
import warnings

import megatron_worker
import pytest
import torch
from megatron_arguments import (
    FAMILIES,
    IDS,
    NOT_STORED,
    OF_PROCESSES,
    PARAMETERS,
    READ,
    REFUSED,
    UNCHECKED,
    WITH_TRANSFORMER_ENGINE,
    arguments,
    built,
    defaults,
    logits,
    otherwise,
)  # fmt: skip

from megaprune.errors import InputError
from megaprune.recipes.tiny_models import make_tiny
from megaprune.weights.argument_names import SUBJECTS
from megaprune.weights.arguments import compare_arguments
from megaprune.weights.boxes import Box
from megaprune.weights.files.folder import Rearranged
from megaprune.weights.files.megatron_folder import MegatronFolder
from megaprune.weights.layouts import hf_layout

pytest.importorskip("megatron.core", reason="megatron-core is not installed: pip install '.[cpu]'")


@pytest.fixture(scope="module")
def megatron_core(alone):
    """Megatron-core with its groups, on this process alone."""
    # Loaded first, so that it too is redirected to the CPU.
    from megatron.core.dist_checkpointing.strategies import torch as _  # noqa: F401

    from megaprune.actor.build import start_megatron
    from megaprune.parallelism import Parallel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start_megatron(Parallel())
        yield


class Saved:
    """A checkpoint that Megatron-core saved, beside a config.json; and the weights in it."""

    def __init__(self, root, family):
        from megatron.core import dist_checkpointing

        self.args = arguments(**FAMILIES[family])
        model = built(self.args)
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            for name, parameter in model.named_parameters():
                parameter.normal_(1.0 if "norm" in name else 0.0, 0.1)
                if parameter.shape[0] == self.args.padded_vocab_size:
                    parameter[300:] = 0
        self.weights = model.state_dict()
        self.hf = make_tiny(
            root / "hf", family, vocab_size=300, hidden_size=64, intermediate_size=112,
            num_hidden_layers=2, head_dim=16, max_position_embeddings=256, rms_norm_eps=1e-6,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4},
            tie_word_embeddings=not self.args.untie_embeddings_and_output_weights,
        )  # fmt: skip
        self.config = json.loads((self.hf / "config.json").read_text())
        self.path = root / "megatron"
        self.path.mkdir()
        state = {"args": self.args, "model": model.sharded_state_dict(), "iteration": 1}
        dist_checkpointing.save({**state, "checkpoint_version": 3.0}, str(self.path))
        self.stored = MegatronFolder(self.path, self.hf).args
        """What was read of the arguments, wherever this version of Megatron-core keeps them."""

    def opened(self, args, config=None):
        """Open it with these arguments, beside a config.json with these keys."""
        content = {**self.config, **(config or {})}
        (self.hf / "config.json").write_text(json.dumps(content))
        torch.save({"args": args, "iteration": 1}, self.path / "common.pt")
        return MegatronFolder(self.path, self.hf)

    def hugging_face_logits(self, args, config=None):
        """The logits of what is exported, computed by transformers."""
        from transformers import AutoConfig, AutoModelForCausalLM

        folder = self.opened(args, config)
        weights = Rearranged(folder, hf_layout(folder.model))
        state = {p.name: weights.read(p.name, Box.whole(p.shape)) for p in weights.parameters()}
        if folder.model.tied:
            state["lm_head.weight"] = state["model.embed_tokens.weight"]
        model = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(self.hf), attn_implementation="eager"
        )
        model.load_state_dict(state)
        with torch.no_grad():
            return model.eval()(IDS).logits

    def megatron_logits(self, args, unchecked=None):
        """The logits of what Megatron-core builds of these arguments, with the saved weights."""
        model = built(args, unchecked)
        model.load_state_dict(self.weights)
        return logits(model)


@pytest.fixture(scope="module")
def saved(megatron_core, tmp_path_factory):
    return {name: Saved(tmp_path_factory.mktemp(name), name) for name in FAMILIES}


def test_arguments_are_found_where_they_are_saved(saved):
    for model in saved.values():
        assert len(model.stored) > 200
        for name, value in model.stored.items():
            wanted = getattr(model.args, name)
            if wanted is None or isinstance(wanted, bool | int | float | str):
                assert value == wanted, name


NOT_BUILT = {
    # They are types of elements: `test_types_of_elements`.
    "bf16", "fp16", "params_dtype",
    # They divide a model over processes: tests/integration/test_megatron.py.
    *megatron_worker.DIVIDED,
    # They need layers of Transformer Engine: tests/contract/test_te_arguments.py.
    "transformer_impl", *WITH_TRANSFORMER_ENGINE,
    # They call kernels of Transformer Engine, for what Megatron-core does with others without them.
    "fused_single_qkv_rope", "inference_fuse_tp_communication", "use_te_activation_func",
    # Keys and values are passed on between ranks by Transformer Engine's attention alone.
    "context_parallel_size",
    # They record kernels of CUDA to repeat them, and copy within streams of CUDA.
    "cuda_graph_impl", "cuda_graph_modules", "enable_cuda_graph",
    "fine_grained_activation_offloading", "moe_paged_stash",
}  # fmt: skip
"""What changes nothing and is not built here, in one process without Transformer Engine and CUDA."""


def test_each_argument_otherwise(saved, tmp_path, monkeypatch):
    """By itself: refused by name, or the model that Megatron-core builds is the one exported."""
    monkeypatch.chdir(tmp_path)  # `config_logger_dir` is a folder that is written to
    # The kernel of `gradient_accumulation_fusion` is called in a backward pass alone.
    monkeypatch.setattr("megatron.core.tensor_parallel.layers._grad_accum_fusion_available", True)
    model = saved["qwen2"]
    exported = model.hugging_face_logits(model.args)
    assert exported.abs().max() > 0.1
    folder = model.opened(model.args)
    refused, moved = set(), {}
    for name, value in vars(model.args).items():
        other = otherwise(name, value)
        args = arguments(**{name: other})
        seen = compare_arguments(vars(args), folder.config, folder.model, 320)
        if seen.differences or seen.unknown:
            refused.add(name)
        elif name not in NOT_BUILT | REFUSED:
            logits = (
                model.megatron_logits(model.args, {name: other})
                if name in UNCHECKED
                else model.megatron_logits(args)
            )
            moved[name] = (logits - exported).abs().max().item()
    assert {name: most for name, most in moved.items() if most > 1e-5} == {}
    assert len(moved) > 200
    # Where a vocabulary ends is looked at together with the rows of the checkpoint.
    assert refused == REFUSED - {"vocab_size"}
    for name in REFUSED:
        with pytest.raises(InputError, match=f"\\b{name}="):
            model.opened(arguments(**{name: otherwise(name, getattr(model.args, name))}))


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_types_of_elements(saved, name, dtype):
    """Training in another type rounds, and is no other model."""
    model = saved["qwen2"]
    args = arguments(**{name: True, "params_dtype": dtype})
    exported = model.hugging_face_logits(args)
    rounded = model.megatron_logits(args).float()
    step = torch.finfo(dtype).eps * exported.abs().max()
    assert 1e-5 < (rounded - exported).abs().max() < 4 * step


def test_nothing_else_reaches_a_model():
    """A model is made of these fields and parameters: all of them are set otherwise above.

    Any other argument is an optimizer's, a data set's or the program's.
    """
    from megatron.core.models.gpt import GPTModel
    from megatron.core.transformer.transformer_config import MLATransformerConfig

    args = vars(arguments())
    assert set(inspect.signature(GPTModel).parameters) == {*PARAMETERS, *OF_PROCESSES}
    assert {name for names in PARAMETERS.values() for name in names} <= args.keys()
    assert READ | defaults().keys() <= args.keys()
    # The names of whole subjects have many fields among them.
    assert sum(name.startswith(SUBJECTS) for name in defaults()) > 80
    # Latent attention has a configuration of its own, which nothing but this argument chooses.
    fields = {field.name for field in dataclasses.fields(MLATransformerConfig)}
    assert fields - NOT_STORED - defaults().keys()
    assert "multi_latent_attention" in REFUSED


def test_all_settings_are_known(saved):
    """Megatron-LM takes each from the argument of that name."""
    from megatron.core.transformer.transformer_config import MLATransformerConfig

    fields = dataclasses.fields(MLATransformerConfig)
    args = {field.name: "on" for field in fields if not field.name.startswith("_")}
    model = saved["qwen2"].opened(saved["qwen2"].args)
    assert compare_arguments(args, model.config, model.model, 320).unknown == []
    assert len(args) > 200


def test_all_of_megatron_lms_own_arguments_are_known(saved):
    """Its parser comes with the package since Megatron-core 0.17."""
    training = pytest.importorskip(
        "megatron.training.arguments", reason="Megatron-LM's parser is not installed"
    )
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    training.add_megatron_arguments(parser)
    args = {action.dest: "on" for action in parser._actions}
    model = saved["qwen2"].opened(saved["qwen2"].args)
    assert compare_arguments(args, model.config, model.model, 320).unknown == []
    assert len(args) > 500


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_other_families(saved, family):
    model = saved[family]
    exported = model.hugging_face_logits(model.args)
    assert (model.megatron_logits(model.args) - exported).abs().max() <= 1e-5
    for name in ("add_qkv_bias", "qk_layernorm", "untie_embeddings_and_output_weights"):
        args = arguments(**{**FAMILIES[family], name: not getattr(model.args, name)})
        with pytest.raises(InputError, match=f"{name}="):
            model.opened(args)


YARN = {
    "position_embedding_type": "yarn", "yarn_rotary_scaling_factor": 4.0,
    "yarn_original_max_position_embeddings": 8, "yarn_beta_fast": 32.0, "yarn_beta_slow": 1.0,
    "yarn_mscale": 1.0, "yarn_mscale_all_dim": 0.0, "yarn_correction_range_round_to_int": True,
}  # fmt: skip
ROTATIONS = {
    "default": ({}, {"rope_type": "default"}),
    "theta": ({"rotary_base": 500000}, {"rope_type": "default", "rope_theta": 5e5}),
    "linear": ({"rotary_seq_len_interpolation_factor": 4}, {"rope_type": "linear", "factor": 4.0}),
    "llama3": (
        {"use_rope_scaling": True, "rope_scaling_factor": 4.0},
        {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 8192},
    ),
    "llama3 by 8": (
        {"use_rope_scaling": True},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 8192},
    ),
    "yarn": (
        YARN, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}
    ),
    "yarn, other mscales": (
        {**YARN, "yarn_mscale": 0.7, "yarn_mscale_all_dim": 1.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8,
         "mscale": 0.7, "mscale_all_dim": 1.0},
    ),
}  # fmt: skip


@pytest.mark.parametrize("said", ROTATIONS)
def test_rotations_both_ways(saved, said):
    """The same rotation in both is the same model; any other pair of two is refused."""
    model = saved["qwen2"]
    for name, (changed, _) in ROTATIONS.items():
        rope = {"rope_theta": 1e4, **ROTATIONS[said][1]}
        args = arguments(**changed)
        if name == said:
            exported = model.hugging_face_logits(args, {"rope_parameters": rope})
            assert (model.megatron_logits(args) - exported).abs().max() <= 1e-5
        else:
            with pytest.raises(InputError, match="is another model than the arguments"):
                model.opened(args, {"rope_parameters": rope})


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"rms_norm_eps": 1e-5}, "rms_norm_eps: 1e-05 against norm_epsilon=1e-06"),
        ({"head_dim": 32, "num_attention_heads": 2}, "num_attention_heads=4, where .* has 2; head_"),
        ({"num_attention_heads": 8}, "num_attention_heads=4, where .* has 8"),
        ({"num_key_value_heads": 4}, "num_key_value_heads: 4 against num_query_groups=2"),
        ({"num_hidden_layers": 1}, "num_hidden_layers: 1 against num_layers=2"),
        ({"hidden_size": 128}, "hidden_size=64, where .* has 128"),
        ({"intermediate_size": 96}, "intermediate_size: 96 against ffn_hidden_size=112"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings: True against untie_embeddings"),
        ({"vocab_size": 299}, "cut off 1 row that is no padding: .* vocab_size=300"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 10000.5}}, "10000.5 against"),
        (
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "'dynamic' against position_embedding_type='rope'",
        ),
        (
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0,
                                 "low_freq_factor": 2.0, "high_freq_factor": 4.0,
                                 "original_max_position_embeddings": 8192}},
            "use_rope_scaling=False",
        ),
    ],
)  # fmt: skip
def test_each_key_of_the_configuration_otherwise(saved, config, line):
    model = saved["qwen2"]
    with pytest.raises(InputError, match=line):
        model.opened(model.args, config)


@pytest.mark.parametrize(
    "config",
    [
        {"max_position_embeddings": 512}, {"initializer_range": 0.5}, {"use_cache": False},
        {"eos_token_id": 7}, {"max_window_layers": 1},
    ],
)  # fmt: skip
def test_keys_that_change_nothing(saved, config):
    model = saved["qwen2"]
    plain = model.hugging_face_logits(model.args)
    assert torch.equal(model.hugging_face_logits(model.args, config), plain)
