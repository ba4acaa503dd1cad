"""Transformer Engine, which may be installed and broken: built for another torch, or torn.

Megatron-core imports it wherever it is installed, and ends with whatever that raises. So this is
asked before Megatron-core is imported, and makes a broken one look as if it were not there.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys

_NAME = "transformer_engine"


def load() -> bool:
    """Import Transformer Engine; return whether it can be used.

    If it is installed and cannot be imported, it is hidden from later imports, and the first rank
    says so once.
    """
    if f"{_NAME}.pytorch" in sys.modules:
        return True
    if importlib.util.find_spec(_NAME) is None:  # not installed, or hidden before
        return False
    try:
        # Not the package alone, which passes over a half for torch that cannot be imported.
        importlib.import_module(f"{_NAME}.pytorch")
    # A missing library, a symbol that torch has no more, an assertion: each has a type of its own.
    except Exception as error:  # noqa: BLE001
        for module in [m for m in sys.modules if m == _NAME or m.startswith(f"{_NAME}.")]:
            del sys.modules[module]
        sys.modules[_NAME] = None  # type: ignore[assignment]  # an import of it now fails
        if os.environ.get("RANK", "0") == "0":
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            print(
                f"megaprune: warning: Transformer Engine is installed and cannot be loaded "
                f"({reason[:300]}). The model is built without it, and is slower on a GPU; "
                f"`megaprune doctor` says how to mend it",
                file=sys.stderr,
                flush=True,
            )
        return False
    return True
