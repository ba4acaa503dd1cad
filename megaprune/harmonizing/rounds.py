"""The rounds of a harmonizing: where their parts lie, and the jobs that make them."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from megaprune import schema
from megaprune.algorithms import registry
from megaprune.algorithms.algorithm import Algorithm
from megaprune.config.fields import leaves, shown
from megaprune.config.rounds import config_of_round
from megaprune.config.run import Config, EngineConfig
from megaprune.errors import InputError
from megaprune.evaluation.config import EvaluateConfig
from megaprune.harmonizing.config import HarmonizeConfig


class Round:
    """A round, and the configurations of its jobs.

    Args:
        config: of the harmonizing.
        number: of the round, from 1.
        model: that it begins with, which draws the responses and is the reference.
    """

    def __init__(self, config: HarmonizeConfig, number: int, model: str):
        self._config, self.number, self.model = config, number, model
        self.folder = Path(config.out) / schema.harmonize_round(number)

    @property
    def given(self) -> str | None:
        """The folder of responses that were drawn before; None if they are to be drawn."""
        return self._config.presample.folder if self.number == 1 else None

    @property
    def rollouts(self) -> Path:
        """The folder of the evaluation that has the responses."""
        return Path(self.given) if self.given else self.folder / schema.PRESAMPLE_FOLDER

    @property
    def weights(self) -> Path:
        """The table of weights."""
        return self.folder / schema.WEIGHTS_FILE

    @property
    def seed(self) -> int:
        """Of the choice of responses, and of their order in training."""
        return self._config.seed + self.number - 1

    def presample(self) -> EvaluateConfig:
        """The evaluation that draws the responses."""
        config, drawn = self._config, self._config.presample
        return EvaluateConfig(
            model=self.model,
            out=str(self.folder / schema.PRESAMPLE_FOLDER),
            data=[config.data.train],
            problems=drawn.problems,
            n=drawn.n,
            max_response_length=drawn.max_response_length,
            temperature=drawn.temperature,
            top_p=drawn.top_p,
            seed=drawn.seed + self.number - 1,
            budgets=[],
            **_shared_with_evaluations(config),
        )

    def run(self, groups: int) -> Config:
        """The training run.

        Args:
            groups: what is learned from, of one response each, or of a pair.

        Raises:
            InputError: there are fewer than a batch takes.
        """
        shared = self._config
        steps = steps_of(shared, groups)
        spec = {
            "loss": registry.to_spec("loss", shared.algorithm.loss),
            "num_minibatches": shared.algorithm.num_minibatches,
        }
        own = {
            "model": self.model,
            "out": str(self.folder / schema.TRAIN_FOLDER),
            "steps": steps,
            "seed": self.seed,
            "data": replace(shared.data, rollouts=str(self.rollouts), weights=str(self.folder)),
            "algorithm": Algorithm.from_spec(spec),
            # A cosine needs a step behind the warm-up.
            "optimizer": replace(
                shared.optimizer,
                warmup_steps=min(math.ceil(shared.warmup_ratio * steps), steps - 1),
            ),
        }
        return config_of_round(shared, schema.harmonize_round(self.number), own)


def steps_of(config: HarmonizeConfig, groups: int) -> int:
    """How many steps the epochs over so many groups are.

    Raises:
        InputError: they are fewer than a batch takes.
    """
    size = config.data.train_batch_size
    steps = math.floor(config.epochs * groups / size)
    if not steps:
        raise InputError(
            f"data.train_batch_size={size} with epochs={config.epochs:g}, and {groups} are chosen "
            f"to be learned from: not one whole batch; expected data.train_batch_size="
            f"{max(1, math.floor(config.epochs * groups))} or less"
        )
    return min(steps, config.steps)


def finished(config: HarmonizeConfig) -> bool:
    """Say whether a harmonizing has done all that it was to do, as its folder says."""
    folder = Path(config.out)
    try:
        content = json.loads((folder / schema.HARMONIZE_FILE).read_text(encoding="utf-8"))
        rounds, tested = content["rounds"], content["test"] is not None
        last = folder / rounds[-1]["model"]
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return False
    if len(rounds) < config.rounds or (config.test.data and not tested):
        return False
    # The link is the last that is made.
    return bool((folder / schema.MODEL_FOLDER).resolve() == last.resolve())


def folder_before(config: HarmonizeConfig) -> Path:
    """Return the folder of the evaluation of the start model."""
    return Path(config.test.before or Path(config.out) / schema.BEFORE_FOLDER)


def evaluations_of_test(
    config: HarmonizeConfig, model: str
) -> tuple[EvaluateConfig, EvaluateConfig]:
    """The evaluations of the test: of the model as it was, and of what came out.

    Args:
        model: that came out.
    """
    out, measured = Path(config.out), config.test
    before = EvaluateConfig(
        model=config.model,
        out=str(folder_before(config)),
        data=measured.data,
        n=measured.n,
        max_response_length=measured.max_response_length,
        temperature=measured.temperature,
        top_p=measured.top_p,
        seed=measured.seed,
        budgets=measured.budgets,
        **_shared_with_evaluations(config),
    )
    after = replace(before, model=model, out=str(out / schema.AFTER_FOLDER), baseline=before.out)
    return before, after


_MEASURING = (
    "data", "n", "max_response_length", "temperature", "top_p", "max_prompt_length",
    "enable_thinking", "problems",
)  # fmt: skip
"""Fields of an evaluation that must be alike if two are to be compared, beside `grading`."""


def check_measured_alike(expected: EvaluateConfig, measured: EvaluateConfig) -> None:
    """See that an evaluation has the settings of the one that would be made.

    Raises:
        InputError: it has others, which are named.
    """
    ours, theirs = (
        {name: getattr(config, name) for name in _MEASURING} | dict(leaves(config.grading))
        for config in (expected, measured)
    )
    if wrong := [name for name in ours if ours[name] != theirs[name]]:
        raise InputError(
            f"test.before={measured.out}: "
            + "; ".join(f"{name} is {shown(theirs[name])} there" for name in wrong)
            + f"; expected {', '.join(shown(ours[name]) for name in wrong)}: give both the same, "
            f"or measure it anew with null"
        )


def _shared_with_evaluations(config: HarmonizeConfig) -> dict[str, Any]:
    engine = {each.name: getattr(config.rollout, each.name) for each in fields(EngineConfig)}
    # No model in training is beside the engine of an evaluation.
    del engine["gpu_memory_utilization"]
    return {
        "max_prompt_length": config.data.max_prompt_length,
        "enable_thinking": config.data.enable_thinking,
        "dtype": config.dtype,
        "processes": config.processes,
        "rollout": EngineConfig(**engine),
        "grading": config.grading,
    }
