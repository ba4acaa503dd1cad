"""`python -m megaprune.cli`, as torchrun starts it."""

import sys

from megaprune.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
