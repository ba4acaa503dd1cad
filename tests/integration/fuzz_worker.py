"""Draw configurations, check each, and run those that pass; a JSON line for each of them.

Arguments: a folder, a seed, how many are to run, how many are drawn at most, and a `;`-separated
configuration instead of drawn ones if only that is to be tried.
"""

from __future__ import annotations

import gc
import json
import random
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import torch.distributed as dist

from megaprune.config.fields import describe
from megaprune.config.run import Config, read_config
from megaprune.distributed import world
from megaprune.distributed.objects import broadcast_from_rank0
from megaprune.errors import InputError
from megaprune.library import Run
from megaprune.recipes.tiny import FOLDER
from megaprune.validate import check_run

CHOICES = {
    "data.train_batch_size": [1, 2, 3, 4],
    "data.max_prompt_length": [0, 3, 20, 64, 500, 2000],
    "data.order": ["shuffled", "sorted"],
    "data.validation": ["null"],
    "data.duplicates": ["keep", "drop"],
    "data.cutoff": ["null", 0, 64],
    "data.enable_thinking": ["null", "true", "false"],
    "rollout.tp": [0, 1, 2, 3],
    "rollout.max_num_seqs": [0, 1, 3, 64, 512, 100_000],
    "rollout.kv_cache_memory_bytes": ["null", 0, 1, 1 << 16, 1 << 20, 1 << 23, 1 << 26],
    "rollout.gpu_memory_utilization": [0, 0.01, 0.5, 1, 1.1],
    "rollout.n": [0, 1, 2, 4],
    "rollout.max_response_length": [0, 1, 8, 24, 72, 1000],
    "rollout.temperature": [0, 1e-30, 0.005, 0.01, 0.5, 2, 100],
    "rollout.carry_over": ["true", "false"],
    "grading.default": ["strict", "lenient", "olympiad", "strickt"],
    "grading.thought": ["think", "none", "marco", "thinking"],
    "grading.boxes": ["all", "last", "first"],
    "grading.workers": [0, 1, 2],
    "grading.seconds": [0, 1e-9, 0.01, 5],
    "grading.memory_bytes": [0, 1, 1 << 20, 1 << 26, 1 << 27, 1 << 31],
    "grading.environment": ["[]", "HOME", "[PATH,HOME]", "NOT_THERE"],
    "algorithm": [
        "grpo",
        "dler",
        "thinkprune",
        "dr_grpo",
        "laser_de",
        "gfpo",
        "sft",
        "dpo",
        "alp",
        "dapo",
    ],
    "algorithm.reward.name": [
        "truncate",
        "soft_overlong",
        "minmax",
        "shortest_ever",
        "gate",
        "harmonize",
        "format",
        "nope",
    ],
    "algorithm.reward.cache": [0, 1, 8, 1000],
    "algorithm.advantage.name": ["group_std", "group_mean", "batch_std", "leave_one_out", "gdpo"],
    "algorithm.filter.name": [
        "none",
        "no_signal",
        "keep_shortest",
        "shortest_right",
        "right_pair",
        "drop_cut_off",
        "pass_rate",
    ],
    "algorithm.filter.m": [0, 1, 2],
    "algorithm.filter.max_resample_rounds": [-1, 0, 1, 2],
    "algorithm.loss.name": [
        "grpo",
        "dr_grpo",
        "gspo",
        "o1_pruner",
        "cispo",
        "sft",
        "dpo",
        "simpo",
    ],
    "algorithm.loss.beta": [0, 0.1, 2],
    "algorithm.loss.gamma": [-1, 0, 1],
    "algorithm.loss.clip_ratio_low": [-0.1, 0, 0.2, 0.99, 1, 1.5],
    "algorithm.loss.clip_ratio_high": [-0.1, 0, 0.2, 5],
    "algorithm.loss.kl_coef": [-1, 0, 0.01, 1],
    "algorithm.loss.ratio_to": ["old", "reference", "rollout"],
    "algorithm.loss.entropy_coef": [-0.01, 0, 0.01],
    "algorithm.loss.importance_cap": ["null", 0, 1e-3, 2],
    "algorithm.loss.dual_clip": ["null", 1, 3],
    "algorithm.loss.aggregate": ["token", "sequence", "batch"],
    "algorithm.loss.kl_estimator": ["k1", "k2", "k3", "k4"],
    "algorithm.loss.kl_in": ["loss", "reward", "advantage"],
    "algorithm.loss.importance_level": ["token", "sequence"],
    "algorithm.loss.importance_above": ["cap", "mask"],
    "algorithm.num_minibatches": [0, 1, 2, 3, 4],
    "algorithm.length": ["response", "thought", "answer"],
    "optimizer.lr": [0, 1e-12, 1e-4, 1e-3],
    "optimizer.schedule": ["constant", "cosine", "linear"],
    "optimizer.warmup_steps": [-1, 0, 1, 100],
    "optimizer.weight_decay": [-1, 0, 0.1, 1],
    "optimizer.weight_decay_on_vectors": ["true", "false"],
    "optimizer.beta1": [-0.1, 0, 0.9, 1],
    "optimizer.beta2": [0, 0.95, 0.999, 1],
    "optimizer.clip_grad": [-1, 0, 1e-6, 1],
    "optimizer.distributed": ["true", "false"],
    "optimizer.on_cpu": [-0.1, 0, 0.3, 1, 1.5],
    "actor.tp": [0, 1, 2, 3],
    "actor.pp": [0, 1, 2, 3],
    "actor.vpp": [0, 1, 2, 3],
    "actor.num_layers_in_first_pipeline_stage": ["null", 0, 1, 2, 4],
    "actor.num_layers_in_last_pipeline_stage": ["null", 1, 3, 4],
    "actor.sequence_parallel": ["true", "false"],
    "actor.max_tokens": [0, 1, 87, 136, 137, 1000],
    "actor.recompute": ["none", "core_attention", "full", "some"],
    "actor.offload": ["none", "optimizer", "all", "weights"],
    "actor.frozen_layers": [-1, 0, 1, 2, 3, 4, 9],
    "actor.trainable_layers": ["null", 0, 1, 4, 5],
    "validation.every": [-1, 0, 1, 2],
    "validation.first": ["true", "false"],
    "validation.n": [0, 1, 2],
    "validation.temperature": [-1, 0, 1e-9, 0.6],
    "validation.top_p": [0, 1e-9, 0.5, 1, 1.5],
    "validation.max_response_length": ["null", 0, 1, 24, 960, 5000],
    "checkpoint.every": [0, 1, 2, 9],
    "checkpoint.keep_last": [0, 1, 2],
    "checkpoint.keep_best": ["true", "false"],
    "checkpoint.tie": [-1, 0, 5, 1e9],
    "checkpoint.wait": ["true", "false"],
    "checkpoint.verify": ["full", "sample", "off", "some"],
    "checkpoint.on_damage": ["previous", "stop", "nope"],
    "samples.keep_last": ["null", -1, 0, 1],
    "samples.tokens": ["true", "false"],
    "wandb.mode": ["disabled", "offline", "nope"],
    "wandb.name": ["null", "a name", "1.10"],
    "wandb.project": ["a"],
    "wandb.group": ["null", "a group"],
    "tensorboard": ["true", "false"],
    "seed": [-1, 0, 1, 2**31, 2**63, 10**30],
    "dtype": ["float32", "bfloat16", "float16"],
    "strict": ["true", "false"],
    "deterministic": ["true", "false"],
    "max_mismatch": ["null", 0, 0.5, 10],
    "max_failed_steps": ["null", 0, 3],
    "processes": ["null", 0, 1, 2],
}
"""Values of fields within their bounds, at them, and beyond."""

