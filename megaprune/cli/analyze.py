"""`megaprune analyze`."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megaprune.errors import InputError

if TYPE_CHECKING:
    from megaprune.analyze.settings import Endpoint

_JUDGED = 100
"""Answers of each input that a judge is asked about, unless it is said how many."""


def add_parser(commands: Any) -> None:
    """Add `analyze`."""
    command = commands.add_parser(
        "analyze",
        help="say what the thoughts of a model consist of",
        description="Count re-checks, hesitations and restarts in a model's thoughts; with "
        "--endpoint, have another model name the behaviour of each step. Of several inputs, as "
        "before and after pruning, the same problems are taken. The same command again goes on "
        "where it was.",
    )
    command.add_argument(
        "paths",
        nargs="+",
        metavar="[NAME=]PATH",
        help="an evaluation's folder, a run's (its first and last validation), or a parquet file",
    )
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="written here")
    command.add_argument(
        "--mode",
        choices=("lexical", "judge"),
        help="count words alone, or ask a judge too (default: judge with --endpoint)",
    )
    _number(command, "--answers", "problems of each input (default: all; 100 with a judge)")
    _number(command, "--seed", "of which problems (default 0)", default=0, least=0)
    command.add_argument(
        "--close", default="</think>", metavar="TAG", help="ends a thought (default </think>)"
    )
    command.add_argument("--json", action="store_true", help="print analysis.json")
    _add_judge(command.add_argument_group("judge"))
    command.set_defaults(run=run_analyze)


def _add_judge(group: Any) -> None:
    group.add_argument("--endpoint", metavar="URL", help="as in http://localhost:8000/v1")
    group.add_argument("--model", metavar="NAME", help="the endpoint's name for the judge")
    group.add_argument(
        "--key-variable",
        default="OPENAI_API_KEY",
        metavar="NAME",
        help="environment variable that has the endpoint's key, if it wants one "
        "(default OPENAI_API_KEY)",
    )
    _number(group, "--max-steps", "longer thoughts are left out (default 400)", default=400)
    _number(group, "--reply-tokens", "of a reply at most (default: 256 and 32 for each step)")
    _number(group, "--parallel", "requests at once (default 4)", default=4)
    _number(group, "--requests-per-minute", "at most", kind=float)
    _number(group, "--timeout", "seconds for a reply (default 300)", default=300.0, kind=float)
    _number(group, "--retries", "after failures that may pass (default 5)", default=5, least=0)
    _number(group, "--price-in", "of a million tokens of prompts", least=0, kind=float)
    _number(group, "--price-out", "of a million tokens of replies", least=0, kind=float)
    _number(group, "--limit-cost", "ask no more when this is spent; needs prices", kind=float)


def _number(
    parser: Any, name: str, help: str, *, default: Any = None, least: float = 1, kind: Any = int
) -> None:
    """An option that takes a number; of a float whose least is 1, anything above 0."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        fits = value is not None and (value > 0 if kind is float and least else value >= least)
        if not fits or value == float("inf"):
            words = "a number above 0" if kind is float and least else f"a number from {least:g}"
            raise argparse.ArgumentTypeError(f"{text!r}; expected {words}")
        return value

    parser.add_argument(name, type=parse, default=default, metavar="N", help=help)


def run_analyze(options: argparse.Namespace) -> int:
    """Analyse, print a table or JSON, and where the files are."""
    endpoint = _endpoint(options)
    from megaprune import schema
    from megaprune.analyze.run import analyze
    from megaprune.analyze.settings import AnalysisSettings, JudgeLimits
    from megaprune.analyze.summary import table
    from megaprune.foreign_text import terminal

    answers = options.answers or (_JUDGED if endpoint else None)
    limits = JudgeLimits(
        options.parallel,
        options.reply_tokens,
        options.price_in,
        options.price_out,
        options.limit_cost,
    )
    settings = AnalysisSettings(
        options.paths, options.out, answers, options.seed, options.close, options.max_steps
    )
    analysis = analyze(settings, endpoint, limits)
    if options.json:
        print(json.dumps(analysis, indent=2))
        return 0
    console = terminal(highlight=False, soft_wrap=True)
    console.print(table(analysis))
    if analysis["cost"] is not None:
        console.print(_cost(analysis["cost"]))
    for name in (schema.ANALYSIS_FILE, schema.BEHAVIOURS_FILE):
        console.print(str(options.out / name), style="dim", markup=False)
    return 0


def _endpoint(options: argparse.Namespace) -> Endpoint | None:
    """Where the judge is; None if there is to be none."""
    mode = options.mode or ("judge" if options.endpoint else "lexical")
    if mode == "lexical":
        if options.endpoint:
            raise InputError("--mode lexical asks no --endpoint; give one of them")
        return None
    if not (options.endpoint and options.model):
        raise InputError("a judge needs --endpoint URL and --model NAME; give both")
    priced = options.price_in is not None and options.price_out is not None
    if options.limit_cost is not None and not priced:
        raise InputError("--limit-cost needs --price-in and --price-out")
    from megaprune.analyze.settings import Endpoint

    try:
        import httpx  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"a judge is asked with httpx, which cannot be imported ({error}); install it with: "
            f"pip install httpx"
        ) from error
    return Endpoint(
        options.endpoint,
        options.model,
        os.environ.get(options.key_variable) or None,
        options.key_variable,
        options.timeout,
        options.retries,
        options.requests_per_minute,
    )


def _cost(cost: dict[str, Any]) -> str:
    replies = ", ".join(f"{count} {kind}" for kind, count in cost["replies"].items())
    spent = "" if cost["cost"] is None else f", {cost['cost']:.4f} spent"
    tokens = f"{cost['tokens_in']} tokens in, {cost['tokens_out']} out"
    return f"replies: {replies or 'none'}; {tokens}{spent}"
