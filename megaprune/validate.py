"""Every rule that can be known before a process is started, asked in one place.

`train`, `prune`, `evaluate`, `--check`, the NeMo-Run recipes and the library call these. The rules
of fields, models and ranks stand in `megaprune.rules`, those of a config.json in
`weights.rope`; here they are asked, and with them what only files can tell: the folder, the
model, its tokenizer, the data and the graders. Nothing is written.
"""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from megaprune.config.limits import longest_sequence
from megaprune.config.run import Config, GradingConfig
from megaprune.data import Problem, Problems, load_tokenizer
from megaprune.data.on_node import check_problems
from megaprune.data.order import make_order
from megaprune.distributed.device import check_gpus, gpu_memory_bytes
from megaprune.engine_versions import ENGINES, VLLM, check_engines
from megaprune.evaluation.config import EvaluateConfig
from megaprune.foreign_text import for_people
from megaprune.grading import GRADERS, Pool
from megaprune.harmonizing.config import HarmonizeConfig
from megaprune.planner.hardware import ELEMENT_BYTES, GB, HardwareSpec
from megaprune.planner.request import ModelShape, plan_of
from megaprune.planner.total_memory import memory_problems
from megaprune.pruning.config import PruneConfig
from megaprune.rules import (
    batch_problems,
    cache_problems,
    context_problems,
    duplicate_problems,
    engine_problems,
    evaluate_problems,
    format_problems,
    frozen_problems,
    harmonize_problems,
    length_problems,
    mark_problems,
    parallelism_problems,
    prune_problems,
    refuse,
    run_problems,
    sample_problems,
    shaping_problems,
    thought_problems,
)
from megaprune.trainer.offline import read_references, read_rollouts
from megaprune.trainer.run_lock import check_folder
from megaprune.trainer.trackers import check_trackers
from megaprune.trainer.weighted import make_weighted_source
from megaprune.weights.files.folder import Folder
from megaprune.weights.files.hf_folder import HfFolder
from megaprune.weights.files.kind import is_checkpoint
from megaprune.weights.files.megatron_folder import MegatronFolder
from megaprune.weights.rope import check_supported, context_of


def check_run(config: Config, processes: int) -> None:
    """Check a training run.

    Args:
        processes: of the job.

    Raises:
        InputError: the folder, the fields, the model, its tokenizer, the data, the graders or the
            parallelism cannot be used, or something is not installed.
    """
    refuse(run_problems(config))
    check_engines(*ENGINES)
    check_folder(Path(config.out), config)
    _check_files(config, processes)


def check_pruning(config: PruneConfig, processes: int) -> None:
    """Check a pruning and the data of all its rounds, as `check_run` does."""
    from megaprune.pruning.rounds import Rounds

    refuse(prune_problems(config))
    check_engines(*ENGINES)
    check_folder(Path(config.out), config)
    rounds = Rounds(config)
    for number in range(1, len(config.limits) + 1):
        # Later rounds begin with a model of the same shape and tokenizer, which is not there yet.
        _check_files(rounds.config(number, config.model), processes)


def check_harmonizing(config: HarmonizeConfig, processes: int) -> None:
    """Check a harmonizing and its test, as `check_run` does a run."""
    from megaprune.harmonizing.presampled import check_measured, check_presampled
    from megaprune.harmonizing.rounds import evaluations_of_test

    refuse(harmonize_problems(config))
    check_engines(*ENGINES)
    check_folder(Path(config.out), config)
    problems = _check_files(config, processes)[: config.presample.problems]
    check_presampled(config, load_tokenizer(Path(config.model)), problems)
    if config.test.data:
        before, _ = evaluations_of_test(config, config.model)
        if config.test.before is None:
            check_evaluation(before, processes)
        else:
            check_measured(before, load_tokenizer(Path(config.model)))


def check_evaluation(config: EvaluateConfig, processes: int) -> None:
    """Check an evaluation, as `check_run` does a run."""
    from megaprune.evaluation.early_exit import EarlyExit
    from megaprune.evaluation.frontier import read_frontiers
    from megaprune.evaluation.run import read_baseline, read_evaluation_problems

    refuse(evaluate_problems(config))
    check_gpus()
    check_engines(VLLM)
    check_trackers(config.wandb, config.tensorboard)
    check_folder(Path(config.out), config)
    read_baseline(config)
    if config.frontier:
        read_frontiers(config.frontier)
    path = Path(config.model)
    folder = MegatronFolder(path) if is_checkpoint(path) else HfFolder(path)
    check_supported(folder.config, trained=False)
    refuse(
        [
            *length_problems(
                "max_response_length",
                config.max_response_length,
                "max_prompt_length",
                config.max_prompt_length,
                context_of(folder.config),
            ),
            *_quantization_problems(folder),
            *engine_problems(config.rollout.tp, folder.model, processes),
            *cache_problems(
                config.rollout,
                folder.model,
                config.dtype,
                config.max_prompt_length + config.max_response_length,
            ),
        ]
    )
    # A checkpoint's model is not made yet; its tokenizer is there.
    tokenizer = load_tokenizer(folder.side_files()["config.json"].parent)

    def read(file: Path, tokenizer: Any, max_prompt_length: int) -> Problems:
        problems = check_problems(
            file, tokenizer, max_prompt_length, enable_thinking=config.enable_thinking
        )
        name = f"data={file}"
        _warn(duplicate_problems(name, problems.duplicates, problems.contradicting))
        _warn(format_problems(name, problems.asked_formats, config.grading))
        _warn(thought_problems(name, problems.problems[0].prompt, config.grading))
        return problems

    read_evaluation_problems(config, tokenizer, read)
    EarlyExit(config, tokenizer)
    _check_graders(config.grading)


