"""Real Megatron-core on gloo: loads converted checkpoints in every layout, trains and saves others.

Started by torchrun from test_megatron.py; prints one JSON line for each thing it did. Modules are
imported inside functions because megatron-core's checkpoint writer spawns processes that import
this file again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

LAYOUTS = [  # tp, pp, vpp; the rest of the world is data-parallel
    (1, 1, None),
    (2, 1, None),
    (1, 2, None),
    (2, 2, None),
    (1, 2, 2),
    (2, 2, 2),
    (4, 1, None),  # more ranks than key and value heads
]
FIRST, LAST = ("num_layers_in_first_pipeline_stage", "num_layers_in_last_pipeline_stage")
DIVIDED = {
    "tensor_model_parallel_size": (2, 1, None, {}),
    "sequence_parallel": (2, 1, None, {"sequence_parallel": True}),
    "pipeline_model_parallel_size": (1, 2, None, {}),
    "pipeline_model_parallel_layout": (1, 2, None, {"pipeline_model_parallel_layout": "Et|tttL"}),
    "virtual_pipeline_model_parallel_size": (1, 2, 2, {}),
    FIRST: (1, 2, None, {FIRST: 1}),
    LAST: (1, 2, None, {LAST: 1}),
    # Megatron-LM's own words for the two before.
    "decoder_first_pipeline_num_layers": (1, 2, None, {FIRST: 3}),
    "decoder_last_pipeline_num_layers": (1, 2, None, {LAST: 3}),
}
"""Training arguments that divide a model: tp, pp and vpp, and fields of TransformerConfig."""
VOCAB_MULTIPLE = 64  # the models are padded to a multiple of this, times tp


def redirect_cuda() -> None:
    """megatron-core 0.16 asks for the CUDA device on its way; here it is the CPU."""
    import torch

    torch.cuda.current_device = lambda: torch.device("cpu")
    torch.cuda.synchronize = lambda *_: None
    torch.Tensor.cuda = lambda self, *_, **__: self

    def on_cpu(make):
        return lambda *a, device=None, **k: make(
            *a, device=None if device == "cuda" else device, **k
        )

    torch.tensor, torch.zeros = on_cpu(torch.tensor), on_cpu(torch.zeros)


def build(config, tp, pp, vpp, **fields):
    """The model chunks of this rank, from a Hugging Face config.json and nothing of megaprune.

    Args:
        fields: more of TransformerConfig.
    """
    import torch
    from megatron.core import parallel_state
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.transformer.transformer_config import TransformerConfig

    qwen2, qwen3 = (name in config["architectures"][0] for name in ("Qwen2", "Qwen3"))
    heads = config["num_attention_heads"]
    transformer = TransformerConfig(
        num_layers=config["num_hidden_layers"],
        hidden_size=config["hidden_size"],
        ffn_hidden_size=config["intermediate_size"],
        num_attention_heads=heads,
        num_query_groups=config["num_key_value_heads"],
        kv_channels=config.get("head_dim") or config["hidden_size"] // heads,
        normalization="RMSNorm",
        layernorm_epsilon=config["rms_norm_eps"],
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        add_qkv_bias=qwen2,
        qk_layernorm=qwen3,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        apply_rope_fusion=False,
        gradient_accumulation_fusion=False,
        persist_layer_norm=False,
        attention_softmax_in_fp32=True,
        use_cpu_initialization=True,
        params_dtype=torch.float32,
        pipeline_dtype=torch.float32,
        tensor_model_parallel_size=tp,
        pipeline_model_parallel_size=pp,
        virtual_pipeline_model_parallel_size=vpp,
        **fields,
    )
    unit = VOCAB_MULTIPLE * tp
    chunks = []
    for chunk in range(vpp or 1):
        first = parallel_state.is_pipeline_first_stage(ignore_virtual=True) and chunk == 0
        last = parallel_state.is_pipeline_last_stage(ignore_virtual=True) and chunk + 1 == (
            vpp or 1
        )
        chunks.append(
            GPTModel(
                config=transformer,
                transformer_layer_spec=get_gpt_layer_local_spec(
                    normalization="RMSNorm", qk_layernorm=qwen3
                ),
                vocab_size=-(-config["vocab_size"] // unit) * unit,
                max_sequence_length=config["max_position_embeddings"],
                pre_process=first,
                post_process=last,
                share_embeddings_and_output_weights=config["tie_word_embeddings"],
                position_embedding_type="rope",
                rotary_base=int(config["rope_parameters"]["rope_theta"]),
                vp_stage=chunk if vpp else None,
            )
        )
    return chunks


def load(chunks, checkpoint):
    """Load with megatron-core's own loader, strictly."""
    import torch
    from megatron.core import dist_checkpointing

    with torch.no_grad():
        for chunk in chunks:
            for parameter in chunk.parameters():
                parameter.fill_(float("nan"))  # what is not loaded shows
    states = {f"model{i}": chunk.sharded_state_dict() for i, chunk in enumerate(chunks)}
    loaded = dist_checkpointing.load(states, str(checkpoint))
    for i, chunk in enumerate(chunks):
        chunk.load_state_dict(loaded[f"model{i}"])
        if any(parameter.isnan().any() for parameter in chunk.parameters()):
            raise AssertionError("parameters that were not loaded")


