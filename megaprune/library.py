"""What `import megaprune as mp` offers: the commands as functions, and a run as an iterator.

    import megaprune as mp

    run = mp.Run(mp.recipes.tiny_overthinker(), out="runs/mine")
    for step in run:
        print(step.step, step.metrics["accuracy"], step.metrics["response_length/mean"])

Everything works in this process, and in all processes alike under torchrun. What the command
prints as an error is raised as `megaprune.InputError`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from megaprune import schema
from megaprune.config.run import Config
from megaprune.distributed import world
from megaprune.distributed.settings import set_up_determinism
from megaprune.errors import InputError
from megaprune.evaluation.config import EvaluateConfig
from megaprune.harmonizing.config import HarmonizeConfig
from megaprune.hub import find_model
from megaprune.pruning.config import PruneConfig
from megaprune.trainer import loop
from megaprune.validate import check_evaluation, check_harmonizing, check_pruning, check_run
from megaprune.weights.convert import Conversion, hf_to_megatron, megatron_to_hf
from megaprune.weights.files.kind import is_checkpoint

AnyConfig = TypeVar("AnyConfig", Config, PruneConfig, EvaluateConfig, HarmonizeConfig)


class Run(loop.TrainingRun):
    """A run, step by step. Iterating takes its steps and exports the model in the end.

    Each step gives `step`, `metrics` (docs/metrics.md) and `batch`: the groups of rollouts that
    were learned from, with rewards and advantages. A folder that has a run of the same
    configuration goes on where it was. Leaving the loop early frees the engines; checkpoints stay.

    Args:
        config: of the run.
        out: folder of the run; `config.out` if None.

    Raises:
        InputError: whatever `megaprune train --check` says.
    """

    def __init__(self, config: Config, out: str | Path | None = None):
        config = _with_out(config, out)
        _start(lambda processes: check_run(config, processes), config.deterministic)
        super().__init__(config)


def train(config: Config, out: str | Path | None = None) -> Path:
    """Train a model, as `megaprune train` does; goes on where the run's folder says.

    Returns:
        The folder of the run.
    """
    config = _with_out(config, out)
    _start(lambda processes: check_run(config, processes), config.deterministic)
    loop.train(config)
    return Path(config.out)


def prune(config: PruneConfig, out: str | Path | None = None) -> dict[str, Any]:
    """Prune a model in rounds, as `megaprune prune` does.

    Returns:
        What was chosen in each round: the content of rounds.json.
    """
    from megaprune.pruning.rounds import prune as prune_in_rounds

    config = _with_out(config, out)
    _start(lambda processes: check_pruning(config, processes), config.deterministic)
    prune_in_rounds(config)
    return _read_json(Path(config.out) / schema.ROUNDS_FILE)


def harmonize(config: HarmonizeConfig, out: str | Path | None = None) -> dict[str, Any]:
    """Learn from weighed responses of a model itself, as `megaprune harmonize` does.

    Returns:
        What came of each round and of the test: the content of harmonize.json.
    """
    from megaprune.harmonizing.run import harmonize as harmonize_model

    config = _with_out(config, out)
    _start(lambda processes: check_harmonizing(config, processes), config.deterministic)
    harmonize_model(config)
    return _read_json(Path(config.out) / schema.HARMONIZE_FILE)


def evaluate(config: EvaluateConfig, out: str | Path | None = None) -> dict[str, Any]:
    """Measure a model, as `megaprune evaluate` does.

    Returns:
        The content of summary.json.
    """
    from megaprune.evaluation.run import evaluate as evaluate_model

    config = _with_out(config, out)
    _start(lambda processes: check_evaluation(config, processes))
    evaluate_model(config)
    return _read_json(Path(config.out) / schema.SUMMARY_FILE)


def convert(source: str | Path, out: str | Path, **options: Any) -> Conversion:
    """Convert a Hugging Face folder to a Megatron checkpoint, or a checkpoint to such a folder.

    Args:
        source: which of both it is decides the direction.
        out: folder to be written; it must not be there, unless `overwrite` is given.
        options: of `weights.convert.hf_to_megatron` and `megatron_to_hf`, such as overwrite=True.
    """
    run = megatron_to_hf if is_checkpoint(Path(source)) else hf_to_megatron
    return run(Path(source), Path(out), _no_progress, **options)


def _no_progress(*_: object) -> Callable[..., None]:
    return lambda *_: None


def _with_out(config: AnyConfig, out: str | Path | None) -> AnyConfig:
    """Give a configuration its folder, and a model of the hub its own."""
    config = replace(config, model=find_model(config.model))
    return config if out is None else replace(config, out=str(out))


def _start(check: Callable[[int], None], deterministic: bool = False) -> None:
    """Have a process group, and see that the job can be, before anything is built or written."""
    if deterministic:
        set_up_determinism()
    world.ensure_process_group()
    with world.raise_on_all_ranks():
        if dist.get_rank() == 0:
            check(dist.get_world_size())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    return content
