"""What real vLLM engines hold and generate: one JSON line per engine. Run by test_vllm_layout.py.

    torchrun --nproc-per-node 2 vllm_worker.py JOBS.json

Each process of the job is one rank of every engine. JOBS.json is a list of objects: `model` (the
folder to load), `tensors` (the folder whose tensors the parameters must be made of), `tp`,
`prompts` (lists of token ids) and `new_tokens`. An engine of tp=1 is built once on each process.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file

from megaprune.weights.layouts import Parameter, vllm_layout
from megaprune.weights.model import Model, read_config


def main(file: Path) -> None:
    prepare_vllm()
    for number, job in enumerate(json.loads(file.read_text())):
        start = time.perf_counter()
        # A group per engine: vLLM takes the group that it finds, and destroys it when it goes.
        dist.init_process_group(
            "gloo",
            init_method=f"file://{file.resolve()}.{number}",
            rank=int(os.environ["RANK"]),
            world_size=int(os.environ["WORLD_SIZE"]),
        )
        ranks = run(job)
        if int(os.environ["RANK"]) == 0:
            seconds = round(time.perf_counter() - start, 1)
            print(json.dumps({**job, "ranks": ranks, "seconds": seconds}), flush=True)


def prepare_vllm() -> None:
    import vllm._custom_ops
    from vllm.v1.executor.uniproc_executor import ExecutorWithExternalLauncher

    # oneDNN would pack every weight into an opaque handle and leave empty parameters behind.
    vllm._custom_ops._supports_onednn = False
    # vLLM names its shared memory after the end of this address. Its own choice, env://, is the
    # same for all jobs of a machine, and two jobs at once would collide.
    address = f"tcp://127.0.0.1:{os.environ['TORCHELASTIC_RUN_ID']}"
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    ExecutorWithExternalLauncher._distributed_args = lambda self: (address, rank, local_rank)


def run(job: dict) -> list[dict]:
    """Build an engine; what every rank holds and generates."""
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory

    llm = LLM(
        model=job["model"],
        dtype="float32",
        tensor_parallel_size=job["tp"],
        distributed_executor_backend="external_launcher",
        enforce_eager=True,
        max_model_len=64,
        max_num_seqs=4,
        disable_log_stats=True,
    )
    ranks = [None] * dist.get_world_size()
    dist.all_gather_object(ranks, look_at(llm, job))
    del llm
    cleanup_dist_env_and_memory()
    return ranks


def look_at(llm, job: dict) -> dict:
    """What this rank of the engine holds and generates."""
    from vllm import SamplingParams
    from vllm.distributed import get_tensor_model_parallel_rank

    worker = llm.llm_engine.model_executor.driver_worker.worker
    found = dict(worker.model_runner.model.named_parameters())
    rank = get_tensor_model_parallel_rank()
    outputs = llm.generate(
        [{"prompt_token_ids": prompt} for prompt in job["prompts"]],
        SamplingParams(temperature=0.0, max_tokens=job["new_tokens"]),
        use_tqdm=False,
    )
    return {
        "rank": rank,
        "parameters": len(found),
        "differences": compare(found, Path(job["tensors"]), job["tp"], rank),
        "tokens": [list(output.outputs[0].token_ids) for output in outputs],
    }


def compare(found: dict[str, torch.Tensor], folder: Path, tp: int, rank: int) -> list[str]:
    """How the engine's parameters differ from what the layout says; empty if in no byte."""
    tensors = {}
    for file in folder.glob("*.safetensors"):
        tensors.update(load_file(file))
    layout = vllm_layout(Model.from_config(read_config(folder)), tp)
    expected = {p.name: materialise(p, tensors) for p in layout.ranks[rank]}
    differences = [f"{name}: only in vLLM" for name in found.keys() - expected.keys()]
    differences += [f"{name}: only in the layout" for name in expected.keys() - found.keys()]
    for name in expected.keys() & found.keys():
        one, other = found[name].detach().contiguous(), expected[name]
        if one.shape != other.shape or one.dtype != other.dtype:
            differences.append(
                f"{name}: {one.dtype} {list(one.shape)} in vLLM, "
                f"{other.dtype} {list(other.shape)} by the layout"
            )
        elif not torch.equal(one.view(torch.uint8), other.view(torch.uint8)):
            differences.append(f"{name}: {int((one != other).sum())} elements differ")
    return sorted(differences)


def materialise(parameter: Parameter, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """The parameter as the layout puts it together; NaN, which no weight is, in any gap."""
    dtype = next(iter(tensors.values())).dtype
    target = torch.full(parameter.shape, torch.nan, dtype=dtype)
    for piece in parameter.pieces:
        target[piece.at.slices] = tensors[piece.tensor][piece.box.slices]
    for box in parameter.padding:
        target[box.slices] = 0
    return target


if __name__ == "__main__":
    main(Path(sys.argv[1]))
