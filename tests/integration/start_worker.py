"""Begin a job as told, or die in it: for what goes wrong. The argument is a JSON object."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from megaprune.actor.packing import Sample
from megaprune.distributed import world
from megaprune.weights.layouts import Pipeline

ASKED = json.loads(sys.argv[1])


def job() -> None:
    folder = Path(ASKED["folder"])
    if "vllm_tp" in ASKED:
        from megaprune.config.run import EngineConfig
        from megaprune.generation.generator import Generator

        with world.phase("start vLLM"):
            Generator(folder, EngineConfig(tp=ASKED["vllm_tp"]), torch.float32, max_length=64)
    from actors import build_actor

    from megaprune.parallelism import Parallel

    with world.phase("build the actor"):
        pipeline = Pipeline(ASKED.get("pp", 1), ASKED.get("vpp", 1))
        parallel = Parallel(ASKED.get("tp", 1), pipeline)
        options = ASKED.get("options", {})
        actor = build_actor(folder, parallel, **options)
    with world.phase("train"):
        dist.barrier()  # the others are in this phase too when one of them dies
        if dist.get_rank() == ASKED.get("dies"):
            print("READY", flush=True)
            if ASKED["how"] == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ArithmeticError("a number went missing")
        if "interrupted" in ASKED:
            print("READY", flush=True)
            time.sleep(600)
        tokens = torch.arange(1, 9).numpy()
        actor.log_probs([Sample(tokens, 2), Sample(tokens, 3)] * 2)


if __name__ == "__main__":
    sys.exit(world.run(job))