def logits(chunks, ids, hidden_size):
    """Logits of all ranks' model: hidden states go from stage to stage, chunk by chunk."""
    import torch
    import torch.distributed as dist
    from megatron.core import parallel_state

    batch, length = ids.shape
    positions = torch.arange(length).expand(batch, -1)
    mask = torch.triu(torch.ones(1, 1, length, length, dtype=torch.bool), 1)
    stages = parallel_state.get_pipeline_model_parallel_world_size()
    stage = parallel_state.get_pipeline_model_parallel_rank()
    group = parallel_state.get_pipeline_model_parallel_group()
    ranks = dist.get_process_group_ranks(group)
    hidden = None
    for step in range(len(chunks) * stages):
        chunk, at = divmod(step, stages)
        if at != stage:
            continue
        if step:
            if stages > 1:
                hidden = torch.empty(length, batch, hidden_size)
                dist.recv(hidden, ranks[(stage - 1) % stages], group)
            chunks[chunk].set_input_tensor(hidden)
        hidden = chunks[chunk](ids, positions, mask)
        if step + 1 < len(chunks) * stages:
            dist.send(hidden.detach(), ranks[(stage + 1) % stages], group)
    if stage + 1 < stages:
        return None
    tp = parallel_state.get_tensor_model_parallel_world_size()
    shards = [torch.empty_like(hidden) for _ in range(tp)]
    dist.all_gather(
        shards, hidden.detach().contiguous(), parallel_state.get_tensor_model_parallel_group()
    )
    return torch.cat(shards, -1)


def start(tp, pp, vpp=None):
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

    parallel_state.destroy_model_parallel()
    parallel_state.initialize_model_parallel(
        tp, pp, virtual_pipeline_model_parallel_size=vpp, create_gloo_process_groups=False
    )
    model_parallel_cuda_manual_seed(1, inference_rng_tracker=True)


def report(**fields):
    """One line from one rank that has the logits."""
    from megatron.core import parallel_state

    if (
        parallel_state.is_pipeline_last_stage(ignore_virtual=True)
        and parallel_state.get_tensor_model_parallel_rank() == 0
        and parallel_state.get_data_parallel_rank() == 0
    ):
        print(json.dumps(fields), flush=True)


def check_loading(root, names):
    """Every checkpoint in every layout against Hugging Face's logits."""
    import torch

    for tp, pp, vpp in LAYOUTS:
        start(tp, pp, vpp)
        for name in names:
            config = json.loads((root / name / "hf" / "config.json").read_text())
            expected = torch.load(root / name / "logits.pt")
            chunks = build(config, tp, pp, vpp)
            load(chunks, root / name / "megatron")
            with torch.no_grad():
                seen = logits(chunks, expected["ids"], config["hidden_size"])
            if seen is not None:
                vocab = config["vocab_size"]
                difference = (seen[..., :vocab] - expected["logits"]).abs().max().item()
                report(
                    job="load", model=name, tp=tp, pp=pp, vpp=vpp or 1, difference=difference,
                    largest=expected["logits"].abs().max().item(),
                    padding=seen[..., vocab:].abs().max().item(),
                )  # fmt: skip


