"""The configuration of a round's run, where a job trains in rounds."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from megaprune.config.run import Config


def config_of_round(shared: Config, folder: str, own: dict[str, Any]) -> Config:
    """The configuration of a round's run: that of all rounds, with what is the round's own.

    W&B shows the runs of all rounds as one group, each with the name of its folder.

    Args:
        shared: of the job, whose fields are those of a run and more.
        folder: the round's, by its name in the job's folder.
        own: fields of the run, with their values.
    """
    wandb = replace(
        shared.wandb,
        name=shared.wandb.name and f"{shared.wandb.name} {folder}",
        group=shared.wandb.group or shared.wandb.name or Path(shared.out).resolve().name,
    )
    of_run = {each.name: getattr(shared, each.name) for each in fields(Config)}
    return Config(**of_run | {"wandb": wandb} | own)
