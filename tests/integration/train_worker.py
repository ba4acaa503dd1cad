"""A run of the tiny overthinker that kills itself in a phase: RUN SPEC, on one rank or several.

SPEC: {"fields": [...], "kill": {"phase": "update", "step": 2, "after": 0.05, "rank": 0}}
"""

import hashlib
import json
import os
import signal
import sys
import threading

from megaprune.config.run import read_config
from megaprune.distributed import world
from megaprune.trainer.checkpoint_saving import Saving
from megaprune.trainer.loop import TrainingRun, train
from megaprune.trainer.metrics import Clock


def kill_in(phase, step, after, rank):
    """SIGKILL so many seconds into a phase of a step (1 is the first)."""
    if phase == "save":
        kill_in_mid_save(rank)
        return
    state = {"step": 0}

    def hooked(begin):
        def begun(self, name):
            if name == "generate":
                state["step"] += 1
            if name == phase and state["step"] == step and world.rank() == rank:
                threading.Timer(after, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
            return begin(self, name)

        return begun

    Clock.__call__, Clock.beside = hooked(Clock.__call__), hooked(Clock.beside)


def kill_in_mid_save(rank):
    """SIGKILL when a checkpoint's files are written and have no name yet."""
    write = Saving._write

    def written(self, buckets):
        write(self, buckets)
        if self.path.name == "iter_0000004" and world.rank() == rank:
            os.kill(os.getpid(), signal.SIGKILL)

    Saving._write = written


def tell(run):
    """A digest of all weights in this rank's model, and of the optimizer's state."""
    digest = hashlib.sha256()
    for name, parameter in sorted(run.engines.actor.parameters().items()):
        digest.update(name.encode() + parameter.numpy().tobytes())
    line = {"rank": world.rank(), "step": run.step, "hash": digest.hexdigest()}
    sys.stdout.write(json.dumps(line) + "\n")  # in one piece: other ranks write there too
    sys.stdout.flush()


def main():
    asked = json.loads(sys.argv[1])
    if "kill" in asked:
        kill_in(**asked["kill"])
    export = TrainingRun._export

    def exported(self):
        tell(self)
        export(self)

    TrainingRun._export = exported
    train(read_config(asked["fields"]))


if __name__ == "__main__":
    sys.exit(world.run(main))
