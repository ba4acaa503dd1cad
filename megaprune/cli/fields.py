"""The fields of a command: its arguments, and the options that tell of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

AnyConfig = TypeVar("AnyConfig")


def add_field_arguments(command: argparse.ArgumentParser) -> None:
    """Add fields as arguments, and the options that tell of them."""
    command.add_argument(
        "fields",
        nargs="*",
        metavar="key=value",
        help="recipe=NAME (or a YAML file), then any field that --print-config shows",
    )
    command.add_argument(
        "--print-config", action="store_true", help="print the configuration as YAML, and end"
    )
    command.add_argument(
        "--help-fields",
        nargs="?",
        const="",
        metavar="NAME",
        help="list all fields with type, default, bounds and unit, or those of this name, and end",
    )


def add_check(command: argparse.ArgumentParser) -> None:
    """Add `--check`, of a command that starts processes."""
    command.add_argument(
        "--check",
        type=int,
        metavar="PROCESSES",
        help="only see whether so many processes can do this; nothing is started or written",
    )


def read_or_print(
    options: argparse.Namespace,
    kind: type[Any],
    read: Callable[[Sequence[str]], AnyConfig],
    problems: Callable[[AnyConfig], Iterable[str]] | None = None,
) -> AnyConfig | None:
    """Read a command's configuration; None if its options ask only to print something of it.

    Args:
        options: of the command line.
        kind: the configuration's class, whose fields `--help-fields` lists.
        read: reads the fields.
        problems: yields what is wrong with the fields together.

    Raises:
        InputError: something is wrong with the fields.
    """
    from megaprune.config.field_docs import show_fields
    from megaprune.config.read import to_yaml
    from megaprune.rules import refuse

    if options.help_fields is not None:
        show_fields(kind, options.help_fields)
        return None
    config = read(options.fields)
    if problems is not None:
        refuse(problems(config))
    if options.print_config:
        print(to_yaml(config), end="")
        return None
    return config
