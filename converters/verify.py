"""Compare two folders of weights byte by byte: `megaprune convert verify`.

python converters/verify.py A B
"""

import sys

from megaprune.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["convert", "verify", *sys.argv[1:]]))
