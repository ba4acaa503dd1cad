"""`megaprune data`: make problem sets."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from megaprune.data import sources, templates
from megaprune.data.sets import SETS, ProblemSet
from megaprune.errors import InputError
from megaprune.files import check_output

if TYPE_CHECKING:
    from megaprune.data.make import Budgets
    from megaprune.data.sources import SourceFiles


def add_parser(commands: Any) -> None:
    """Add `data [NAME] --out FILE`."""
    command = commands.add_parser(
        "data",
        help="make problem sets for training and evaluation",
        description="Make a parquet file in verl's columns from a set with a name (--list), or "
        "from a source of your own: problems in a family's prompt, with the limit of tokens in "
        "it. Every row of the source is written, or counted under the reason why not.",
        epilog=f"INPUT\n{_indented(sources)}\n\nTEMPLATE\n{_indented(templates)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("name", nargs="?", metavar="NAME", help="of a set")
    command.add_argument("--list", action="store_true", help="print the sets, and end")
    command.add_argument(
        "--out",
        metavar="FILE",
        help="written here; with several limits it holds {limit}, and each has a file",
    )
    command.add_argument(
        "--input", metavar="SOURCE", help="where the rows are (default: the set's, on the hub)"
    )
    command.add_argument(
        "--revision", metavar="COMMIT", help="branch, tag or commit of the hub's repository"
    )
    command.add_argument(
        "--limit",
        type=_limits,
        default=(None,),
        metavar="N[,N...]",
        help="tokens, said in the prompt",
    )
    _add_budget(command)
    prompt = command.add_mutually_exclusive_group()
    prompt.add_argument(
        "--family",
        choices=templates.TEMPLATES,
        help="of models, whose prompt is used (default plain)",
    )
    prompt.add_argument("--template", metavar="FILE", help="a prompt of your own, in YAML")
    command.add_argument(
        "--fast",
        action="store_true",
        help="ask for short thoughts: the fast-solving prompt that O1-Pruner is compared with",
    )
    _add_own(command.add_argument_group("a source without a set's name, or in columns of its own"))
    _add_overlap(command.add_argument_group("problems that are in evaluation sets too"))
    command.add_argument(
        "--overwrite", action="store_true", help="replace problem sets that are there already"
    )
    command.add_argument("--json", action="store_true", help="print the report as JSON")
    command.set_defaults(run=run_data)


def _add_budget(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--budget",
        type=_range,
        metavar="LOW:HIGH",
        help="tokens drawn for each problem, said in its prompt and kept for the rewards "
        "budget_exact and budget_max",
    )
    command.add_argument(
        "--budget-as",
        choices=("exact", "max"),
        default="exact",
        help="whether prompts ask for so many tokens, or for no more (default exact)",
    )
    command.add_argument(
        "--seed", type=_seed, default=0, metavar="N", help="of the budgets (default 0)"
    )


def _add_own(own: Any) -> None:
    own.add_argument("--source", metavar="NAME", help="its data_source")
    own.add_argument("--problem-column", metavar="COLUMN", help="COLUMN.FIELD for a field of it")
    own.add_argument("--answer-column", metavar="COLUMN", help="the same for the answer")
    for what, chosen, doc in (
        ("duplicates", "drop", "of problems that come again: the first is taken, or all"),
        ("instructions", "keep", "around problems, that ask for a form of the answer"),
    ):
        own.add_argument(
            f"--{what}",
            choices=("keep", "drop"),
            default=chosen,
            help=f"{doc} (default {chosen})",
        )
    own.add_argument("--split", metavar="WORD", help="train or test, say (default: the set's)")


def _add_overlap(group: Any) -> None:
    group.add_argument(
        "--against",
        nargs="+",
        default=[],
        metavar="[SET=]SOURCE",
        help="sets that are measured on; a set's name alone is fetched",
    )
    group.add_argument(
        "--against-column",
        metavar="COLUMN",
        help="where their problems stand, if it is none of the usual columns",
    )
    group.add_argument(
        "--near",
        type=_share,
        default=0.8,
        metavar="SHARE",
        help="of words in common, that makes a near-duplicate (default 0.8)",
    )
    end = group.add_mutually_exclusive_group()
    end.add_argument(
        "--refuse-overlap", action="store_true", help="write nothing if there are duplicates"
    )
    end.add_argument(
        "--drop-overlap", action="store_true", help="leave exact and near duplicates out"
    )


def run_data(options: argparse.Namespace) -> int:
    """Make the files, print the report."""
    from megaprune.data import show

    if options.list:
        show.print_sets()
        return 0
    from megaprune.data import make
    from megaprune.data.collect import collect

    known = _known(options)
    outs = _outs(options)
    template = templates.load_template(options.template or options.family or "plain")
    if options.fast:
        template = template.asking_for_speed()
    source = sources.open_source(options.input or _on_the_hub(known), options.revision)
    others = _others(options.against)
    inputs = [source, *(other for other, _ in others.values())]
    read = [file for files in inputs for file in files.files]
    for out in outs.values():
        check_output(out, *read, overwrite=options.overwrite, is_ours=make.is_made)
    ours = collect(
        source,
        known,
        options.problem_column,
        options.answer_column,
        keep_duplicates=options.duplicates == "keep",
        keep_instructions=options.instructions == "keep",
    )
    measured = {
        name: collect(other, its, options.against_column, compared_only=True)
        for name, (other, its) in others.items()
    }
    overlaps = make.find_overlaps(ours, measured, options.near)
    if options.refuse_overlap:
        make.refuse_overlaps(overlaps)
    if options.drop_overlap:
        ours = make.drop_overlaps(ours, overlaps)
    about = {
        "set": known.name if known else options.source,
        "input": source.name,
        "commit": source.commit,
        "rows": ours.rows,
        "written": len(ours.questions),
        "dropped": dict(ours.dropped),
        "kept_duplicates": dict(ours.kept_duplicates),
        "instructions": {"kept": options.instructions == "keep", "rows": dict(ours.instructions)},
        "overlap": {"near": options.near, "pairs": {o.name: o.counts() for o in overlaps}},
    }
    split = options.split or (known.split if known else "train")
    budgets = _budgets(options)
    for limit, out in outs.items():
        make.write(out, ours, split, template, limit, about, budgets)
    pairs = [pair for overlap in overlaps for pair in overlap.as_json()]
    if options.json:
        files = [{"path": str(out), "limit": limit} for limit, out in outs.items()]
        print(json.dumps({**about, "pairs": pairs, "files": files}))
    else:
        show.print_report(about, pairs, [str(out) for out in outs.values()])
    return 0


def _budgets(options: argparse.Namespace) -> Budgets | None:
    """The tokens that prompts ask for, if they do."""
    from megaprune.data.make import Budgets

    if not options.budget:
        return None
    low, high = options.budget
    return Budgets(low, high, options.seed, options.budget_as)


def _known(options: argparse.Namespace) -> ProblemSet | None:
    """Return the set that was named; None for a source of the user's own."""
    if options.name is not None and options.source is not None:
        raise InputError(f"a set, {options.name}, and --source {options.source}; give one of them")
    if options.name is not None:
        return _set(options.name)
    if options.source is None or options.input is None:
        raise InputError(
            "say which set (megaprune data --list), or give --input SOURCE --source NAME for one "
            "of your own"
        )
    if options.source in SETS:
        raise InputError(f"--source {options.source} is a set's name; give it without --source")
    return None


