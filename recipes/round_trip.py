"""A conversion with its proof: Hugging Face -> Megatron-core -> Hugging Face, byte by byte.

    python recipes/round_trip.py [--hf DIR] --out DIR

Without --hf, a tiny random Qwen2 model is made first. OUT gets hf/ (only then), megatron/, back/.
"""

from __future__ import annotations

import argparse
import filecmp
import sys
from pathlib import Path

from megaprune.cli.main import main as megaprune


def main() -> int:
    """Run the round trip; the status is 0 if all that was put in came back as it was."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hf", type=Path, metavar="DIR", help="a model of your own")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    options = parser.parse_args()
    hf, megatron, back = (
        options.hf or options.out / "hf",
        *(options.out / name for name in ("megatron", "back")),
    )
    if options.hf is None:
        from megaprune.recipes.tiny_models import make_tiny

        make_tiny(hf, "qwen2", vocab_size=5003, hidden_size=256, intermediate_size=704)
    commands = [
        ["to-megatron", "--hf", hf, "--out", megatron, "--overwrite"],
        ["inspect", megatron],
        ["to-hf", "--megatron", megatron, "--out", back, "--overwrite"],
        ["verify", hf, back],
    ]
    for command in commands:
        arguments = [str(word) for word in command]
        print("\n$ megaprune convert", *arguments, flush=True)
        if status := megaprune(["convert", *arguments]):
            return status
    names = sorted(path.name for path in hf.glob("*.safetensors"))
    same, *_ = filecmp.cmpfiles(hf, back, names, shallow=False)
    print(f"\n{len(same)} of {len(names)} weight files are the same file, byte for byte")
    # A user's own model may be cut into shards otherwise; its tensors were compared above.
    return 0 if options.hf or same == names else 1


if __name__ == "__main__":
    sys.exit(main())
