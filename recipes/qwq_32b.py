"""QwQ-32B, pruned on 4 nodes of 8 GPUs: python recipes/qwq_32b.py [key=value ...] --dryrun."""

import sys

from megaprune.launch.nemo import main

if __name__ == "__main__":
    sys.exit(main("qwq_32b"))
