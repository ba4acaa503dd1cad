"""Whatever can be known of a job before a GPU is asked for."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from megaprune.actor.parallel import Parallel
from megaprune.config.run import MAY_CHANGE, Config, GradingConfig
from megaprune.data import load_tokenizer, read_problems
from megaprune.errors import InputError
from megaprune.generation.process import check_installed
from megaprune.grading import GRADERS, Pool
from megaprune.trainer.run_lock import check_folder
from megaprune.weights.files.checkpoint_index import is_checkpoint
from megaprune.weights.files.hf_folder import HfFolder
from megaprune.weights.files.megatron_folder import MegatronFolder
from megaprune.weights.layouts import Pipeline, vllm_layout
from megaprune.weights.layouts.base import divisors
from megaprune.weights.model import Model

if TYPE_CHECKING:
    from megaprune.evaluate.config import EvaluateConfig
    from megaprune.prune.config import PruneConfig


def check_run(config: Config, processes: int) -> None:
    """Whatever can be known before a GPU is asked for. Writes nothing.

    Args:
        processes: of the job.

    Raises:
        InputError: the folder, the model, its tokenizer, the data, the lengths, the graders or the
            division cannot be used, or something is not installed.
    """
    check_folder(Path(config.out), config, MAY_CHANGE)
    _check_model(config, processes)


def check_pruning(config: PruneConfig, processes: int) -> None:
    """As `check_run`, for a pruning and the data of all its rounds."""
    from megaprune.prune.config import MAY_CHANGE
    from megaprune.prune.rounds import Rounds

    check_folder(Path(config.out), config, MAY_CHANGE)
    rounds = Rounds(config)
    for number in range(1, len(config.limits) + 1):
        # Later rounds begin with a model of the same shape and tokenizer, which is not there yet.
        _check_model(rounds.config(number, config.model), processes)


def _check_model(config: Config, processes: int) -> None:
    """All of `check_run` but for the folder of the run."""
    check_installed()
    if config.wandb.mode != "disabled":
        _check_wandb(config)
    model = HfFolder(Path(config.model))
    context = int(model.config.get("max_position_embeddings", 0))
    for name, limit in (
        ("rollout", config.rollout.max_response_length),
        ("validation", config.validation.max_response_length),
    ):
        if limit and context and config.data.max_prompt_length + limit > context:
            raise InputError(
                f"{name}.max_response_length={limit} and data.max_prompt_length="
                f"{config.data.max_prompt_length} are more than "
                f"the model's context of {context} tokens; lower one of them"
            )
    actor = config.actor
    pipeline = Pipeline(
        actor.pp,
        actor.vpp,
        actor.num_layers_in_first_pipeline_stage,
        actor.num_layers_in_last_pipeline_stage,
    )
    Parallel(actor.tp, pipeline, actor.sequence_parallel).layout(model.model, processes, "local")
    _check_engines(config.rollout.tp, model.model, processes)
    tokenizer = load_tokenizer(Path(config.model))
    for data in (config.data.train, config.data.validation):
        if data is not None:
            read_problems(Path(data), tokenizer, config.data.max_prompt_length)
    _check_graders(config.grading)


def check_evaluation(config: EvaluateConfig, processes: int) -> None:
    """As `check_run`, for an evaluation."""
    from megaprune.evaluate.config import MAY_CHANGE
    from megaprune.evaluate.force import EarlyExit
    from megaprune.evaluate.run import read_baseline, read_evaluation_problems

    check_installed()
    check_folder(Path(config.out), config, MAY_CHANGE)
    read_baseline(config)
    path = Path(config.model)
    model = MegatronFolder(path) if is_checkpoint(path) else HfFolder(path)
    context = int(model.config.get("max_position_embeddings", 0))
    if context and config.max_prompt_length + config.max_response_length > context:
        raise InputError(
            f"max_response_length={config.max_response_length} and max_prompt_length="
            f"{config.max_prompt_length} are more than the "
            f"model's context of {context} tokens; lower one of them"
        )
    _check_engines(config.rollout.tp, model.model, processes)
    # A checkpoint's model is not made yet; its tokenizer is there.
    tokenizer = load_tokenizer(model.side_files()["config.json"].parent)
    read_evaluation_problems(config, tokenizer)
    EarlyExit(config, tokenizer)
    _check_graders(config.grading)


def _check_wandb(config: Config) -> None:
    try:
        importlib.import_module("wandb")
    except ImportError as error:
        raise InputError(
            f"wandb.mode={config.wandb.mode}, and wandb cannot be imported ({error}); install it "
            f"with: pip install wandb, or do without it: wandb.mode=disabled"
        ) from error


def _check_engines(tp: int, model: Model, processes: int) -> None:
    """What the engines would say after minutes on a large model."""
    if processes % tp:
        raise InputError(
            f"rollout.tp={tp} does not divide the {processes} processes of the job; "
            f"choose {divisors(processes)}"
        )
    try:
        vllm_layout(model, tp, processes // tp)
    except ValueError as error:
        raise InputError(str(error)) from error


def _check_graders(grading: GradingConfig) -> None:
    for grader in {grading.default, *grading.graders.values()} - GRADERS.keys():
        with Pool({}, grader):
            pass  # it can be loaded
