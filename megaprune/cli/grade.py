"""`megaprune grade`: verdicts on a file of responses."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from megaprune.cli.json_lines import objects_of, open_input, required_key
from megaprune.errors import InputError
from megaprune.files import check_output, new_file
from megaprune.grading.graders import BOXES
from megaprune.grading.thought import THOUGHTS

if TYPE_CHECKING:
    from megaprune.grading.pool import Pool
    from megaprune.grading.verdict import Verdict

# Lines read, graded and written at a time: enough for the workers, little to hold.
CHUNK = 1024

KEYS = {"gold": str, "response": str, "finished": bool}

_LONGEST_VERDICT = 1 << 20

_KINDS = {str: "a string", bool: "true or false"}


def add_parser(commands: Any) -> None:
    """Add `grade`."""
    job = commands.add_parser(
        "grade",
        help="say which responses are right",
        description='Grade a file of JSON lines {"gold": ..., "response": ..., "finished": true}. '
        "Writes a line of JSON for each (match, extracted, why) and a summary to standard error.",
    )
    job.add_argument("--input", required=True, metavar="FILE", help="JSON lines; - is stdin")
    job.add_argument(
        "--mode",
        default="strict",
        metavar="MODE",
        help="strict: the last complete box after the thought (default); last_box: that of the "
        "whole response; lenient: the last box anywhere, also of a response that was cut; answer: "
        "the response is the answer; olympiad: strict, of several answers; or your own, "
        "path/to/file.py:function",
    )
    job.add_argument(
        "--thought",
        choices=list(THOUGHTS),
        default="think",
        help="how models of the family mark a thought (default think: <think> and </think>)",
    )
    job.add_argument(
        "--boxes",
        choices=BOXES,
        default=BOXES[0],
        help="of boxes side by side at the end of an answer, all are one list (default), or the "
        "last is the answer",
    )
    job.add_argument("--output", metavar="FILE", help="write the verdicts here, not to stdout")
    job.add_argument(
        "--overwrite", action="store_true", help="replace verdicts that are there already"
    )
    job.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default 1)")
    job.add_argument(
        "--seconds", type=float, default=5.0, metavar="S", help="time for a response (default 5)"
    )
    job.add_argument(
        "--environment",
        action="append",
        default=[],
        metavar="NAME",
        help="an environment variable that a grader of your own gets (may be repeated); it gets "
        "those that Python needs, and no others",
    )
    job.set_defaults(run=run_grade)


def run_grade(options: argparse.Namespace) -> int:
    """Grade, print a verdict a line in the input's order, and a summary."""
    from megaprune.grading.pool import Pool

    why: Counter[str] = Counter()
    if options.output not in (None, "-"):
        sources = [Path(options.input)] if options.input != "-" else []
        check_output(
            Path(options.output), *sources, overwrite=options.overwrite, is_ours=_has_verdicts
        )
    with (
        open_input(options.input) as source,
        Pool(
            {},
            options.mode,
            workers=options.workers,
            seconds=options.seconds,
            variables=options.environment,
            boxes=options.boxes,
            thought=options.thought,
        ) as pool,
        _sink(options.output, options.overwrite) as sink,
    ):
        for verdict in _verdicts(_rows(source, options.input), pool):
            why[verdict.why] += 1
            print(json.dumps(_shown(verdict)), file=sink)
        stats = pool.stats
    rest = ", ".join(f"{count} {word}" for word, count in why.most_common() if word != "right")
    print(
        f"{why['right']} of {stats.graded} right"
        + (f"; {rest}" if rest else "")
        + f"; {stats.seconds:.1f} s of grading",
        file=sys.stderr,
    )
    return 0


def _verdicts(rows: Iterator[dict[str, Any]], pool: Pool) -> Iterator[Verdict]:
    """Yield a verdict for each row, in order."""
    while True:
        count = 0
        for count, row in zip(range(1, CHUNK + 1), rows, strict=False):
            pool.submit(count, "", **row)
        if not count:
            return
        verdicts = pool.results()
        yield from (verdicts[key] for key in range(1, count + 1))


def _rows(source: IO[str], name: str) -> Iterator[dict[str, Any]]:
    """Yield each line's gold, response and finished; an InputError names the line."""
    for where, row in objects_of(source, name, "gold, response"):
        row.setdefault("finished", True)
        for key, kind in KEYS.items():
            if not isinstance(required_key(row, key, where), kind):
                raise InputError(f"{where}: {key} is {row[key]!r}; expected {_KINDS[kind]}")
        yield {key: row[key] for key in KEYS}


def _shown(verdict: Verdict) -> dict[str, Any]:
    shown = {"match": verdict.match, "extracted": verdict.extracted, "why": verdict.why}
    return shown | ({"detail": verdict.detail} if verdict.detail else {})


def _has_verdicts(path: Path) -> bool:
    """Say whether a file begins as one that this command wrote."""
    try:
        with path.open(encoding="utf-8") as file:
            line = file.readline(_LONGEST_VERDICT)
        return not line or {"match", "extracted", "why"} <= json.loads(line).keys()
    except (ValueError, AttributeError, RecursionError):
        return False


@contextlib.contextmanager
def _sink(name: str | None, overwrite: bool) -> Iterator[IO[str]]:
    """Yield what verdicts are written to: a file is there when all of them are in it."""
    if name in (None, "-"):
        yield sys.stdout
    else:
        with (
            new_file(Path(str(name)), overwrite=overwrite) as new,
            new.open("w", encoding="utf-8") as file,
        ):
            yield file
