"""The training loop: draw a batch, learn from it, sync the weights, measure, save; again.

All processes run it alike. What they have of the model differs; what they decide does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import torch.distributed as dist

from megaprune import schema
from megaprune.config.given import hidden
from megaprune.config.limits import validation_limit
from megaprune.config.run import Config
from megaprune.data import load_tokenizer
from megaprune.data.on_node import read_problems_on_node
from megaprune.distributed import start_times, world
from megaprune.distributed.device import device
from megaprune.distributed.objects import broadcast_from_rank0
from megaprune.distributed.settings import recorded_settings
from megaprune.errors import InputError
from megaprune.generation.generator import SamplingOptions
from megaprune.generation.worker import RolloutRequest, RolloutWorker
from megaprune.report import write_report
from megaprune.report.progress import ProgressPage
from megaprune.trainer.batch import RolloutBatch, sample_row
from megaprune.trainer.checkpoint import Checkpoints, export, seed_random_numbers
from megaprune.trainer.checkpoint_files import Score, finished, goes_on, latest_step
from megaprune.trainer.engines import Engines
from megaprune.trainer.failing_steps import FailingSteps
from megaprune.trainer.learner import Learner, Unstable
from megaprune.trainer.metrics import Clock, Reporter, batch_metrics, response_metrics
from megaprune.trainer.run_dir import RunDir
from megaprune.trainer.sources import Source, make_source
from megaprune.weights.files.hf_folder import HfFolder
from megaprune.weights.model import read_config
from megaprune.weights.rope import context_of


def train(config: Config) -> None:
    """Train a model; goes on where the run's folder says that it was. Collective.

    Raises:
        InputError: the run cannot be, or cannot go on: the loss is not finite, the engines are
            too far apart, or nothing can be written. What was saved stays as it is.
        world.Stopped: it was told to stop, and did so between two steps; all steps are saved.
    """
    if broadcast_from_rank0(finished(config)):
        RunDir(config).close()  # refuses another run's folder
        world.say(f"{config.out} is done: {config.steps} steps; for more, give steps=...")
        return
    for _ in TrainingRun(config):
        pass


@dataclass(frozen=True, eq=False)
class StepResult:
    """What a step did.

    Args:
        step: its number, from 1.
        metrics: as in metrics.jsonl (see docs/metrics.md).
        batch: what was learned from.
    """

    step: int
    metrics: dict[str, float]
    batch: RolloutBatch


class TrainingRun:
    """A run on this rank. Iterating over it takes its steps, and exports the model in the end.

    Leaving the iteration early keeps what is saved, and frees the engines.

    Args:
        config: of the run.

    Raises:
        InputError: the folder is another run's, or the model or the data cannot be used.
    """

    def __init__(self, config: Config):
        self.config, self.clock = config, Clock()
        start_times.lap("imports")
        with world.phase("start"):
            self._dir = RunDir(config)
            self._build()
            self._record_start()

    def _build(self) -> None:
        config, model, data = self.config, Path(self.config.model), self.config.data
        self._validation_limit = validation_limit(config, context_of(read_config(model)))
        with self._starting("data"):
            tokenizer = load_tokenizer(model)
            settings = data.max_prompt_length, data.duplicates, data.enable_thinking
            problems = read_problems_on_node(Path(data.train), tokenizer, *settings)
            self._validation_problems = data.validation and read_problems_on_node(
                Path(data.validation), tokenizer, *settings
            )
        self.engines = Engines(config, self._starting)
        self.learner = Learner(config, self.engines.actor)
        self.checkpoints = Checkpoints(
            Path(config.out).resolve() / schema.CHECKPOINTS_FOLDER,
            HfFolder(model).side_files(),
            config.checkpoint,
            self._dir.wait,
        )
        self._worker = None
        if self.engines.generator is not None:
            self._worker = RolloutWorker(self.engines.generator, config.grading, tokenizer)
        start_times.lap("graders")
        seed_random_numbers(config.seed)
        with self._starting("checkpoint"):
            progress = self.checkpoints.load_latest(self.engines.actor)
        self.step = progress.step
        world.say_when_interrupted(lambda: hidden(goes_on(self.checkpoints.folder, config.steps)))
        self.checkpoints.check_places(self.step, config.steps)
        self._dir.rewind(self.step)
        self._page = ProgressPage(self._dir.path)
        history = self._dir.history()
        self._reporter = Reporter(config, self.step, problems, history, self._validation_limit)
        self._failing = FailingSteps(
            config.max_failed_steps, broadcast_from_rank0(history[-_REMEMBERED:])
        )
        self.source: Source = make_source(
            config,
            problems.problems,
            self._worker,
            self.learner.algorithm,
            self.clock,
            self._reporter.warn_of_failed,
        )
        if self.step:
            self.source.load_state_dict(progress.source)
        start_times.lap("trackers")
        if self.engines.generator is not None:
            with self._starting("first sync"):
                self.engines.sync()

    def _record_start(self) -> None:
        """Say and record how long the parts of the start took, and with what it began."""
        self.clock.read()  # the start is no step's
        seconds, settings = start_times.take(), recorded_settings()
        parts = ", ".join(f"{part} {taken:.1f}" for part, taken in seconds.items())
        self._reporter.say(f"ready after {sum(seconds.values()):.1f} s: {parts}")
        if device().type == "cuda":
            variables = " ".join(f"{name}={value}" for name, value in settings.items())
            self._reporter.say(f"environment: {variables}")
        self._dir.start(
            {
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                "step": self.step,
                "processes": dist.get_world_size(),
                "device": device().type,
                "seconds": {part: round(taken, 3) for part, taken in seconds.items()},
                "settings": settings,
            }
        )

    @contextmanager
    def _starting(self, part: str) -> Iterator[None]:
        """Say that a part of the start begins, which may take minutes with a large model."""
        world.say(f"{datetime.now():%H:%M:%S}  loading: {part}")
        with self.clock(part):
            yield
        start_times.lap(part)

    def __iter__(self) -> Iterator[StepResult]:
        """Take all steps that are left; stop after the current one if the job is told to."""
        try:
            if self.step == 0 and self.config.validation.first:
                self.validate()
            while self.step < self.config.steps:
                if world.stop_requested():
                    self._stop()
                yield self.take_step()
            self._reporter.close()  # the report is the last: a run that has it is done
            self._export()
            self.close()
        except (GeneratorExit, world.Stopped):  # on all ranks alike
            self.close()
            raise
        except BaseException:
            # Perhaps not on all ranks: freeing the engines is collective. A process that is
            # alone can go on, as in a notebook after Ctrl-C.
            if dist.get_world_size() == 1:
                self._free()
            raise

    def take_step(self) -> StepResult:
        """Draw a batch and learn from it; measure and save if it is time."""
        batch = self.source.next(self.step)
        with self.clock("save"):
            self.checkpoints.finish(only_if_done=True)
        with self.clock("update"):
            self.engines.sleep()
            learned = self._learn(batch)
        with self.clock("sync"):
            sync = self.engines.sync()
        self.step += 1
        with self.clock("log"):
            metrics = {
                **batch_metrics(batch, self.learner.algorithm),
                **learned,
                **(sync.over_all_ranks() if sync else {}),
            }
            metrics = self._log(batch, metrics)
        self._check_verdicts(batch)
        self._validate_and_save()
        return StepResult(self.step, metrics, batch)

    def validate(self) -> Score | None:
        """Measure on the validation problems; None if there are none, or it is not wanted."""
        config = self.config.validation
        if not self._validation_problems or self._validation_limit is None:
            return None
        assert self._worker is not None, "a run that measures has an engine"
        with self.clock.beside("validate") as seconds:
            problems, worker = self._validation_problems.problems, self._worker
            sampling = SamplingOptions(
                config.n,
                self._validation_limit,
                config.temperature,
                config.top_p,
                self.config.seed,
            )
            requests = {
                i: RolloutRequest(problems[i], f"{i}/{problems[i].name}")
                for i in worker.generator.share(len(problems))
            }
            worker.generate(requests, sampling, policy_version=self.step)
            rollouts = worker.gather()
            rows = [
                {**sample_row(problems[r.request], r), "reward": float(r.verdict.match)}
                for r in rollouts
            ]
            self._dir.samples(schema.VALIDATION_FOLDER, self.step, rows)
            metrics = response_metrics(rollouts)
            line = {f"{schema.VALIDATION}{name}": value for name, value in metrics.items()}
            self._report({"step": self.step, **line, schema.VALIDATION_SECONDS: seconds()})
        return Score(self.step, metrics[schema.ACCURACY], metrics[schema.LENGTH_MEAN])

    def close(self) -> None:
        """Finish what is being written, and free the engines and the folder."""
        with self.clock("save"):
            self.checkpoints.finish()
        self._reporter.close()
        world.say_when_interrupted(None)
        self._free()

    def _free(self) -> None:
        self.engines.close()
        if self._worker is not None:
            self._worker.close()
        self._dir.close()

    def _validate_and_save(self) -> None:
        config, last = self.config, self.step == self.config.steps
        score = self.validate() if last or _due(self.step, config.validation.every) else None
        with self.clock("save"):
            self.checkpoints.finish(only_if_done=True)
            best = self.checkpoints.is_best(score)
            due = _due(self.step, config.checkpoint.every)
            if best or last or due:
                self._save(score)
        if not last and (due or score is not None):
            self._show_progress()

    def _save(self, score: Score | None = None) -> None:
        self.checkpoints.save(self.step, self.engines.actor, self.source.state_dict(), score)

    def _show_progress(self, *, always: bool = False) -> None:
        """Write the page of the run underway, if it is time or has to be."""
        with self.clock("report"):
            if dist.get_rank() == 0:
                self._dir.wait()  # the page shows some of the responses
                self._page.update(always=always)

    def _stop(self) -> NoReturn:
        """Save what is not saved yet, and end before the run is done."""
        self.checkpoints.finish()
        if broadcast_from_rank0(latest_step(self.checkpoints.folder)) < self.step:
            self._save()
            self.checkpoints.finish()
        if self.step:
            self._show_progress(always=True)
        place = f" in {self.checkpoints.latest()}" if self.step else ""
        raise world.Stopped(f"{self.step} of {self.config.steps} steps are done and saved{place}")

    def _export(self) -> None:
        """Make a Hugging Face model of the last checkpoint, and write the report."""
        with self.clock("save"):
            self.checkpoints.finish()
        with self.clock("export"), world.raise_on_all_ranks():
            checkpoint, out = self.checkpoints.latest(), self._dir.path
            if dist.get_rank() == 0 and checkpoint is not None:
                export(checkpoint, out / schema.MODEL_FOLDER, self.config.checkpoint.verify)
                self._reporter.say(f"model:  {out / schema.MODEL_FOLDER}")
            if dist.get_rank() == 0:
                self._reporter.say(f"report: {write_report(out)}")

    def _learn(self, batch: RolloutBatch) -> dict[str, float]:
        try:
            return self.learner.learn(self.step, batch)
        except Unstable as error:
            step = self.step + 1
            self._dir.samples(schema.FAILED_FOLDER, step, batch.rows())
            self._dir.wait()
            self.checkpoints.finish()  # one that was begun before is good
            dist.barrier()
            raise InputError(
                f"step {step}: {error}. Its batch is in {self.config.out}/{schema.FAILED_FOLDER}; "
                f"checkpoints are as they were. Look at that batch, or try a smaller optimizer.lr "
                f"in another out="
            ) from error

    def _check_verdicts(self, batch: RolloutBatch) -> None:
        """Warn of the first step whose responses all fail for one reason; stop after several."""
        if (warning := self._failing.see(batch.drawn_rollouts)) and self._failing.is_new:
            self._reporter.warn(f"step {self.step}: {warning}")
        if reason := self._failing.too_many:
            self._dir.wait()
            self.checkpoints.finish()  # one that was begun before is good
            samples = f"{self.config.out}/{schema.SAMPLES_FOLDER}"
            raise InputError(
                f"step {self.step}: {reason}. The responses are in {samples}. {warning}"
            )

    def _log(self, batch: RolloutBatch, metrics: dict[str, float]) -> dict[str, float]:
        spent = self.clock.read()
        self._dir.samples(schema.SAMPLES_FOLDER, self.step, batch.rows())
        metrics |= {schema.TOKENS: batch.tokens(self.step - 1)}
        rate = metrics[schema.TOKENS] / spent[schema.SECONDS_STEP]
        metrics |= {schema.TOKENS_PER_SECOND: rate, **spent}
        self._report({"step": self.step, **metrics})
        return metrics

    def _report(self, line: dict[str, float]) -> None:
        self._dir.metrics(line)
        self._reporter.show(line)


_REMEMBERED = 1000
"""Lines of metrics that are looked at for failing steps, when a run goes on."""


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
