"""Convert a Hugging Face model to a Megatron-core checkpoint: `megaprune convert to-megatron`.

python converters/hf_to_megatron.py --hf DIR --out DIR
"""

import sys

from megaprune.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["convert", "to-megatron", *sys.argv[1:]]))
