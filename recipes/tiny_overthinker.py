"""Prune a tiny model that overthinks arithmetic: the whole loop on a laptop, in minutes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from megaprune.config import (
    Algorithm,
    Config,
    Data,
    Division,
    Engine,
    Grading,
    Optimizer,
    Sampling,
    Saving,
    Validation,
)
from megaprune.evaluate.config import Evaluation
from megaprune.pruning import Pruning

FOLDER = Path(__file__).parent / "overthinker"


def config() -> Config:
    """A calculation and its answer take about 50 tokens, each check 23; the limit allows none."""
    return Config(
        model=str(FOLDER / "model"),
        out="runs/tiny_overthinker",
        steps=30,
        dtype="float32",
        processes=2,
        data=Data(
            train=str(FOLDER / "data" / "train.parquet"),
            validation=str(FOLDER / "data" / "validation.parquet"),
            prompts=64,
            max_prompt=64,
        ),
        rollout=Sampling(n=8, limit=72, max_sequences=512, eager=True),
        grading=Grading(workers=1),
        # Few groups have a signal once the model is pruned: divided by their own small deviation,
        # what is left of it would grow to noise.
        algorithm=Algorithm(estimator="group_mean"),
        optimizer=Optimizer(lr=1e-4, beta2=0.95, weight_decay=0.0, distributed=False),
        actor=Division(max_tokens=2048),
        validation=Validation(every=10, n=2, limit=512, temperature=1.0, top_p=1.0),
        checkpoint=Saving(every=10),
    )


def rounds() -> Pruning:
    """Under three limits; the last is what a calculation without any check takes."""
    one = config()
    return Pruning(
        **vars(replace(one, out="runs/tiny_rounds", steps=12))
        | {
            "validation": replace(one.validation, every=4),
            "checkpoint": Saving(every=4, tie=1.0),
        },
        limits=[120, 72, 56],
    )


def test() -> Evaluation:
    """On problems that neither pruning nor the choice of a model has seen."""
    return Evaluation(
        model=str(FOLDER / "model"),
        out="runs/tiny_test",
        data=[str(FOLDER / "data" / "test.parquet")],
        n=4,
        limit=512,
        temperature=1.0,
        top_p=1.0,
        max_prompt=64,
        budgets=[40, 50, 60, 80, 120, 160, 240, 320, 512],
        dtype="float32",
        processes=2,
        rollout=Engine(max_sequences=512, eager=True),
        grading=Grading(workers=1),
    )