def _set(name: str) -> ProblemSet:
    if name not in SETS:
        from megaprune.config.fields import nearest

        raise InputError(
            f"there is no set {name!r}; {nearest(name, list(SETS))} (for one of your own, give "
            f"--source {name} --input SOURCE in its place)"
        )
    return SETS[name]


def _on_the_hub(known: ProblemSet | None) -> str:
    assert known is not None, "a source of one's own has an input"
    if not known.on_hub:
        raise InputError(
            f"{known.name} is {known.files} in {known.place}, which is not fetched; get it, and "
            f"give --input FILE (in --against: {known.name}=FILE)"
        )
    return f"{sources.HUB}{known.repository}:{known.files}"


def _outs(options: argparse.Namespace) -> dict[int | None, Path]:
    """Return the file of each limit."""
    if options.out is None:
        raise InputError("--out FILE must be given")
    if options.budget and options.limit != (None,):
        raise InputError("--limit and --budget both put tokens into the prompt; give one of them")
    place = "{limit}"
    if place in options.out and options.limit == (None,):
        raise InputError(f"--out {options.out} holds {place}, and there is no --limit; give one")
    if place not in options.out and len(options.limit) > 1:
        raise InputError(
            f"--out {options.out}: {len(options.limit)} limits need as many files; put {place} "
            f"into the name, as in train_{place}.parquet"
        )
    return {limit: Path(options.out.replace(place, str(limit))) for limit in options.limit}


def _others(given: Sequence[str]) -> dict[str, tuple[SourceFiles, ProblemSet | None]]:
    """Open the sets of --against, by name."""
    others: dict[str, tuple[SourceFiles, ProblemSet | None]] = {}
    for text in given:
        name, equals, where = text.partition("=")
        if name in SETS and (equals or not Path(text).exists()):
            known: ProblemSet | None = SETS[name]
            where = where or _on_the_hub(known)
        elif equals and not Path(text).exists() and not text.startswith(sources.HUB):
            _set(name)
        else:
            name, where, known = text, text, None
        if name in others:
            raise InputError(f"--against has {name} twice; give each once")
        others[name] = sources.open_source(where), known
    return others


def _limits(text: str) -> tuple[int, ...]:
    try:
        limits = tuple(int(part) for part in text.split(","))
    except ValueError:
        limits = ()
    if not limits or min(limits) < 1 or len(set(limits)) < len(limits):
        raise argparse.ArgumentTypeError(
            f"{text!r}; expected numbers of tokens above 0, each once, as in 4000,3000,2000"
        )
    return limits


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}; expected a whole number, 0 or more")
    return int(text)


def _range(text: str) -> tuple[int, int]:
    low, colon, high = text.partition(":")
    if colon and low.isdecimal() and high.isdecimal() and 1 <= int(low) <= int(high):
        return int(low), int(high)
    raise argparse.ArgumentTypeError(
        f"{text!r}; expected two numbers of tokens above 0, the smaller one first, as in 500:4000"
    )


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a share above 0 and 1 at most")
    return share


def _indented(module: ModuleType) -> str:
    """Return the docstring of a module, indented."""
    return textwrap.indent((module.__doc__ or "").strip(), "  ")
