"""Length-harmonizing fine-tuning (O1-Pruner, arXiv 2501.12570), part by part.

A round draws responses to the training problems, weighs them, computes the reference model's
log-probs of those that are learned from, and trains. In the end the model is measured as it was and
as it is. A part that is done is not done again: the same command goes on in the next one.

config.yaml                the resolved configuration
harmonize.json             what came of each round, and of the test
round_1/presample/         the evaluation whose responses are weighed
round_1/weights.parquet    what they weigh (statistics.json: numbers of them)
round_1/reference/         the reference model's log-probs
round_1/train/             the run; `chosen/` is the chosen model where it is not the run's last
before/ after/             the evaluations of the test
model                      a link to the model of the last round
report/                    a page over all of it
"""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path
from typing import Any

import torch.distributed as dist

from megaprune import schema
from megaprune.config.run import Config
from megaprune.data import load_tokenizer
from megaprune.data.on_node import read_problems_on_node
from megaprune.distributed import world
from megaprune.distributed.objects import broadcast_from_rank0
from megaprune.errors import InputError
from megaprune.evaluation.run import evaluate
from megaprune.files import replace_link, replace_text, set_aside, writing
from megaprune.harmonizing.config import HarmonizeConfig
from megaprune.harmonizing.presampled import (
    check_measured,
    check_presampled,
    drawn_as_trained,
    read_presampled_config,
)
from megaprune.harmonizing.reference import write_reference
from megaprune.harmonizing.rounds import Round, evaluations_of_test, folder_before
from megaprune.harmonizing.table import write_weights
from megaprune.report import write_report
from megaprune.trainer.checkpoint import export_best
from megaprune.trainer.loop import train
from megaprune.trainer.run_lock import RunLock
from megaprune.trainer.weighted import read_chosen


def harmonize(config: HarmonizeConfig) -> None:
    """Harmonize a model's lengths; goes on where its folder says that it was. Collective.

    Raises:
        InputError: the folder, the responses or a round's run cannot be used.
    """
    own = RunLock(Path(config.out), config)
    if config.test.data and config.test.before:
        with world.phase("check"), world.raise_on_all_ranks():
            if dist.get_rank() == 0:
                before, _ = evaluations_of_test(config, config.model)
                check_measured(before, load_tokenizer(Path(config.model)))
    record = broadcast_from_rank0(Record(config))
    while (number := record.next) is not None:
        current = Round(config, number, record.model)
        world.say(
            f"round {number} of {config.rounds}: method {config.method}, from {current.model}"
        )
        run = _do_round(config, current)
        with world.raise_on_all_ranks():
            if dist.get_rank() == 0:
                record.add(current, run)
        record = broadcast_from_rank0(record)
        if world.stop_requested():
            raise world.Stopped(f"round {number} of {config.rounds} has ended")
    if config.test.data:
        before, after = evaluations_of_test(config, record.model)
        with world.raise_on_all_ranks():
            if dist.get_rank() == 0:
                _set_aside_test_of_other_model(Path(after.out), record.model)
        dist.barrier()
        for evaluation in [after] if config.test.before else [before, after]:
            world.say(f"test of {evaluation.model}")
            evaluate(evaluation)
            gc.collect()  # the engine's memory, before the next one is built
    with world.raise_on_all_ranks():
        if dist.get_rank() == 0:
            record.end()
    own.close()


def _do_round(config: HarmonizeConfig, current: Round) -> Config:
    """Do what is left of a round; the configuration of its run."""
    if current.given is None and not (current.rollouts / schema.SUMMARY_FILE).is_file():
        world.say(f"drawing {config.presample.n} responses to each problem")
        evaluate(current.presample())
        gc.collect()  # the engine's memory, before others are built
    with world.phase("weigh"):
        tokenizer = load_tokenizer(Path(current.model))
        data = config.data
        settings = data.max_prompt_length, data.duplicates, data.enable_thinking
        problems = read_problems_on_node(Path(data.train), tokenizer, *settings).problems
        problems = problems[: config.presample.problems]
        with world.raise_on_all_ranks():
            if dist.get_rank() == 0 and not current.weights.is_file():
                if current.given is not None:
                    check_presampled(config, tokenizer, problems)
                write_weights(
                    current.folder,
                    current.rollouts,
                    problems,
                    config.presample.n,
                    config.method,
                    config.harmonize,
                    current.seed,
                )
        dist.barrier()
        chosen = read_chosen(current.rollouts, current.folder, problems, config.data.cutoff)
        run = current.run(len({response.group for response in chosen}))
    if "reference" in run.algorithm.needs:
        with world.phase("reference"):
            drawn = read_presampled_config(current.rollouts)
            write_reference(run, chosen, comparable=drawn_as_trained(drawn))
    del chosen
    train(run)
    gc.collect()
    return run