def _check_files(config: Config, processes: int) -> Sequence[Problem]:
    """All of `check_run` but for the folder of the run and what fields say alone.

    Returns:
        The problems of data.train.
    """
    check_gpus()
    check_trackers(config.wandb, config.tensorboard)
    folder = HfFolder(Path(config.model))
    check_supported(folder.config)
    context = context_of(folder.config)
    longest = longest_sequence(config, context)
    refuse(
        [
            *context_problems(config, context),
            *_quantization_problems(folder),
            *frozen_problems(config, folder.model),
            *parallelism_problems(config, folder.model, processes),
            *cache_problems(config.rollout, folder.model, config.dtype, longest),
        ]
    )
    problems = _check_data(config)
    _check_graders(config.grading)
    lacking = [*_memory_problems(config, folder, processes), *_disk_problems(config, folder)]
    if config.strict:
        refuse(f"strict=true, and {problem}" for problem in lacking)
    _warn(f"{problem} (strict=true refuses it)" for problem in lacking)
    return problems


def _warn(problems: Iterable[str]) -> None:
    for problem in problems:
        print(f"megaprune: warning: {for_people(problem)}", file=sys.stderr)


def _check_data(config: Config) -> Sequence[Problem]:
    """The problems, their order, and stored responses if those are learned from.

    Returns:
        The problems of data.train.
    """
    data, tokenizer = config.data, load_tokenizer(Path(config.model))
    problems: Sequence[Problem] = ()
    for field, file in (("train", data.train), ("validation", data.validation)):
        if file is not None:
            settings = data.max_prompt_length, data.duplicates, data.enable_thinking
            checked = check_problems(Path(file), tokenizer, *settings)
            name = f"data.{field}={file}"
            _warn(
                duplicate_problems(name, checked.duplicates, checked.contradicting, data.duplicates)
            )
            _warn(format_problems(name, checked.asked_formats, config.grading))
            _warn(thought_problems(name, checked.problems[0].prompt, config.grading))
            problems = problems or checked.problems  # those of data.train
    known = [*tokenizer.get_vocab(), str(tokenizer.chat_template), problems[0].prompt]
    _warn(mark_problems(config.model, known, config.grading))
    if data.references is not None:
        read_references(Path(data.references), problems)
    if data.weights is not None:
        make_weighted_source(config, problems, config.algorithm)
        return problems
    if not isinstance(config, HarmonizeConfig):
        _warn(shaping_problems(config.algorithm))
        _warn(batch_problems(config, len(problems)))
    trained = problems
    if data.rollouts is not None:
        trained, rollouts = read_rollouts(Path(data.rollouts), problems, config.rollout.n)
        longest = max(
            len(problem.tokens) + rollout.length
            for problem in trained
            for rollout in rollouts[problem.name]
        )
        refuse(sample_problems(config.actor.max_tokens, longest, "a response in data.rollouts"))
    make_order(data.order, len(trained), config.seed)
    return problems


def _quantization_problems(folder: Folder) -> Iterator[str]:
    """A conversion leaves a stale quantization out; vLLM reads the model's folder itself."""
    if isinstance(folder, HfFolder) and folder.quantization:
        yield (
            f"{folder.path} says that its weights are quantized ({folder.quantization}), and they "
            f"are plain: vLLM would quantize them or end. Take quantization_config out of "
            f"config.json, and remove hf_quant_config.json if it is there"
        )


def _memory_problems(config: Config, folder: HfFolder, processes: int) -> list[str]:
    """What the plan of a run says of the memory of this host's GPUs; nothing without any."""
    sizes = gpu_memory_bytes()
    if not sizes:
        return []
    hardware = HardwareSpec(
        gpus=processes, gpus_per_node=len(sizes), gpu_memory=min(sizes) / GB, reserve=0.0
    )
    problems = memory_problems(plan_of(config), ModelShape(config.model, folder.model), hardware)
    if not problems:
        return []
    advice = (
        f"`megaprune plan` with the same fields, --gpus {processes}, --gpus-per-node {len(sizes)} "
        f"and --gpu-memory {hardware.gpu_memory:.1f} names fields that fit"
    )
    return ["; ".join([*problems, advice])]


def _disk_problems(config: Config, folder: HfFolder) -> Iterator[str]:
    """Checkpoints that the disk of `out` will not hold, as far as it is now."""
    out = Path(config.out).absolute()
    elements = sum(math.prod(shape) for shape in folder.model.tensors().values())
    weights = elements * ELEMENT_BYTES[config.dtype]
    # Weights, and the optimizer's three numbers in fp32; one more is there while it is written.
    count = config.checkpoint.keep_last + config.checkpoint.keep_best + 1
    needed = count * (weights + 12 * elements) + weights
    written = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    there = next(parent for parent in (out, *out.parents) if parent.is_dir())
    free = shutil.disk_usage(there).free
    if needed - written > free:
        yield (
            f"out={config.out}: checkpoints may take {needed / GB:.1f} GB (checkpoint.keep_last="
            f"{config.checkpoint.keep_last}), and its disk has {free / GB:.1f} GB free"
        )


def _check_graders(grading: GradingConfig) -> None:
    """See that the graders can be loaded within their limits; ours can within the default ones."""
    own = {grading.default, *grading.graders.values()} - GRADERS.keys()
    if own or grading.environment or grading.memory_bytes < GradingConfig().memory_bytes:
        with Pool(
            grading.graders,
            grading.default,
            workers=1,
            seconds=grading.seconds,
            memory_bytes=grading.memory_bytes,
            variables=grading.environment,
        ):
            pass  # a worker has loaded them
