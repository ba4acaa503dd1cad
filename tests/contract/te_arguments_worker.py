"""A GPTModel with layers of Transformer Engine for each training argument: one JSON line per name.

    te_arguments_worker.py      on the one rank of a job that te_server.py forks

Each argument is set otherwise, by itself; `difference` is that of the logits from those of a model
with the same weights and Megatron-core's own layers, and `error` why there are none.
"""

from __future__ import annotations

import json
import os
import tempfile

import torch
import torch.distributed as dist
from megatron.core.packed_seq_params import PackedSeqParams
from megatron_arguments import (
    IDS,
    REFUSED,
    UNCHECKED,
    WITH_TRANSFORMER_ENGINE,
    arguments,
    built,
    logits,
    otherwise,
)  # fmt: skip

from megaprune.actor.build import start_megatron
from megaprune.parallelism import Parallel

NORMS = {
    "input_layernorm.weight": "self_attention.linear_qkv.layer_norm_weight",
    "pre_mlp_layernorm.weight": "mlp.linear_fc1.layer_norm_weight",
}
"""Where Transformer Engine's layers have the norms of the others."""


def renamed(weights):
    for own, theirs in NORMS.items():
        weights = {name.replace(own, theirs): weight for name, weight in weights.items()}
    return weights


def packed_logits(model):
    """The logits of `IDS`, whose sequences lie behind one another."""
    count, length = IDS.shape
    bounds = torch.arange(0, count * length + 1, length, dtype=torch.int32)
    packed = PackedSeqParams(
        qkv_format="thd", cu_seqlens_q=bounds, cu_seqlens_kv=bounds, max_seqlen_q=length,
        max_seqlen_kv=length,
    )  # fmt: skip
    positions = torch.arange(length).repeat(count)[None]
    with torch.no_grad():
        out = model(IDS.reshape(1, -1), positions, None, packed_seq_params=packed)
    return out[..., :300].reshape(count, length, 300)


def main():
    os.chdir(tempfile.mkdtemp())  # `config_logger_dir` is a folder that is written to
    dist.init_process_group("gloo")
    start_megatron(Parallel())
    plain = built(arguments())
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.1)
    weights, expected = renamed(plain.state_dict()), logits(plain)
    base = {"transformer_impl": "transformer_engine"}
    for name, value in {"base": None, **vars(arguments(**base))}.items():
        if name in REFUSED or name == "transformer_impl":
            continue
        other = {} if name == "base" else {name: otherwise(name, value)}
        line = {"name": name}
        try:
            if name in UNCHECKED | WITH_TRANSFORMER_ENGINE:
                model = built(arguments(**base), other)
            else:
                model = built(arguments(**base, **other))
            model.load_state_dict(weights, strict=False)
            missing = set(weights) - set(model.state_dict())
            assert not missing, missing
            line["difference"] = (packed_logits(model) - expected).abs().max().item()
        except Exception as error:  # noqa: BLE001 (reasons not to be built have any type)
            line["error"] = f"{type(error).__name__}: {error}"[:300]
        print(json.dumps(line), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
