"""Draw every response that an evaluation still lacks, grade it, keep it; then sum up.

All ranks run it alike. Responses depend neither on how many engines there are nor on how often the
evaluation was interrupted: each has a seed of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from megaprune import schema
from megaprune.config.fields import leaves
from megaprune.config.given import value_as_written
from megaprune.config.read import as_written
from megaprune.data import Problem, Problems, load_tokenizer
from megaprune.data.on_node import read_problems_on_node
from megaprune.data.sets import SETS
from megaprune.distributed import world
from megaprune.distributed.objects import broadcast_from_rank0
from megaprune.errors import InputError
from megaprune.evaluation import samples, summary
from megaprune.evaluation.config import EvaluateConfig
from megaprune.evaluation.early_exit import EarlyExit
from megaprune.evaluation.frontier import read_frontiers
from megaprune.evaluation.identity import model_identity, record_identity
from megaprune.files import replace_text, writing
from megaprune.foreign_text import terminal
from megaprune.generation.generator import Generator, Progress, SamplingOptions
from megaprune.generation.worker import Rollout, RolloutRequest, RolloutWorker
from megaprune.trainer.batch import sample_row
from megaprune.trainer.run_lock import RunLock
from megaprune.trainer.trackers import Tracked, Trackers
from megaprune.weights.files.kind import is_checkpoint

Key = tuple[str, int, int | None]
"""A response: problem, number, and where its thought was made to end; None if it was not."""

_SAY_EVERY = 30.0  # seconds


@dataclass(frozen=True)
class EvaluationProblem:
    """A problem, its set, and how many samples of it are wanted."""

    problem: Problem
    n: int


@dataclass(frozen=True)
class _Exit:
    """An early exit from a thought: after how many tokens, and how many closed it for the model."""

    exit_at: int
    injected: int


def evaluate(config: EvaluateConfig) -> None:
    """Measure a model; goes on where the folder says that it was. Collective.

    Raises:
        InputError: the model, the problems or the folder cannot be used.
    """
    with world.phase("start"):
        own = RunLock(Path(config.out), config)
        with world.raise_on_all_ranks():
            if dist.get_rank() == 0:
                _export(config)
                _record_identity(config)
        run = EvaluationRun(config)
        world.say_when_interrupted(lambda: f"the same command goes on from what {config.out} has")
    with world.phase("generate"):
        run.draw()
    if config.exit_at:
        with world.phase("exit early"):
            run.exit_early()
    run.close()
    with world.phase("sum up"), world.raise_on_all_ranks():
        if dist.get_rank() == 0:
            _sum_up(config)
    own.close()


def model_folder(config: EvaluateConfig) -> Path:
    """The Hugging Face folder that is evaluated; that of a checkpoint is made in `out`."""
    model = Path(config.model)
    return Path(config.out) / schema.MODEL_FOLDER if is_checkpoint(model) else model


def read_evaluation_problems(
    config: EvaluateConfig,
    tokenizer: Any,
    read: Callable[[Path, Any, int], Problems] | None = None,
) -> list[EvaluationProblem]:
    """Read all problems, in the order of their files.

    Args:
        read: reads a file; None for `read_problems_on_node`, which is collective.

    Raises:
        InputError: a file cannot be used, or two have a problem of the same name.
    """
    read = read or partial(read_problems_on_node, enable_thinking=config.enable_thinking)
    problems: dict[str, EvaluationProblem] = {}
    for file in config.data:
        problems_of_file = read(Path(file), tokenizer, config.max_prompt_length)
        if too_long := problems_of_file.too_long:
            world.say(f"{file}: {too_long} prompts dropped as too long (max_prompt_length)")
        for problem in problems_of_file.problems[: config.problems]:
            if problem.name in problems:
                raise InputError(
                    f"{file} has a problem named {problem.name}, and so has a file before it; "
                    f"give each set once"
                )
            problems[problem.name] = EvaluationProblem(problem, _samples(config, problem))
    return list(problems.values())


def _samples(config: EvaluateConfig, problem: Problem) -> int:
    """How many responses to a problem are drawn."""
    if config.n is not None:
        return config.n
    if config.temperature == 0:
        return 1
    known = SETS.get(problem.data_source)
    return known.samples if known else 16


class EvaluationRun:
    """An evaluation on this rank. Methods are collective."""

    def __init__(self, config: EvaluateConfig):
        self._config, self._folder = config, Path(config.out) / schema.SAMPLES_FOLDER
        self._tokenizer = load_tokenizer(model_folder(config))
        self._problems = {
            q.problem.name: q for q in read_evaluation_problems(config, self._tokenizer)
        }
        self._exit = EarlyExit(config, self._tokenizer)
        with world.raise_on_all_ranks():
            done = self._read_done()
        self._done = broadcast_from_rank0(done)
        self._worker: RolloutWorker | None = None
        self._writer: samples.Writer | None = None
        self._said = time.monotonic()

    def draw(self) -> None:
        """Draw the responses whose thoughts nobody closes early."""
        missing = [
            (name, number)
            for name, item in self._problems.items()
            for number in range(item.n)
            if (name, number, None) not in self._done
        ]
        if not missing:
            return
        generator = self._start().generator
        numbers: dict[str, list[int]] = {}
        # One by one, so that the samples of a hard problem are shared out too.
        for name, number in missing[generator.engine :: generator.engines]:
            numbers.setdefault(name, []).append(number)
        self._answer(
            [
                (RolloutRequest(self._problems[name].problem, name, wanted), None)
                for name, wanted in numbers.items()
            ]
        )
        dist.barrier()

    def exit_early(self) -> None:
        """For each early exit, draw what the model answers when its thought is closed by then.

        A thought that the model closed in time stays as it is, and its response counts.
        """
        wanted = {
            (name, number, exit_at)
            for name, item in self._problems.items()
            for number in range(item.n)
            for exit_at in self._config.exit_at
        }
        missing = sorted(wanted - self._done)
        if not missing:
            return
        generator = self._start().generator
        mine = set(missing[generator.engine :: generator.engines])
        requests: list[tuple[RolloutRequest, _Exit | None]] = []
        in_time = []
        for row in samples.read(self._folder, *schema.samples_schema().names):
            for exit_at in self._config.exit_at:
                name, number = row["problem"], row["number"]
                if row["exit_at"] is not None or (name, number, exit_at) not in mine:
                    continue
                closed = self._exit.of(row["tokens"], row["finish"] == "stop", exit_at)
                if closed is None:
                    in_time.append({**row, "exit_at": exit_at})
                    continue
                prefix, injected = closed
                request = RolloutRequest(
                    self._problems[name].problem,
                    f"{name}@{exit_at}",
                    [number],
                    prefix,
                    self._config.max_response_length - len(prefix),
                )
                requests.append((request, _Exit(exit_at, injected)))
        if len(requests) + len(in_time) < len(mine):
            raise InputError(
                f"{self._folder} does not show this host all responses that others have written; "
                f"it must be on a file system that all share: run the same command again"
            )
        if self._writer is not None:
            self._writer.add(in_time)
        self._answer(requests)
        dist.barrier()

    def close(self) -> None:
        """End the engine and the graders."""
        if self._worker is not None:
            self._worker.generator.close()
            self._worker.close()

    def _answer(self, requests: Sequence[tuple[RolloutRequest, _Exit | None]]) -> None:
        """Have requests answered and graded, and keep the rollouts."""
        config, worker, writer = self._config, self._start(), self._writer
        sampling = SamplingOptions(
            1, config.max_response_length, config.temperature, config.top_p, config.seed
        )

        def keep(rollouts: Sequence[Rollout]) -> None:
            if writer is None:
                return
            writer.add([_row(*requests[rollout.request], rollout) for rollout in rollouts])

        worker.generate(
            {index: request for index, (request, _) in enumerate(requests)},
            sampling,
            on_graded=keep,
            progress=self._progress,
        )
        keep(worker.collect())
        if writer is not None:
            writer.flush()

    def _start(self) -> RolloutWorker:
        """Start engine, graders and files, the first time that something is to be answered."""
        if self._worker is not None:
            return self._worker
        config = self._config
        length = config.max_prompt_length + config.max_response_length
        dtype = getattr(torch, config.dtype)
        generator = Generator(model_folder(config), config.rollout, dtype, length)
        self._worker = RolloutWorker(generator, config.grading, self._tokenizer)
        if self._worker.grades:
            self._writer = samples.Writer(self._folder, generator.engine, config.write_seconds)
        return self._worker

    def _read_done(self) -> set[Key]:
        """List the responses that are there already, as rank 0 sees them."""
        if dist.get_rank() != 0:
            return set()
        done: set[Key] = set()
        for row in samples.read(self._folder, "problem", "number", "exit_at", "prompt", "gold"):
            item = self._problems.get(row["problem"])
            if item is None or (item.problem.prompt, item.problem.gold) != (
                row["prompt"],
                row["gold"],
            ):
                raise InputError(
                    f"{self._folder} has responses to another problem {row['problem']} than the "
                    f"data has now: a file of data={self._config.data} has changed; give another "
                    f"out=..., or the file as it was"
                )
            done.add((row["problem"], row["number"], row["exit_at"]))
        return done

    def _progress(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._said > _SAY_EVERY:
            self._said = now
            engines = self._start().generator.engines
            world.say(f"{progress}" + (f", by the first of {engines} engines" * (engines > 1)))


def _row(request: RolloutRequest, early: _Exit | None, rollout: Rollout) -> dict[str, Any]:
    """Make a row of the evaluation's tables from a rollout."""
    return {
        **sample_row(request.problem, rollout),
        "set": samples.file_name(request.problem.data_source),
        "exit_at": early.exit_at if early else None,
        "injected": early.injected if early else 0,
    }


