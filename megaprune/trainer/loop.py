"""The loop: generate, grade, learn, sync, save; again, until the model thinks less.

All processes run it alike. What they have of the model differs; what they decide does not.
"""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import torch.distributed as dist

from megaprune.config.run import Config
from megaprune.data import load_tokenizer, read_problems
from megaprune.distributed import world
from megaprune.errors import InputError
from megaprune.generation.generator import SamplingOptions
from megaprune.generation.worker import RolloutWorker, rows
from megaprune.report import write_report
from megaprune.trainer.checkpoint import Checkpoints, Score, export, latest_step
from megaprune.trainer.engines import Engines
from megaprune.trainer.learner import Learner, Unstable
from megaprune.trainer.metrics import Clock, Reporter, response_metrics
from megaprune.trainer.run_dir import RunDir
from megaprune.trainer.sources import Batches, RolloutBatch
from megaprune.weights.files.hf_folder import HfFolder


def train(config: Config) -> None:
    """Prune a model; goes on where the run's folder says that it was. Collective.

    Raises:
        InputError: the run cannot be, or cannot go on: the loss is not finite, the engines are
            too far apart, or nothing can be written. What was saved stays as it is.
        world.Stopped: it was told to stop, and did so between two steps; all steps are saved.
    """
    with world.phase("start"):
        folder = RunDir(config)
        if world.broadcast_from_rank0(finished(config)):
            world.say(f"{config.out} is done: {config.steps} steps; for more, give steps=...")
            folder.close()
            return
        run = Run(config, folder)
    if run.step == 0 and config.validation.first:
        run.validate()
    while run.step < config.steps:
        if world.stop_requested():
            run.stop()
        run.take_step()
    run.end()


def finished(config: Config) -> bool:
    """Whether a run has done all that it was to do, as its folder says."""
    out = Path(config.out)
    made = (out / "model").is_dir() and (out / "report" / "index.html").is_file()
    return made and latest_step(out / "checkpoints") >= config.steps


class Run:
    """A run on this rank: engines, data, graders, and how many steps are done (`step`)."""

    def __init__(self, config: Config, folder: RunDir):
        self.config, self.clock = config, Clock()
        self._folder = folder
        model, data = Path(config.model), config.data
        tokenizer = load_tokenizer(model)
        self._train = read_problems(Path(data.train), tokenizer, data.max_prompt_length)
        self._held_out = data.validation and read_problems(
            Path(data.validation), tokenizer, data.max_prompt_length
        )
        self._engines = Engines(config)
        self._learner = Learner(config, self._engines.actor)
        self._checkpoints = Checkpoints(
            Path(config.out).resolve() / "checkpoints",
            HfFolder(model).side_files(),
            config.checkpoint,
        )
        self.step = self._checkpoints.load_latest(self._engines.actor)
        self._folder.rewind(self.step)
        self._answers = RolloutWorker(self._engines.rollout, config.grading, tokenizer)
        self._reporter = Reporter(config, self.step, self._train)
        self._batches = Batches(
            config,
            self._train.problems,
            self._answers,
            self._learner,
            self.clock,
            self._reporter.warn_of_failed,
        )
        self._engines.sync()
        self.clock.read()  # the start is no step's

    def take_step(self) -> None:
        """Answer problems, learn from the answers; measure and save if it is time."""
        config, clock = self.config, self.clock
        batch = self._batches.draw(self.step)
        with clock("save"):
            self._checkpoints.finish(only_if_done=True)
        with clock("update"):
            self._engines.rollout.sleep()
            learned = self._learn(batch)
        with clock("sync"):
            sent = self._engines.sync()
        self.step += 1
        with clock("log"):
            self._log(
                batch.rows(),
                {
                    "reward": float(batch.rewards.mean()),
                    **response_metrics(batch.answers),
                    "no_signal": batch.no_signal,
                    **learned,
                    "tokens": batch.tokens,
                    **sent.over_all_ranks(),
                },
            )
        last = self.step == config.steps
        score = self.validate() if last or _due(self.step, config.validation.every) else None
        with clock("save"):
            self._checkpoints.finish(only_if_done=True)
            best = self._checkpoints.is_best(score)
            if best or last or _due(self.step, config.checkpoint.every):
                self._checkpoints.save(self.step, self._engines.actor, score)

    def validate(self) -> Score | None:
        """Measure on the held-out problems; None if there are none, or it is not wanted."""
        config = self.config.validation
        if not self._held_out or not config.every:
            return None
        with self.clock("validate"):
            problems = self._held_out.problems
            limit = config.max_response_length or self.config.rollout.max_response_length
            self._answers.generate(
                problems,
                SamplingOptions(
                    config.n, limit, config.temperature, config.top_p, self.config.seed
                ),
            )
            answers = self._answers.graded()
            found = response_metrics(answers)
            self._folder.samples("validation", self.step, rows(problems, answers))
            line = {"step": self.step, **{f"validation/{k}": v for k, v in found.items()}}
            self._folder.metrics(line)
            self._reporter.show(line)
        return Score(self.step, found["accuracy"], found["length/mean"])

    def stop(self) -> NoReturn:
        """Save what is not saved yet, and end before the run is done."""
        self._checkpoints.finish()
        if world.broadcast_from_rank0(latest_step(self._checkpoints.folder)) < self.step:
            self._checkpoints.save(self.step, self._engines.actor)
        self._finish()
        self._close()
        raise world.Stopped(f"{self.step} of {self.config.steps} steps are done and saved")

    def end(self) -> None:
        """Finish what is being written; export the model, and report."""
        self._finish()
        with self.clock("export"), world.raise_on_all_ranks():
            if dist.get_rank() == 0:
                self._export()
        self._close()

    def _finish(self) -> None:
        with self.clock("save"):
            self._checkpoints.finish()
        self._engines.rollout.close()
        self._answers.close()

    def _close(self) -> None:
        self._reporter.close()
        self._folder.close()

    def _export(self) -> None:
        checkpoint, out = self._checkpoints.latest(), self._folder.path
        if checkpoint is not None:
            export(checkpoint, out / "model")
            self._reporter.say(f"model:  {out / 'model'}")
        self._reporter.say(f"report: {write_report(out)}")

    def _learn(self, batch: RolloutBatch) -> dict[str, float]:
        try:
            return self._learner.learn(self.step, batch.problems, batch.answers, batch.advantages)
        except Unstable as error:
            step = self.step + 1
            self._folder.samples("failed", step, batch.rows())
            self._checkpoints.finish()  # one that was begun before is good
            dist.barrier()
            raise InputError(
                f"step {step}: {error}. Its batch is in {self.config.out}/failed; checkpoints are "
                f"as they were. Look at that batch, or try a smaller optimizer.lr in another out="
            ) from error

    def _log(self, table: list[dict[str, object]], found: dict[str, float]) -> None:
        spent = self.clock.read()
        self._folder.samples("samples", self.step, table)
        # A validation is in the clock of the step behind it, and none of its work.
        own = spent["seconds/step"] - spent.get("seconds/validate", 0.0)
        rate = {"tokens_per_second": found["tokens"] / own}
        line = {"step": self.step, **found, **rate, **spent}
        self._folder.metrics(line)
        self._reporter.show(line)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
