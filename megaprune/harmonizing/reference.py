"""The reference model's log-probs of chosen responses: computed once, before training, and kept.

The model that a round begins with is its reference. Its log-probs are computed while it is the only
model in memory, in chunks of a fixed size; each chunk is a file, and one that is there is not
computed again.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist

from megaprune import schema
from megaprune.actor.actor import Actor
from megaprune.actor.packing import Sample
from megaprune.config.run import Config
from megaprune.distributed import world
from megaprune.distributed.device import release_cached
from megaprune.distributed.objects import broadcast_from_rank0
from megaprune.errors import InputError
from megaprune.files import new_file, writing
from megaprune.trainer.weighted import ChosenResponse

_CHUNK = 256
"""Responses of a file: what a kill costs."""


def write_reference(config: Config, chosen: Sequence[ChosenResponse], comparable: bool) -> None:
    """Compute the log-probs that are not there yet. Collective.

    Args:
        config: of the round's run; its model is the reference, and `data.weights` the folder.
        chosen: the responses, in the order of their table.
        comparable: whether they were drawn from the distribution that log-probs are of here, so
            that the engine's own have to agree.

    Raises:
        InputError: the log-probs are so far from the engine's that another model has drawn the
            responses.
    """
    folder = Path(config.data.weights or "") / schema.REFERENCE_FOLDER
    starts = range(0, len(chosen), _CHUNK)
    done = {number for number in range(len(starts)) if _file(folder, number).is_file()}
    done = broadcast_from_rank0(done)
    missing = [number for number in range(len(starts)) if number not in done]
    if not missing:
        return
    world.say(f"log-probs of {len(chosen)} responses by {config.model}")
    actor = Actor(
        Path(config.model),
        config.actor,
        config.optimizer,
        getattr(torch, config.dtype),
        config.deterministic,
    )
    for number in missing:
        part = chosen[starts[number] : starts[number] + _CHUNK]
        log_probs = actor.log_probs([_sample(response) for response in part])
        if comparable:
            _check(part, log_probs, config.max_mismatch)
        with world.raise_on_all_ranks():
            if dist.get_rank() == 0:
                _write(_file(folder, number), part, log_probs)
    del actor
    gc.collect()  # before the run builds both engines
    release_cached()


def _file(folder: Path, number: int) -> Path:
    return folder / schema.reference_file(number)


def _sample(response: ChosenResponse) -> Sample:
    prompt = np.asarray(response.problem.tokens, np.int64)
    return Sample(np.concatenate([prompt, response.rollout.tokens]), len(prompt), {})


def _check(
    part: Sequence[ChosenResponse], log_probs: Sequence[np.ndarray], most: float | None
) -> None:
    """Compare with the log-probs of the engine that drew the responses, token by token.

    Responses whose prompt was cut are not compared.
    """
    differences = [
        np.abs(values - response.rollout.log_probs)
        for response, values in zip(part, log_probs, strict=True)
        if response.prompt_is_whole
    ]
    if not differences:
        return
    apart = float(np.concatenate(differences).mean())
    if most is not None and not apart <= most:
        raise InputError(
            f"the log-probs of the responses differ from those that they were drawn with by "
            f"{apart:.3g} nats on average, more than max_mismatch={most:g}: another model has "
            f"drawn them, or the engines do not agree"
        )


def _write(path: Path, part: Sequence[ChosenResponse], log_probs: Sequence[np.ndarray]) -> None:
    rows = [
        {"problem": response.problem.name, "number": response.rollout.number, "log_probs": values}
        for response, values in zip(part, log_probs, strict=True)
    ]
    table = pa.Table.from_pylist(rows, schema=schema.reference_schema())
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(path) as new:
            pq.write_table(table, new, compression="zstd")