LEFT_OUT = {
    "model": "the tiny model",
    "out": "a folder for each",
    "steps": "two",
    "data.train": "a few problems",
    "data.rollouts": "needs a folder of rollouts",
    "data.weights": "needs a folder of weighed responses",
    "data.references": "needs a folder of responses",
    "rollout.enforce_eager": "compiling takes minutes on a CPU",
    "grading.graders": "as grading.default",
}
"""Fields that are not drawn, and why."""


def draw(rng: random.Random) -> list[str]:
    """One to eight fields that are others than the tiny recipe's."""
    names = rng.sample(list(CHOICES), rng.randint(1, 8))
    return [f"{name}={rng.choice(CHOICES[name])}" for name in names]


def base(root: Path, number: int) -> list[str]:
    """A small run of two steps."""
    return [
        "recipe=tiny_overthinker", "steps=2", "data.train_batch_size=2", "rollout.n=2",
        "rollout.max_response_length=24", "validation.every=0", "checkpoint.every=2",
        f"data.train={root / 'train.parquet'}", f"data.validation={root / 'few.parquet'}",
        f"out={root / f'run_{number}'}",
    ]  # fmt: skip


def checked(fields: list[str], processes: int) -> tuple[Config | None, str]:
    """The configuration, and what --check says if it cannot be."""
    config = None
    try:
        config = read_config(fields)
        check_run(config, processes)
    except InputError as error:
        return config, str(error)
    return config, ""


def started(config: Config) -> str:
    """Run both steps; what came instead, if anything."""
    try:
        steps = [result.step for result in Run(config)]
    except InputError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    finally:
        gc.collect()
    return "" if steps == [1, 2] else f"steps {steps}"


def tried(fields: list[str]) -> dict[str, object]:
    """Check a configuration, and start it."""
    config, refused = checked(fields, dist.get_world_size())
    refused = broadcast_from_rank0(refused)
    line: dict[str, object] = {"fields": fields[10:], "refused": refused}
    begun = time.monotonic()
    if config is not None:
        line["started"] = started(config)
        line["folder"] = Path(config.out).exists()
    return {**line, "seconds": round(time.monotonic() - begun, 1)}


def job() -> None:
    root, seed, wanted, most = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    rank = dist.get_rank()
    assert {doc.name for doc in describe(Config)} <= CHOICES.keys() | LEFT_OUT.keys()
    if rank == 0:
        root.mkdir(exist_ok=True)
        table = pq.read_table(FOLDER / "data" / "train.parquet")
        pq.write_table(table.slice(0, 16), root / "train.parquet")
        pq.write_table(table.slice(16, 3), root / "few.parquet")
    dist.barrier()
    rng = random.Random(seed)
    given = [sys.argv[5].split(";")] if len(sys.argv) > 5 else None
    ran = 0
    for number in range(1 if given else most):
        if ran == wanted:
            break
        line = tried([*base(root, number), *(given[0] if given else draw(rng))])
        ran += not line["refused"]
        if rank == 0:
            print(json.dumps(line), flush=True)
        if not dist.is_initialized():
            break  # a run that failed took the others' process group with it


if __name__ == "__main__":
    sys.exit(world.run(job))
