"""Runs of two steps with one reward after another, on engines that are built once.

Arguments: a folder, and a JSON list of runs: {"name": ..., "fields": [...], "steps": N, "from": NAME}.
A run that is `from` another goes on with a copy of its folder. Each step is told in a line of JSON.
"""

import json
import shutil
import sys
from pathlib import Path

import megaprune as mp
from megaprune.trainer import loop
from megaprune.trainer.engines import Engines

LATER = "iter_0000004"
"""The checkpoint that a run which goes on does not know of yet."""


def share_engines():
    """Let all runs of this process have the same engines; weights go on from run to run."""
    built = []

    def shared(config, starting):
        if not built:
            built.append(Engines(config, starting))
            built[0].generator.close = lambda: None
        return built[0]

    loop.Engines = shared


def begun_before(folder, out):
    """What a run that was killed after its second step leaves."""
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns(LATER, "run.lock*"))


def main():
    root, runs = Path(sys.argv[1]), json.loads(sys.argv[2])
    share_engines()
    for asked in runs:
        out = root / asked["name"]
        if "from" in asked:
            begun_before(root / asked["from"], out)
        run = mp.Run(mp.read_config([*asked["fields"], f"out={out}"]))
        for step in run:
            memory = run.source.state_dict()["memory"]
            line = {"run": asked["name"], "step": step.step, "memory": memory}
            print(json.dumps({**line, "metrics": step.metrics}), flush=True)
            if step.step == asked["steps"]:
                break


if __name__ == "__main__":
    main()
