"""Draw rollouts/ once more: a step of the tiny overthinker's, on a machine that has vLLM.

python tests/trainer/record_rollouts.py
"""

import shutil
import tempfile
from pathlib import Path

import megaprune as mp
from megaprune.config.run import read_config

FIELDS = [
    "recipe=tiny_overthinker", "steps=1", "data.train_batch_size=8", "rollout.n=4",
    "rollout.max_response_length=120", "validation.every=0", "checkpoint.every=0",
]  # fmt: skip
HERE = Path(__file__).parent


def main():
    with tempfile.TemporaryDirectory() as folder:
        for _ in mp.Run(read_config([*FIELDS, f"out={folder}/run"])):
            pass
        shutil.rmtree(HERE / "samples", ignore_errors=True)
        shutil.copytree(Path(folder) / "run" / "samples", HERE / "samples")


if __name__ == "__main__":
    main()
