"""Draw every response that an evaluation still lacks, grade it, keep it; then sum up.

All ranks run it alike. Responses do not depend on how many engines there are, nor on how often the
evaluation was interrupted: each has a seed of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from rich.console import Console

from megaprune.config.fields import leaves
from megaprune.data import Problem, load_tokenizer, read_problems
from megaprune.data.sets import SETS, graders
from megaprune.distributed import world
from megaprune.errors import InputError
from megaprune.evaluate import samples, summary
from megaprune.evaluate.config import MAY_CHANGE, EvaluateConfig
from megaprune.evaluate.force import EarlyExit
from megaprune.generation.generator import Generator, Progress, Prompt, SamplingOptions
from megaprune.grading import Pool, Verdict
from megaprune.trainer.engines import rollout_config
from megaprune.trainer.run_lock import RunLock, writing
from megaprune.weights.files.checkpoint_index import is_checkpoint
from megaprune.weights.files.staging import replace_text

Key = tuple[str, int, int | None]
"""A response: problem, number, budget."""

_SAY_EVERY = 30.0  # seconds


@dataclass(frozen=True)
class Question:
    """A problem, the set that it is of, and how many samples are wanted."""

    problem: Problem
    n: int


@dataclass(frozen=True)
class Begun:
    """What the model goes on from: a thought that was closed for it.

    Args:
        budget: tokens of the thought, at most.
        tokens: of the thought and of what was put behind it.
        injected: how many of them the model did not write.
    """

    budget: int | None = None
    tokens: tuple[int, ...] = ()
    injected: int = 0


def evaluate(config: EvaluateConfig) -> None:
    """Measure a model; goes on where the folder says that it was. Collective.

    Raises:
        InputError: the model, the problems or the folder cannot be used.
    """
    with world.phase("start"):
        own = RunLock(Path(config.out), config, MAY_CHANGE)
        with world.raise_on_all_ranks():
            if dist.get_rank() == 0:
                _export(config)
        run = Run(config)
    with world.phase("generate"):
        run.draw()
    if config.force:
        with world.phase("exit early"):
            run.exit_early()
    run.close()
    with world.phase("sum up"), world.raise_on_all_ranks():
        if dist.get_rank() == 0:
            _sum_up(config)
    own.close()


def model_folder(config: EvaluateConfig) -> Path:
    """The Hugging Face folder that is evaluated: a checkpoint's is made in `out`."""
    model = Path(config.model)
    return Path(config.out) / "model" if is_checkpoint(model) else model


def read_questions(config: EvaluateConfig, tokenizer: Any) -> list[Question]:
    """All problems, in the order of their files.

    Raises:
        InputError: a file cannot be used, or two have a problem of the same name.
    """
    questions: dict[str, Question] = {}
    for file in config.data:
        found = read_problems(Path(file), tokenizer, config.max_prompt_length)
        if found.too_long:
            world.say(f"{file}: {found.too_long} prompts dropped as too long (max_prompt_length)")
        for problem in found.problems:
            if problem.name in questions:
                raise InputError(
                    f"{file} has a problem named {problem.name}, and so has a file before it; "
                    f"give each set once"
                )
            known = SETS.get(problem.data_source)
            questions[problem.name] = Question(
                problem, config.n or (known.samples if known else 16)
            )
    return list(questions.values())


