"""Iterative length pruning: rounds under falling limits (ThinkPrune, arXiv 2504.01296).

Each round is a run of its own, with a fresh optimizer. It begins with the model that validation
found best in the round before, which is also its reference for a KL term.

config.yaml                the resolved configuration
rounds.json                what was chosen in each round that has ended, and why the last one ended
round_1_limit_4000/ ...    the runs; `chosen/` is the chosen model where it is not the run's last
model                      a link to the model of the last round that did not lose too much accuracy
report/                    a page over all rounds
"""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.distributed as dist
from rich.table import Table

from megaprune import schema
from megaprune.config.limits import validation_limit
from megaprune.config.rounds import config_of_round
from megaprune.config.run import Config
from megaprune.distributed import world
from megaprune.distributed.objects import broadcast_from_rank0
from megaprune.errors import InputError
from megaprune.files import replace_link, replace_text
from megaprune.foreign_text import terminal
from megaprune.pruning.config import PruneConfig
from megaprune.weights.model import read_config
from megaprune.weights.rope import context_of


def prune(config: PruneConfig) -> None:
    """Prune in rounds; goes on where its folder says that it was. Collective.

    Raises:
        InputError: the folder or a round's run cannot be used.
    """
    from megaprune.trainer.loop import train
    from megaprune.trainer.run_lock import RunLock

    own = RunLock(Path(config.out), config)
    rounds = broadcast_from_rank0(Rounds(config))
    while (number := rounds.next) is not None:
        run = rounds.config(number, rounds.model)
        world.say(
            f"round {number} of {len(config.limits)}: limit "
            f"{run.rollout.max_response_length}, from {run.model}"
        )
        train(run)
        gc.collect()  # both engines' memory, before the next round's are built
        with world.raise_on_all_ranks():
            if dist.get_rank() == 0:
                rounds.choose(run)
        rounds = broadcast_from_rank0(rounds)
        if world.stop_requested():
            raise world.Stopped(f"round {number} of {len(config.limits)} has ended")
    with world.raise_on_all_ranks():
        if dist.get_rank() == 0:
            rounds.end()
    own.close()


