"""megaprune: make long-reasoning language models think less and answer as well."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from megaprune import recipes
    from megaprune.config.run import Config, read_config
    from megaprune.errors import InputError
    from megaprune.evaluation.config import EvaluateConfig
    from megaprune.harmonizing.config import HarmonizeConfig
    from megaprune.library import Run, convert, evaluate, harmonize, prune, train
    from megaprune.planner import plan
    from megaprune.pruning.config import PruneConfig

__all__ = [
    "Config",
    "EvaluateConfig",
    "HarmonizeConfig",
    "InputError",
    "PruneConfig",
    "Run",
    "convert",
    "evaluate",
    "harmonize",
    "plan",
    "prune",
    "read_config",
    "recipes",
    "train",
]

_MODULES = {
    "Config": "megaprune.config.run",
    "EvaluateConfig": "megaprune.evaluation.config",
    "HarmonizeConfig": "megaprune.harmonizing.config",
    "InputError": "megaprune.errors",
    "PruneConfig": "megaprune.pruning.config",
    "Run": "megaprune.library",
    "convert": "megaprune.library",
    "evaluate": "megaprune.library",
    "harmonize": "megaprune.library",
    "plan": "megaprune.planner",
    "prune": "megaprune.library",
    "read_config": "megaprune.config.run",
    "train": "megaprune.library",
}


def __getattr__(name: str) -> Any:
    # torch and the engines take seconds to import: only what is used is imported.
    if name == "recipes":
        return import_module("megaprune.recipes")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _MODULES[name] == "megaprune.library":
        process = import_module("megaprune.distributed.process")
        process.prepare_process()
        with process.importing():
            import_module(_MODULES[name])
    return getattr(import_module(_MODULES[name]), name)