def check_dividing(root, name):
    """The model as each argument of `DIVIDED` divides it, against Hugging Face's logits."""
    import torch
    from megatron.core.transformer.torch_norm import WrappedTorchNorm

    # It refuses sequence parallelism since nobody would sum its gradients: there are none here.
    WrappedTorchNorm.__new__ = lambda _, config, hidden_size, eps: torch.nn.RMSNorm(
        hidden_size, eps
    )
    config = json.loads((root / name / "hf" / "config.json").read_text())
    expected = torch.load(root / name / "logits.pt")
    for argument, (tp, pp, vpp, fields) in DIVIDED.items():
        start(tp, pp, vpp)
        chunks = build(config, tp, pp, vpp, **fields)
        load(chunks, root / name / "megatron")
        with torch.no_grad():
            seen = logits(chunks, expected["ids"], config["hidden_size"])
        layers = sum(len(chunk.decoder.layers) for chunk in chunks)
        if seen is not None:
            seen = seen[..., : config["vocab_size"]]
            difference = (seen - expected["logits"]).abs().max().item()
            report(job="divide", argument=argument, layers=layers, difference=difference)


def train_and_save(root, name, out):
    """One step of Megatron-core's Adam at TP2, saved with the optimizer; then the new logits."""
    import torch
    from megatron.core import dist_checkpointing
    from megatron.core.distributed import DistributedDataParallelConfig
    from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer

    start(2, 1)
    config = json.loads((root / name / "hf" / "config.json").read_text())
    (model,) = build(config, 2, 1, None)
    load([model], root / name / "megatron")
    model.ddp_config = DistributedDataParallelConfig()  # the optimizer looks at it
    optimizer = get_megatron_optimizer(
        OptimizerConfig(optimizer="adam", lr=1e-2, clip_grad=0.0, params_dtype=torch.float32),
        [model],
        use_gloo_process_groups=False,
    )
    ids = torch.load(root / name / "logits.pt")["ids"]
    length = ids.shape[1]
    mask = torch.triu(torch.ones(1, 1, length, length, dtype=torch.bool), 1)
    loss = model(ids, torch.arange(length).expand_as(ids), mask, labels=ids.roll(-1, 1)).mean()
    loss.backward()
    for parameter in model.parameters():
        parameter.main_grad = parameter.grad
    optimizer.step()
    state = model.sharded_state_dict()
    save(
        {"model": state, "optimizer": optimizer.sharded_state_dict(state), "iteration": 1},
        dist_checkpointing, out,
    )  # fmt: skip
    with torch.no_grad():
        after = logits([model], ids, config["hidden_size"])
        padding = largest_padding(model.output_layer, config["vocab_size"])
    torch.save(
        {"ids": ids, "logits": after}, out.parent / f"{out.name}.pt.{torch.distributed.get_rank()}"
    )
    report(job="train", model=name, loss=loss.item(), padding_moved=padding)


def save_layer_by_layer(root, name, out):
    """The loaded model saved again at TP2 x PP2, one tensor for each layer."""
    from megatron.core import dist_checkpointing

    start(2, 2)
    config = json.loads((root / name / "hf" / "config.json").read_text())
    chunks = build(config, 2, 2, None)
    load(chunks, root / name / "megatron")
    metadata = {"non_homogeneous_layers": True}
    save({"model": chunks[0].sharded_state_dict(metadata=metadata)}, dist_checkpointing, out)
    report(job="save", model=name)


def save(state, dist_checkpointing, out):
    import torch.distributed as dist

    if dist.get_rank() == 0:
        out.mkdir(parents=True)
    dist.barrier()
    dist_checkpointing.save(state, str(out))
    dist.barrier()


def largest_padding(output_layer, vocab):
    """The largest element of the padding rows, which lie on the last tensor-parallel rank."""
    import torch
    import torch.distributed as dist
    from megatron.core import parallel_state

    rank = parallel_state.get_tensor_model_parallel_rank()
    rows = len(output_layer.weight)
    padding = output_layer.weight[max(0, vocab - rank * rows) :]
    largest = padding.abs().max() if len(padding) else torch.zeros(())
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest.item()


def main():
    root, names = Path(sys.argv[1]), sys.argv[2].split(",")
    redirect_cuda()
    import torch.distributed as dist

    dist.init_process_group("gloo")
    check_loading(root, names)
    train_and_save(root, "qwen2", root / "trained")
    save_layer_by_layer(root, "qwen3", root / "by-layer")
    save_layer_by_layer(root, "qwen2-tied", root / "by-layer-tied")
    check_dividing(root, "qwen2")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
