"""`megaprune config`: the page of all fields, and configurations of runs that are there."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megaprune import schema


def add_parser(commands: Any) -> None:
    """Add `config`."""
    parser = commands.add_parser(
        "config",
        help="bring an older run's config.yaml up to date; print the page of all fields",
        description="Look after the fields of runs.",
    )
    inner = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    docs = inner.add_parser(
        "docs",
        help="print the page of all fields",
        description="Print docs/fields.md: all fields of training, pruning, evaluations and "
        "studies.",
    )
    docs.set_defaults(run=run_docs)
    upgrade = inner.add_parser(
        "upgrade",
        help="write a run's config.yaml with the names that fields have",
        description="Write the config.yaml of a run, a pruning and its rounds, or an evaluation "
        "with the names that fields have. Nothing else is changed.",
    )
    upgrade.add_argument("folder", type=Path, metavar="RUN", help="the folder of a run")
    upgrade.set_defaults(run=run_upgrade)


def run_docs(_: argparse.Namespace) -> int:
    """Print docs/fields.md."""
    from megaprune.config.field_docs import markdown
    from megaprune.config.run import Config
    from megaprune.evaluation.config import EvaluateConfig
    from megaprune.harmonizing.config import HarmonizeConfig
    from megaprune.pruning.config import PruneConfig
    from megaprune.study.config import StudyConfig

    kinds = (
        ("train, prune and plan", Config),
        ("prune and plan", PruneConfig),
        ("evaluate", EvaluateConfig),
        ("harmonize and plan", HarmonizeConfig),
        ("study", StudyConfig),
    )
    print(markdown(kinds), end="")
    return 0


def _configs_inside(run: Path) -> Iterator[Path]:
    """The config.yaml files of the jobs of a pruning or a harmonizing."""
    for pattern in ("round_*", "round_*/*", schema.BEFORE_FOLDER, schema.AFTER_FOLDER):
        yield from run.glob(f"{pattern}/{schema.CONFIG_FILE}")


def run_upgrade(options: argparse.Namespace) -> int:
    """Write config.yaml files anew; say what changed."""
    from yaml import YAMLError

    from megaprune.config.run import Config
    from megaprune.config.upgrade import upgraded
    from megaprune.errors import InputError
    from megaprune.evaluation.config import EvaluateConfig
    from megaprune.files import replace_text, writing
    from megaprune.harmonizing.config import HarmonizeConfig
    from megaprune.lease import Lease
    from megaprune.pruning.config import PruneConfig

    run: Path = options.folder
    if not (run / "config.yaml").is_file():
        raise InputError(f"{run} has no config.yaml; expected the folder of a run")
    for folder in (run, *sorted(path.parent for path in _configs_inside(run))):
        path = folder / "config.yaml"
        lease = Lease(folder / schema.LEASE_FILE, folder)
        try:
            text = path.read_text(encoding="utf-8")
            new, changes = upgraded(text, (Config, PruneConfig, EvaluateConfig, HarmonizeConfig))
            with writing(path):
                replace_text(path, new)
        except (YAMLError, InputError, UnicodeDecodeError) as error:
            raise InputError(
                f"{path} cannot be read as a run's configuration ({' '.join(str(error).split())})"
            ) from error
        finally:
            lease.close()
        print(f"megaprune: {path}: {'; '.join(changes) or 'nothing to change'}")
    return 0
