"""Make the overthinker: tokenizer, tiny Qwen2 model, supervised training with the actor.

    torchrun --standalone --nproc-per-node 2 recipes/overthinker/make.py --out DIR

model/ and data/ beside it are its output, of a quarter of an hour on 2 CPU cores.
"""

from __future__ import annotations

import random
import sys
from itertools import islice

from megaprune.distributed import world
from megaprune.recipes.overthinker.problems import drawn, lessons, response, write_problems
from megaprune.recipes.supervised import train, write_untrained


def main() -> None:
    """Train on this rank; rank 0 writes the model."""
    of_texts, of_lessons = random.Random(0), random.Random(3)
    texts = (p.question + response(p, of_texts) for p in islice(drawn(1), 2000))
    train(
        str(__doc__),
        lambda folder: write_untrained(folder, texts),
        ((p.question, response(p, of_lessons)) for p in lessons()),
        write_problems,
    )


if __name__ == "__main__":
    sys.exit(world.run(main))
