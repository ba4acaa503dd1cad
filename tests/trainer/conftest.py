"""Checkpoints of a real tiny actor, which has made a step."""

from dataclasses import replace

import numpy as np
import pytest

from megaprune.actor.packing import Sample
from megaprune.algorithms.records import LossOutput
from megaprune.recipes.tiny import FOLDER
from megaprune.trainer.checkpoint import Checkpoints
from megaprune.weights.files.hf_folder import HfFolder

SAMPLES = [Sample(np.arange(1, 12), 4), Sample(np.arange(3, 20), 5)]


@pytest.fixture
def step():
    """Let an actor make one that changes all weights, and Adam's state."""
    return lambda actor, lr=1e-3: actor.step(SAMPLES, _loss, lr=lr)


def _loss(batch):
    return LossOutput(-batch.log_probs.sum() / 20, {})


@pytest.fixture
def trained(make_actor, step):
    """An actor that has made a step: before it, Adam has nothing to save."""

    def make(*fields):
        actor = make_actor(*fields)
        step(actor)
        return actor

    return make


@pytest.fixture
def checkpoints(alone, tmp_path, configuration):
    """Those of a folder; fields of `checkpoint` by name, and what is called before naming."""
    side = HfFolder(FOLDER / "model").side_files()

    def make(before_naming=lambda: None, **fields):
        config = replace(configuration().checkpoint, **{"wait": True, **fields})
        return Checkpoints(tmp_path / "checkpoints", side, config, before_naming)

    return make
