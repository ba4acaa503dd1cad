"""What the digests of a checkpoint cost: seconds and share of a save, of a resume and of an export.

    torchrun --nproc-per-node 1 benchmarks/checkpoint.py [--layers 8] [--runs 5] [--dir SCRATCH]

A random model in fp32 with hidden 1024 makes a step and is saved, with training waiting for it; then
it is loaded as a resume does it, after all of it or a sample was compared with its digests. Files
lie in the page cache, so that shares are the largest that they can be. Medians of the runs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from megaprune.actor.actor import Actor
from megaprune.actor.packing import Sample
from megaprune.algorithms.records import LossOutput
from megaprune.config.run import ActorConfig, CheckpointConfig, OptimizerConfig
from megaprune.distributed import world
from megaprune.recipes.tiny_models import make_tiny
from megaprune.trainer.checkpoint import Checkpoints, export
from megaprune.trainer.checkpoint_files import checkpoint_path, damage_of
from megaprune.weights.files.digests import CheckpointRecord, digest_parts
from megaprune.weights.files.hf_folder import HfFolder

SHAPE = {"hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 8,
         "num_key_value_heads": 2, "vocab_size": 32768}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--dir", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as scratch:
        folder = make_tiny(
            Path(scratch) / "model", "qwen2", num_hidden_layers=options.layers, **SHAPE
        )
        measure(folder, Path(scratch), options.runs)


def measure(folder: Path, scratch: Path, runs: int) -> None:
    actor = Actor(folder, ActorConfig(), OptimizerConfig(), torch.float32)
    actor.step([Sample(np.arange(1, 40), 4)], lambda b: LossOutput(-b.log_probs.sum(), {}), lr=1e-4)
    config = CheckpointConfig(wait=True, keep_last=1)
    checkpoints = Checkpoints(scratch / "checkpoints", HfFolder(folder).side_files(), config)
    seconds: dict[str, list[float]] = {}

    def clock(name: str, job: Callable[..., object], *arguments: object) -> None:
        dist.barrier()
        start = time.perf_counter()
        job(*arguments)
        seconds.setdefault(name, []).append(time.perf_counter() - start)

    path = checkpoints.folder
    for run in range(1, runs + 1):
        clock("save", checkpoints.save, run, actor, {})
        path = checkpoint_path(checkpoints.folder, run)
        clock("save: digests", digest_again, path)
        for verify in ("full", "sample", "off"):
            again = Checkpoints(
                checkpoints.folder, {}, CheckpointConfig(verify=verify, keep_last=1)
            )
            clock(f"resume: verify={verify}", again.load_latest, actor)
        clock("digests of all of it", damage_of, path, "full")
        for verify in ("full", "off"):
            clock(f"export: verify={verify}", export, path, scratch / "exported", verify)
    nbytes = sum(file.stat().st_size for file in path.glob("**/*.*"))
    size = (path / "megaprune_checkpoint.json").stat().st_size
    if dist.get_rank() == 0:
        print(f"checkpoint: {nbytes / 1e9:.2f} GB, of which the digests {size / 1e3:.0f} kB")
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        for name, value in medians.items():
            print(f"{name:24} {value:7.3f} s")
        share = medians["save: digests"] / medians["save"]
        more = medians["resume: verify=full"] / medians["resume: verify=off"] - 1
        exported = medians["export: verify=full"] / medians["export: verify=off"] - 1
        print(
            f"digests: {share:.1%} of a save, {more:+.1%} of a resume, {exported:+.1%} of an export"
        )


def digest_again(checkpoint: Path) -> None:
    """Do what each rank's thread does when it has written its files."""
    record = CheckpointRecord.read(checkpoint)
    assert record is not None
    for name in list(record.parts)[dist.get_rank() :: dist.get_world_size()]:
        digest_parts(checkpoint / name, [part[:4] for part in record.parts[name]])


if __name__ == "__main__":
    sys.exit(world.run(main))