class Run:
    """An evaluation on this rank. Methods are collective."""

    def __init__(self, config: EvaluateConfig):
        self._config, self._folder = config, Path(config.out) / "samples"
        self._tokenizer = load_tokenizer(model_folder(config))
        self._questions = {q.problem.name: q for q in read_questions(config, self._tokenizer)}
        self._exit = EarlyExit(config, self._tokenizer)
        with world.raise_on_all_ranks():
            done = self._read_done()
        self._done = world.broadcast_from_rank0(done)
        self._rollout: Generator | None = None
        self._pool: Pool | None = None
        self._writer: samples.Writer | None = None
        self._said = time.monotonic()

    def draw(self) -> None:
        """The responses that take their time."""
        missing = [
            (name, number)
            for name, question in self._questions.items()
            for number in range(question.n)
            if (name, number, None) not in self._done
        ]
        if not missing:
            return
        engine = self._engine()
        numbers: dict[str, list[int]] = {}
        # One by one, so that the samples of a hard problem are shared out too.
        for name, number in missing[engine.engine :: engine.engines]:
            numbers.setdefault(name, []).append(number)
        prompts = [
            (
                Prompt(self._questions[name].problem.tokens, name, some),
                self._questions[name],
                Begun(),
            )
            for name, some in numbers.items()
        ]
        self._answer(prompts)
        dist.barrier()

    def exit_early(self) -> None:
        """For each budget, what the model answers when its thought is closed by then.

        A thought that it closed in time needs no force: its response counts as it is.
        """
        wanted = {
            (name, number, budget)
            for name, question in self._questions.items()
            for number in range(question.n)
            for budget in self._config.force
        }
        missing = sorted(wanted - self._done)
        if not missing:
            return
        engine = self._engine()
        mine = set(missing[engine.engine :: engine.engines])
        prompts, unforced = [], []
        for row in samples.read(self._folder, *samples.SCHEMA.names):
            for budget in self._config.force:
                name, number = row["problem"], row["number"]
                if row["budget"] is not None or (name, number, budget) not in mine:
                    continue
                begun = self._exit.of(row["tokens"], row["finish"] == "stop", budget)
                if begun is None:
                    unforced.append({**row, "budget": budget})
                    continue
                head = Begun(budget, *begun)
                question = self._questions[name]
                tokens = (*question.problem.tokens, *head.tokens)
                limit = self._config.max_response_length - len(head.tokens)
                prompt = Prompt(tokens, f"{name}@{budget}", [number], limit)
                prompts.append((prompt, question, head))
        if len(prompts) + len(unforced) < len(mine):
            raise InputError(
                f"{self._folder} does not show this host all responses that others have written; "
                f"it must be on a file system that all share: run the same command again"
            )
        if self._writer is not None:
            self._writer.add(unforced)
        self._answer(prompts)
        dist.barrier()

    def close(self) -> None:
        """End engine and graders."""
        if self._rollout is not None:
            self._rollout.close()
        if self._pool is not None:
            self._pool.close()

    def _answer(self, prompts: Sequence[tuple[Prompt, Question, Begun]]) -> None:
        """Have prompts answered, graded meanwhile, and kept."""
        config, rollout, pool, writer = self._config, self._engine(), self._pool, self._writer
        sampling = SamplingOptions(
            1, config.max_response_length, config.temperature, config.top_p, config.seed
        )
        pending: dict[Any, dict[str, Any]] = {}

        def keep(verdicts: dict[Any, Verdict]) -> None:
            assert writer is not None
            writer.add([pending.pop(key) | _graded(verdict) for key, verdict in verdicts.items()])

        asked = [prompt for prompt, _, _ in prompts]
        for found in rollout.generate(asked, sampling, self._progress):
            if pool is None:
                continue
            _, question, begun = prompts[found.prompt]
            tokens = (*begun.tokens, *(int(token) for token in found.tokens))
            row = self._row(question.problem, found.number, begun, tokens, found.finish)
            key = (question.problem.name, found.number, begun.budget)
            pending[key] = row
            pool.submit(
                key,
                question.problem.data_source,
                question.problem.gold,
                row["response"],
                found.finish == "stop",
            )
            keep(pool.ready())
        if pool is not None and writer is not None:
            keep(pool.results())
            writer.flush()

    def _row(
        self, problem: Problem, number: int, begun: Begun, tokens: Sequence[int], finish: str
    ) -> dict[str, Any]:
        text = tokens[:-1] if finish == "stop" else tokens
        return {
            "set": samples.file_name(problem.data_source),
            "problem": problem.name,
            "data_source": problem.data_source,
            "prompt": problem.prompt,
            "number": number,
            "budget": begun.budget,
            "response": self._tokenizer.decode(np.asarray(text), skip_special_tokens=False),
            "gold": problem.gold,
            "length": len(tokens),
            "injected": begun.injected,
            "finish": finish,
            "tokens": tokens,
        }

    def _engine(self) -> Generator:
        """Engine, graders and files: there once something is to be answered."""
        if self._rollout is not None:
            return self._rollout
        config = self._config
        length = config.max_prompt_length + config.max_response_length
        settings = rollout_config(config.rollout, config.dtype, length)
        self._rollout = Generator(model_folder(config), settings)
        if dist.get_rank() % settings.tp == 0:
            grading = config.grading
            self._pool = Pool(
                graders() | grading.graders,
                grading.default,
                workers=grading.workers,
                seconds=grading.seconds,
                memory_bytes=grading.memory_bytes,
            )
            self._writer = samples.Writer(self._folder, self._rollout.engine, config.write_seconds)
        return self._rollout

    def _read_done(self) -> set[Key]:
        """What is there already, as rank 0 sees it."""
        if dist.get_rank() != 0:
            return set()
        done: set[Key] = set()
        for row in samples.read(self._folder, "problem", "number", "budget", "prompt", "gold"):
            question = self._questions.get(row["problem"])
            if question is None or (question.problem.prompt, question.problem.gold) != (
                row["prompt"],
                row["gold"],
            ):
                raise InputError(
                    f"{self._folder} has responses to another problem {row['problem']} than the "
                    f"data has now: a file of data={self._config.data} has changed; give another "
                    f"out=..., or the file as it was"
                )
            done.add((row["problem"], row["number"], row["budget"]))
        return done

    def _progress(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._said > _SAY_EVERY:
            self._said = now
            engines = self._engine().engines
            world.say(f"{progress}" + (f", by the first of {engines} engines" * (engines > 1)))


def _graded(verdict: Verdict) -> dict[str, Any]:
    return {
        "match": verdict.match,
        "extracted": verdict.extracted,
        "why": verdict.why,
        "detail": verdict.detail,
    }


def _export(config: EvaluateConfig) -> None:
    from megaprune.trainer.checkpoint import export

    folder = model_folder(config)
    if folder != Path(config.model) and not folder.is_dir():
        export(Path(config.model), folder)


def _sum_up(config: EvaluateConfig) -> None:
    """Write summary.json, print the table."""
    folder, baseline = Path(config.out), read_baseline(config)
    sets: dict[str, dict[str, Any]] = {}
    for one in sorted(path for path in (folder / "samples").iterdir() if path.is_dir()):
        found = list(samples.read(one, *summary.COLUMNS))
        sets[one.name] = summary.summarise(found, config.budgets)
        if config.baseline is not None:
            before = samples.read(Path(config.baseline) / "samples" / one.name, *summary.COLUMNS)
            if (change := summary.against(found, before)) is not None:
                sets[one.name]["against"] = change
    said = {
        "model": config.model,
        "settings": dict(leaves(config)),
        "baseline": baseline and config.baseline,
        "sets": sets,
        "average": summary.averages(sets),
    }
    with writing(folder / "summary.json"):
        replace_text(folder / "summary.json", json.dumps(said, indent=2) + "\n")
    console = Console(highlight=False, soft_wrap=True)
    console.print(summary.table(sets))
    console.print(f"summary: {folder / 'summary.json'}", style="dim")


def read_baseline(config: EvaluateConfig) -> dict[str, Any] | None:
    """The summary of the evaluation to compare with; None if none is wanted.

    Raises:
        InputError: it is not there.
    """
    if config.baseline is None:
        return None
    path = Path(config.baseline) / "summary.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"baseline={config.baseline}: {path} cannot be read ({error}); expected the folder of "
            f"an evaluation that has ended"
        ) from error
    return found