class Rounds:
    """The rounds of a pruning, as rounds.json keeps them.

    Raises:
        InputError: rounds.json is not of these limits, or cannot be read.
    """

    def __init__(self, config: PruneConfig):
        self._config, self._folder = config, Path(config.out)
        self._file = self._folder / schema.ROUNDS_FILE
        self._base: dict[str, float] | None = None
        self._rounds: list[dict[str, Any]] = []
        if self._file.is_file():
            try:
                content = json.loads(self._file.read_text(encoding="utf-8"))
                self._base, self._rounds = content["base"], content["rounds"]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{self._file} cannot be read ({error!r}); remove it: it is made again from "
                    f"the rounds' folders"
                ) from error
        done = [ended["limit"] for ended in self._rounds]
        if config.limits[: len(done)] != done:
            raise InputError(
                f"limits={config.limits}, but the rounds that have ended in {self._folder} had "
                f"{done}; begin with those, or give another out=..."
            )

    @property
    def next(self) -> int | None:
        """The number of the next round, from 1; None if there is none."""
        done = len(self._rounds)
        return None if self._stopped or done == len(self._config.limits) else done + 1

    @property
    def model(self) -> str:
        """The model that the next round begins with: the choice of the last round."""
        return str(self._folder / self._rounds[-1]["model"]) if self._rounds else self._config.model

    def config(self, number: int, model: str) -> Config:
        """The configuration of a round's run.

        Args:
            number: the number of the round, from 1.
            model: the model that it begins with.
        """
        shared, limit = self._config, self._config.limits[number - 1]
        folder = schema.round_folder(number, limit)
        own = {
            "model": model,
            "out": str(self._folder / folder),
            "seed": shared.seed + number - 1,
            "rollout": replace(shared.rollout, max_response_length=limit),
            # Losses are measured from the model before all rounds, and all rounds alike.
            "validation": replace(
                shared.validation,
                first=number == 1 or shared.validation.first,
                max_response_length=self._validation_limit(),
            ),
        }
        return config_of_round(shared, folder, own)

    def _validation_limit(self) -> int | None:
        """The same for all rounds, whose models are of one shape."""
        limit = self._config.validation.max_response_length
        if limit is not None:
            return limit
        return validation_limit(self._config, context_of(read_config(Path(self._config.model))))

    def choose(self, run: Config) -> None:
        """Choose a run's best model, and record what it is and why.

        Args:
            run: the configuration of a run that has ended.
        """
        from megaprune.trainer.checkpoint import export_best

        folder = Path(run.out)
        model, score = export_best(run)
        if not self._rounds:
            self._base = _validation_at(folder, 0)
        self._rounds.append(
            {
                "round": len(self._rounds) + 1,
                "limit": run.rollout.max_response_length,
                "folder": folder.name,
                "step": score.step,
                "accuracy": score.accuracy,
                "length": score.length,
                "model": str(model.relative_to(self._folder)),
            }
        )
        self._write()
        world.say(f"round {len(self._rounds)}: step {score.step} is chosen: {_words(vars(score))}")

    def end(self) -> None:
        """Link the model that all rounds led to, write the report, print the table."""
        from megaprune.report import write_report

        self._write()
        link = self._folder / schema.MODEL_FOLDER
        if (final := self._final) is not None:
            replace_link(link, self._rounds[final - 1]["model"])
        terminal().print(self._table())
        if self._stopped:
            world.say(self._stopped)
        world.say(f"model:  {link if final else self._config.model + ', as it was'}")
        world.say(f"report: {write_report(self._folder)}")

    @property
    def _stopped(self) -> str | None:
        """Why there are no more rounds, if the last one lost too much."""
        if self._base is None or not self._rounds:
            return None
        last, lost = self._rounds[-1], 100 * (self._base["accuracy"] - self._rounds[-1]["accuracy"])
        if lost <= self._config.max_drop:
            return None
        return (
            f"round {last['round']} lost {lost:.1f} points of accuracy, more than "
            f"max_drop={self._config.max_drop:g}: the last round, and not taken"
        )

    @property
    def _final(self) -> int | None:
        """The number of the round whose model is the outcome; None if no round was taken."""
        return len(self._rounds) - bool(self._stopped) or None

    def _write(self) -> None:
        content = {
            "limits": self._config.limits,
            "base": self._base,
            "rounds": self._rounds,
            "stopped": self._stopped,
            "final": self._final,
        }
        replace_text(self._file, json.dumps(content, indent=2) + "\n")

    def _table(self) -> Table:
        table = Table("round", "limit", "step", "right", "tokens", "change")
        base = self._base
        if base is not None:
            shown = f"{100 * base['accuracy']:.1f} %", f"{base['length']:.1f}"
            table.add_row("start", "", "", *shown, "")
        for ended in self._rounds:
            change = ""
            if base is not None:
                points = 100 * (ended["accuracy"] - base["accuracy"])
                share = 100 * (ended["length"] / base["length"] - 1)
                change = f"{points:+.1f} points, {share:+.1f} % tokens"
            taken = " (taken)" if ended["round"] == self._final else ""
            table.add_row(
                f"{ended['round']}{taken}", str(ended["limit"]), str(ended["step"]),
                f"{100 * ended['accuracy']:.1f} %", f"{ended['length']:.1f}", change,
            )  # fmt: skip
        return table


def _validation_at(folder: Path, step: int) -> dict[str, float] | None:
    """A run's accuracy and mean length in validation after a step; None if it has none."""
    accuracy, length = (schema.VALIDATION + name for name in (schema.ACCURACY, schema.LENGTH_MEAN))
    path = folder / schema.METRICS_FILE
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            stored = dict(json.loads(text))
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{path} has a line that is not a step's numbers ({text[:60]!r}); mend or remove it"
            ) from error
        line = {schema.metric_name(name): value for name, value in stored.items()}
        if line.get("step") == step and accuracy in line:
            return {"accuracy": line[accuracy], "length": line[length]}
    return None


def _words(score: Mapping[str, Any]) -> str:
    return f"{100 * score['accuracy']:.1f} % right, {score['length']:.1f} tokens"
