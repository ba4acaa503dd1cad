"""Convert a Megatron-core checkpoint to a Hugging Face model: `megaprune convert to-hf`.

python converters/megatron_to_hf.py --megatron DIR --out DIR
"""

import sys

from megaprune.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["convert", "to-hf", *sys.argv[1:]]))