def _set_aside_test_of_other_model(folder: Path, model: str) -> None:
    """Keep what an earlier round's model came to in the test, after more rounds were asked for."""
    if (folder / schema.CONFIG_FILE).is_file():
        tested = read_presampled_config(folder).model
        if Path(tested).resolve() != Path(model).resolve():
            set_aside(folder, "earlier")


class Record:
    """What came of each round, as harmonize.json keeps it.

    Raises:
        InputError: harmonize.json cannot be read.
    """

    def __init__(self, config: HarmonizeConfig):
        self._config, self._folder = config, Path(config.out)
        self._file = self._folder / schema.HARMONIZE_FILE
        self._rounds: list[dict[str, Any]] = []
        if self._file.is_file():
            try:
                self._rounds = json.loads(self._file.read_text(encoding="utf-8"))["rounds"]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{self._file} cannot be read ({error!r}); remove it: it is made again from "
                    f"the rounds' folders"
                ) from error

    @property
    def next(self) -> int | None:
        """The number of the next round, from 1; None if there is none."""
        done = len(self._rounds)
        return None if done >= self._config.rounds else done + 1

    @property
    def model(self) -> str:
        """The model that the rounds have led to so far."""
        return str(self._folder / self._rounds[-1]["model"]) if self._rounds else self._config.model

    def add(self, current: Round, run: Config) -> None:
        """Choose the model of a round that has ended, and record what came of it."""
        folder = Path(run.out)
        model, step, score = folder / schema.MODEL_FOLDER, run.steps, None
        if self._config.choose == "best":
            model, score = export_best(run)
            step = score.step
        statistics = current.folder / schema.STATISTICS_FILE
        self._rounds.append(
            {
                "round": current.number,
                "model": str(model.relative_to(self._folder)),
                "step": step,
                "steps": run.steps,
                "validation": score and {"accuracy": score.accuracy, "length": score.length},
                "statistics": json.loads(statistics.read_text(encoding="utf-8")),
            }
        )
        self._write(None)
        world.say(f"round {current.number}: the model of step {step} of {run.steps} is taken")

    def end(self) -> None:
        """Link the model that all rounds led to, write what came of the test, and the report."""
        test = None
        if self._config.test.data:
            path = self._folder / schema.AFTER_FOLDER / schema.SUMMARY_FILE
            after = json.loads(path.read_text(encoding="utf-8"))
            path = folder_before(self._config) / schema.SUMMARY_FILE
            before = json.loads(path.read_text(encoding="utf-8"))
            test = {
                name: {
                    "before": _headline(before["sets"][name]),
                    "after": _headline(summary),
                    "against": summary.get("against"),
                }
                for name, summary in after["sets"].items()
            }
        self._write(test)
        report, link = write_report(self._folder), self._folder / schema.MODEL_FOLDER
        # The link is the last: a harmonizing that has it is done.
        replace_link(link, self._rounds[-1]["model"])
        world.say(f"model:  {link}")
        world.say(f"report: {report}")

    def _write(self, test: dict[str, Any] | None) -> None:
        before = self._config.test.before
        content = {
            "method": self._config.method,
            "rounds": self._rounds,
            "before": before and os.path.relpath(before, self._folder),
            "test": test,
        }
        with writing(self._file):
            replace_text(self._file, json.dumps(content, indent=2) + "\n")


_HEADLINE = ("accuracy", "accuracy_interval", "length", "length_interval")


def _headline(summary: dict[str, Any]) -> dict[str, Any]:
    return {name: summary[name] for name in _HEADLINE}
