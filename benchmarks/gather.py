"""What a rank holds while rollouts are gathered: bytes of the tensors that collectives get.

    python benchmarks/gather.py [--ranks 32] [--engines 4] [--rollouts 512] [--tokens 4000] [--share 16]

The first rank of each engine has `rollouts` responses of `tokens` tokens, the other ranks have none.
"torch" is torch.distributed.all_gather_object, whose tensors are a GPU's with NCCL; "megaprune" is
what the trainer uses. Ranks are processes of this machine, over gloo. They gather a `share`-th of
the rollouts, since 32 ranks with all of them need more memory than most machines have; bytes are
multiplied by it again. Seconds are those of the share, on the slowest rank.
"""

from __future__ import annotations

import argparse
import multiprocessing
import pickle
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from megaprune.distributed.objects import all_gather_object
from megaprune.generation.worker import Rollout
from megaprune.grading import Verdict

TIMEOUT = timedelta(minutes=10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in {
        "ranks": 32, "engines": 4, "rollouts": 512, "tokens": 4000, "share": 16,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    rollouts = make_rollouts(options.rollouts // options.share, options.tokens)
    size = len(pickle.dumps(rollouts)) * options.share
    print(
        f"{options.ranks} ranks, {options.engines} of them with {options.rollouts} rollouts of "
        f"{options.tokens} tokens: a pickle of {size / 1e6:.1f} MB"
    )
    for name, gather in {"torch": torch_gather, "megaprune": all_gather_object}.items():
        every_rank = measured(options.ranks, options.engines, rollouts, gather)
        most = max(nbytes for nbytes, _ in every_rank) * options.share
        seconds = max(seconds for _, seconds in every_rank)
        print(f"{name:<10} {most / 1e6:8.1f} MB on the fullest rank, {seconds:.2f} s")


def make_rollouts(count: int, tokens: int) -> list[Rollout]:
    random = np.random.default_rng(0)
    verdict = Verdict(True, "42", "right")
    return [
        Rollout(
            number // 16,
            number % 16,
            random.integers(0, 152_064, tokens),
            random.random(tokens).astype(np.float32),
            "stop",
            "word " * (tokens * 3 // 4),
            verdict,
        )
        for number in range(count)
    ]


def torch_gather(mine: Any) -> list[Any]:
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return everyone


def measured(
    ranks: int, engines: int, rollouts: list[Rollout], gather: Callable[[Any], list[Any]]
) -> list[tuple[int, float]]:
    """Bytes and seconds of each rank."""
    context = multiprocessing.get_context("fork")
    results: Any = context.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:

        def run(rank: int) -> None:
            store = dist.FileStore(f"{folder}/store", ranks)
            dist.init_process_group(
                "gloo", store=store, rank=rank, world_size=ranks, timeout=TIMEOUT
            )
            nbytes = counted_bytes()
            mine = rollouts if rank % (ranks // engines) == 0 else []
            dist.barrier()
            start = time.perf_counter()
            gathered = gather(mine)
            seconds = time.perf_counter() - start
            assert sum(map(len, gathered)) == engines * len(rollouts)
            results.put((sum(nbytes.values()), seconds))
            dist.barrier()

        processes = [context.Process(target=run, args=(rank,)) for rank in range(ranks)]
        for process in processes:
            process.start()
        every_rank = [results.get() for _ in processes]
        for process in processes:
            process.join()
    return every_rank


def counted_bytes() -> dict[int, int]:
    """Count, from now on, the bytes of the storages that collectives of this process get."""
    nbytes: dict[int, int] = {}

    def counted(collective: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            for argument in arguments:
                for tensor in argument if isinstance(argument, list) else [argument]:
                    if isinstance(tensor, torch.Tensor):
                        storage = tensor.untyped_storage()
                        nbytes[storage.data_ptr()] = storage.nbytes()
            return collective(*arguments, **options)

        return call

    for name in ("all_gather", "broadcast"):
        setattr(dist, name, counted(getattr(dist, name)))
        # torch's own functions call each other by the names of their module.
        setattr(dist.distributed_c10d, name, getattr(dist, name))
    return nbytes


if __name__ == "__main__":
    main()
