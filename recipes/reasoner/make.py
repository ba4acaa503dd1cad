"""Make the reasoner: the overthinker, which can add, is taught to make slips and to find them.

    torchrun --standalone --nproc-per-node 2 recipes/reasoner/make.py --out DIR

It writes DIR/model and DIR/data, in a few minutes on 2 CPU cores.
"""

from __future__ import annotations

import shutil
import sys

from megaprune.distributed import world
from megaprune.recipes.reasoner.problems import lessons, write_problems
from megaprune.recipes.supervised import train
from megaprune.recipes.tiny import FOLDER


def main() -> None:
    """Train on this rank; rank 0 writes the model."""
    train(
        str(__doc__),
        lambda folder: shutil.copytree(FOLDER / "model", folder, dirs_exist_ok=True),
        lessons(),
        write_problems,
        steps=250,
        lr=1e-3,
    )


if __name__ == "__main__":
    sys.exit(world.run(main))
