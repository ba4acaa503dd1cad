"""fork_server.py, whose processes have Transformer Engine over its stand-in.

    te_server.py SOCKET

Give it to `launch` or `Job` as their `server`. Whatever they run builds layers of Transformer
Engine; `te_standin` can be imported there.
"""

import importlib
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "integration"))

import fork_server  # noqa: E402
import te_standin  # noqa: E402


def prepare() -> None:
    te_standin.install()
    importlib.import_module("te_worker")  # all that workers import, once


if __name__ == "__main__":
    fork_server.main(prepare)