def _export(config: EvaluateConfig) -> None:
    from megaprune.trainer.checkpoint import export

    folder = model_folder(config)
    if folder != Path(config.model) and not folder.is_dir():
        export(Path(config.model), folder)


def _record_identity(config: EvaluateConfig) -> None:
    model = model_folder(config)
    with writing(Path(config.out)):
        record_identity(Path(config.out), model_identity(model, load_tokenizer(model)))


def _sum_up(config: EvaluateConfig) -> None:
    """Write summary.json, print the table."""
    folder, baseline = Path(config.out), read_baseline(config)
    frontiers = read_frontiers(config.frontier) if config.frontier else {}
    sets: dict[str, dict[str, Any]] = {}
    for path in sorted(
        path for path in (folder / schema.SAMPLES_FOLDER).iterdir() if path.is_dir()
    ):
        rows = list(samples.read(path, *summary.COLUMNS))
        sets[path.name] = summary.summarise(
            rows, config.budgets, frontiers.get(path.name), config.max_response_length
        )
        if config.baseline is not None:
            before = samples.read(
                Path(config.baseline) / schema.SAMPLES_FOLDER / path.name, *summary.COLUMNS
            )
            if (change := summary.against(rows, before)) is not None:
                sets[path.name]["against"] = change
    content = {
        "model": value_as_written("model", config.model),
        "settings": {name: value_as_written(name, value) for name, value in leaves(config)},
        "baseline": baseline and value_as_written("baseline", config.baseline),
        "sets": sets,
        "average": summary.averages(sets),
    }
    with writing(folder / schema.SUMMARY_FILE):
        replace_text(folder / schema.SUMMARY_FILE, json.dumps(content, indent=2) + "\n")
    _track(config, sets)
    console = terminal(highlight=False, soft_wrap=True)
    console.print(summary.table(sets))
    console.print(f"summary: {folder / schema.SUMMARY_FILE}", style="dim")


def _track(config: EvaluateConfig, sets: Mapping[str, Any]) -> None:
    """Tell the trackers what came out, each set by its name."""
    folder = Path(config.out)
    tracked = Tracked(folder, "evaluate", as_written(config), config.wandb, config.tensorboard)
    numbers = dict(_numbers({**sets, "average": summary.averages(sets)}))
    Trackers(tracked, [{"step": 0, **numbers}]).close()


def _numbers(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of nested dictionaries, by their keys with slashes between them."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float):
            yield f"{prefix}{key}", value


def read_baseline(config: EvaluateConfig) -> dict[str, Any] | None:
    """Read the summary of the evaluation to compare with; None if none is wanted.

    Raises:
        InputError: it is not there.
    """
    if config.baseline is None:
        return None
    path = Path(config.baseline) / schema.SUMMARY_FILE
    try:
        summary_of_baseline: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"baseline={config.baseline}: {path} cannot be read ({error}); expected the folder of "
            f"an evaluation that has ended"
        ) from error
    return summary_of_baseline
