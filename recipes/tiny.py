"""Prune tiny models that think too long: the whole loop on a laptop, in minutes.

The overthinker checks what is right already. The reasoner makes slips, and its checks find most of
them, so that what it loses by thinking less can be measured.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from megaprune.algorithms import Algorithm
from megaprune.config.run import (
    ActorConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    EngineConfig,
    GradingConfig,
    OptimizerConfig,
    RolloutConfig,
    ValidationConfig,
)
from megaprune.evaluation.config import EvaluateConfig
from megaprune.harmonizing.config import HarmonizeConfig, HeldOutConfig, PresampleConfig
from megaprune.pruning.config import PruneConfig

FOLDER = Path(__file__).parent / "overthinker"
REASONER = Path(__file__).parent / "reasoner"


def config() -> Config:
    """Prune to 72 tokens: a calculation and its answer take about 50, and each check 23."""
    return Config(
        model=str(FOLDER / "model"),
        out="runs/tiny_overthinker",
        steps=30,
        dtype="float32",
        processes=2,
        data=DataConfig(
            train=str(FOLDER / "data" / "train.parquet"),
            validation=str(FOLDER / "data" / "validation.parquet"),
            train_batch_size=64,
            max_prompt_length=64,
        ),
        rollout=RolloutConfig(n=8, max_response_length=72, max_num_seqs=512, enforce_eager=True),
        grading=GradingConfig(workers=1),
        # Few groups have a signal once the model is pruned: divided by their own small deviation,
        # what is left of it would grow to noise.
        algorithm=Algorithm.from_spec({"advantage": "group_mean"}),
        optimizer=OptimizerConfig(lr=1e-4, beta2=0.95, weight_decay=0.0, distributed=False),
        actor=ActorConfig(max_tokens=2048),
        validation=ValidationConfig(
            every=10, n=2, max_response_length=512, temperature=1.0, top_p=1.0
        ),
        checkpoint=CheckpointConfig(every=10),
    )


def rounds() -> PruneConfig:
    """Prune under three limits; the last is what a calculation without any check takes."""
    single = config()
    return PruneConfig(
        **vars(replace(single, out="runs/tiny_rounds", steps=12))
        | {
            "validation": replace(single.validation, every=4),
            "checkpoint": CheckpointConfig(every=4, tie=1.0),
        },
        limits=[120, 72, 56],
    )


def harmonize() -> HarmonizeConfig:
    """Harmonize lengths: 8 responses each to 256 problems are drawn, weighed, and learned from.

    The clip is far below the published 0.2, which nothing reaches before the model is damaged
    (docs/harmonize.md): a response of 163 tokens, the mean, loses 0.8 nats at most.
    """
    single = config()
    return HarmonizeConfig(
        model=single.model,
        out="runs/tiny_harmonize",
        dtype=single.dtype,
        processes=single.processes,
        data=replace(single.data, validation=None, train_batch_size=64),
        rollout=single.rollout,
        grading=single.grading,
        algorithm=Algorithm.from_spec({"loss": {"name": "o1_pruner", "clip_ratio_low": 0.005}}),
        optimizer=replace(single.optimizer, lr=5e-5, schedule="cosine", clip_grad=10.0),
        epochs=2,
        actor=single.actor,
        presample=PresampleConfig(problems=256, n=8, max_response_length=512),
        test=HeldOutConfig(
            data=test().data, n=1, max_response_length=512, temperature=1.0, top_p=1.0,
            budgets=test().budgets,
        ),
    )  # fmt: skip


def test() -> EvaluateConfig:
    """Evaluate on problems that neither pruning nor the choice of a model has seen."""
    return EvaluateConfig(
        model=str(FOLDER / "model"),
        out="runs/tiny_test",
        data=[str(FOLDER / "data" / "test.parquet")],
        n=4,
        max_response_length=512,
        temperature=1.0,
        top_p=1.0,
        max_prompt_length=64,
        budgets=[40, 50, 60, 80, 120, 160, 240, 320, 512],
        dtype="float32",
        processes=2,
        rollout=EngineConfig(max_num_seqs=512, enforce_eager=True),
        grading=GradingConfig(workers=1),
    )


def reasoner() -> Config:
    """Prune the reasoner to 96 tokens: its responses take from 40 to 250, 107 on average."""
    overthinker = config()
    return replace(
        overthinker,
        model=str(REASONER / "model"),
        out="runs/tiny_reasoner",
        steps=20,
        processes=1,
        data=DataConfig(
            train=str(REASONER / "data" / "train.parquet"),
            validation=str(REASONER / "data" / "validation.parquet"),
            train_batch_size=32,
            max_prompt_length=64,
        ),
        rollout=replace(overthinker.rollout, max_response_length=96),
        validation=replace(overthinker.validation, max_response_length=320),
    )


def reasoner_harmonize() -> HarmonizeConfig:
    """Harmonize the reasoner: 8 responses each to 256 problems, about 107 tokens long."""
    single, overthinker, tested = reasoner(), harmonize(), reasoner_test()
    return replace(
        overthinker,
        model=single.model,
        out="runs/tiny_reasoner_harmonize",
        processes=single.processes,
        data=replace(single.data, validation=None, train_batch_size=64),
        optimizer=replace(overthinker.optimizer, lr=1e-4),
        epochs=1,
        presample=replace(overthinker.presample, max_response_length=320),
        test=replace(
            overthinker.test, data=tested.data, max_response_length=320, budgets=tested.budgets
        ),
    )


def reasoner_test() -> EvaluateConfig:
    """Evaluate on sums of two, three and four digits, each a set of its own."""
    return replace(
        test(),
        model=str(REASONER / "model"),
        out="runs/tiny_reasoner_test",
        data=[str(REASONER / "data" / "test.parquet")],
        max_response_length=320,
        budgets=[32, 48, 64, 80, 96, 128, 160, 192, 256, 320],
        template=str(REASONER / "template.yaml"),
        processes=1,
    )
