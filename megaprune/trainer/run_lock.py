"""A folder that one job writes: whose it is stands in its config.yaml, and one process has it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import torch.distributed as dist
from yaml import YAMLError

from megaprune import schema
from megaprune.config.fields import RenamedFieldError
from megaprune.config.read import differences, to_yaml
from megaprune.distributed import world
from megaprune.errors import InputError
from megaprune.files import clear_up_inside, replace_text, writing
from megaprune.lease import Lease, holder_of, remove_dead_leases
from megaprune.trainer.checkpoint_files import latest_step


class RunLock:
    """A folder that is this job's alone, from now until `close`. Collective; rank 0 writes.

    Args:
        path: made if it is not there.
        config: of the job that is to begin here or go on (see `megaprune.config.fields`).

    Raises:
        InputError: the folder is another job's, or is no job's and not empty, or another process
            is at it, or it cannot be written, or it has done more steps than there are to be.
    """

    def __init__(self, path: Path, config: Any):
        self._lease: Lease | None = None
        with world.raise_on_all_ranks():
            if dist.get_rank() == 0:
                with writing(path):
                    path.mkdir(parents=True, exist_ok=True)
                    self._lease = Lease(path / schema.LEASE_FILE, path)
                try:
                    _belongs(path, config)
                except BaseException:
                    self.close()
                    raise
                with writing(path):
                    clear_up_inside(path)
                    remove_dead_leases(path)
                    replace_text(path / schema.CONFIG_FILE, to_yaml(config))

    def close(self) -> None:
        """Let other processes have it."""
        if self._lease is not None:
            self._lease.close()
            self._lease = None

    def check(self) -> None:
        """See that this job still has the folder; raises InputError if not."""
        if self._lease is not None:
            self._lease.check()


def check_folder(path: Path, config: Any) -> None:
    """See that a job can begin or go on in its folder, as far as that shows without writing.

    Raises:
        InputError: as `OwnFolder` does.
    """
    with writing(path):
        if path.is_dir():
            if holder := holder_of(path / schema.LEASE_FILE):
                raise InputError(f"{path} is being written by {holder}; wait, or end it")
            _belongs(path, config)
        there = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{there} is a file")
        if not os.access(there, os.W_OK):
            read_only = os.statvfs(there).f_flag & os.ST_RDONLY
            raise OSError(number := errno.EROFS if read_only else errno.EACCES, os.strerror(number))


def _belongs(path: Path, config: Any) -> None:
    written = path / schema.CONFIG_FILE
    if not written.exists():
        if others := [p.name for p in path.iterdir() if not _is_ours(p.name)]:
            raise InputError(
                f"{path} is no run's folder, and has {', '.join(sorted(others)[:3])} in it; give "
                f"another one with out=..."
            )
        return
    try:
        differing = differences(config, written.read_text(encoding="utf-8"))
    except RenamedFieldError as error:
        raise InputError(
            f"{written} has fields by other names ({error}); to go on with this run, write it "
            f"anew with: megaprune config upgrade {path}"
        ) from error
    except (InputError, YAMLError, UnicodeDecodeError) as error:
        raise InputError(
            f"{written} cannot be read as a run's configuration "
            f"({' '.join(str(error).split())}); give another out=..., or mend it"
        ) from error
    if differing:
        raise InputError(
            f"{path} is the folder of another run: {'; '.join(differing)}. Give another out=..., "
            f"or the run's own values to go on with it"
        )
    done, steps = latest_step(path / schema.CHECKPOINTS_FOLDER), getattr(config, "steps", None)
    if steps is not None and done > steps:
        raise InputError(
            f"{path} has done {done} steps, more than steps={steps}: nothing was changed. Give "
            f"steps={done} or more, or another out=... for a shorter run"
        )


def _is_ours(name: str) -> bool:
    """Whether a name is of what the program leaves in a folder that it is only beginning with."""
    return name == schema.LEASE_FILE or ".megaprune-" in name
