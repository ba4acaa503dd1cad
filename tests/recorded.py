"""A real tiny actor in this process, and rollouts that its model drew (recorded_rollouts/)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

FIELDS = ["recipe=tiny_overthinker", "out=unused", "steps=4", "rollout.n=4"]
FIELDS += ["data.train_batch_size=8", "rollout.max_response_length=120"]
ROLLOUTS = Path(__file__).with_name("recorded_rollouts")


@pytest.fixture
def configuration():
    """The tiny overthinker's, with fields in the words of the command line."""
    from megaprune.config.run import read_config

    return lambda *fields: read_config([*FIELDS, *fields])


@pytest.fixture(scope="module")
def alone():
    """A process group of this process alone."""
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def make_actor(alone, configuration):
    """Build the tiny overthinker as an actor, with fields in the words of the command line."""
    import torch

    from megaprune.actor.actor import Actor

    def make(*fields):
        config = configuration("optimizer.lr=1e-3", *fields)
        return Actor(Path(config.model), config.actor, config.optimizer, torch.float32)

    return make


@pytest.fixture(scope="session")
def recorded():
    """The recorded step: problems, and the rollouts of each by the problem's name."""
    from megaprune.data import load_tokenizer, read_problems
    from megaprune.recipes.tiny import FOLDER
    from megaprune.trainer.offline import read_rollouts

    tokenizer = load_tokenizer(FOLDER / "model")
    problems = read_problems(FOLDER / "data" / "train.parquet", tokenizer, 64).problems
    problems, rollouts = read_rollouts(ROLLOUTS, problems, 4)
    # By the policy that learns, and not by one of an earlier run.
    now = {name: [replace(r, policy_version=0) for r in rs] for name, rs in rollouts.items()}
    return problems, now


@pytest.fixture(scope="session")
def recorded_batch(recorded):
    """A batch of the recorded rollouts, for an algorithm: of the first so many problems, by a
    policy of some version, worth what they are under a limit."""
    from megaprune.trainer.batch import Scorer, make_batch

    problems, rollouts = recorded

    def make(algorithm, count=None, version=0, limit=120):
        scorer = Scorer(algorithm, limit)
        groups = [
            scorer.score(
                place,
                problem,
                [replace(r, policy_version=version) for r in rollouts[problem.name]],
            )
            for place, problem in enumerate(problems[:count])
        ]
        return make_batch(algorithm, groups)

    return make
