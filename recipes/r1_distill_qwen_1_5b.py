"""R1-Distill-Qwen-1.5B: python recipes/r1_distill_qwen_1_5b.py [key=value ...] --dryrun."""

import sys

from megaprune.launch.nemo import main

if __name__ == "__main__":
    sys.exit(main("r1_distill_qwen_1_5b"))
