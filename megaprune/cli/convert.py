"""`megaprune convert`: to-megatron, to-hf, verify, inspect."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megaprune.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from megaprune.weights.convert import Conversion
    from megaprune.weights.verify import Begin, Progress

# torch takes seconds to import: it is imported when a command runs, not to print its help.


def add_parser(commands: Any) -> None:
    """Add `convert` and its subcommands."""
    convert = commands.add_parser(
        "convert", help="convert checkpoints between Hugging Face and Megatron-core, and prove it"
    )
    jobs = convert.add_subparsers(dest="job", required=True, metavar="JOB")
    for add in (add_to_megatron, add_to_hf, add_verify, add_inspect):
        add(jobs)


def add_to_megatron(jobs: Any) -> None:
    """`to-megatron --hf DIR --out DIR`."""
    job = jobs.add_parser("to-megatron", help="Hugging Face -> Megatron-core torch_dist")
    job.add_argument("--hf", type=Path, required=True, metavar="DIR", help="the model to convert")
    job.add_argument(
        "--pad-vocab-to-multiple-of",
        type=int,
        default=1,
        metavar="N",
        help="add rows of zeros to the vocabulary (default 1: none; Megatron-core pads on loading)",
    )
    _add_output(job)
    job.set_defaults(run=run_to_megatron)


def add_to_hf(jobs: Any) -> None:
    """`to-hf --megatron DIR --out DIR`."""
    job = jobs.add_parser("to-hf", help="Megatron-core torch_dist -> Hugging Face")
    job.add_argument(
        "--megatron", type=Path, required=True, metavar="DIR", help="checkpoint, or a run's folder"
    )
    job.add_argument(
        "--hf",
        type=Path,
        metavar="DIR",
        help="a Hugging Face folder of the same model, for config.json and tokenizer files; needed "
        "where the checkpoint does not keep them",
    )
    job.add_argument(
        "--max-shard-size",
        type=_bytes,
        default=5 * 10**9,
        metavar="SIZE",
        help="bytes of a safetensors file at the most (default 5GB)",
    )
    _add_trust(job)
    _add_claims(job)
    _add_output(job)
    job.set_defaults(run=run_to_hf)


def add_verify(jobs: Any) -> None:
    """`verify A [B]`."""
    job = jobs.add_parser(
        "verify",
        help="compare what two folders of either format hold, byte by byte",
        description="Compare B with A, tensor by tensor and byte by byte, and with B's manifest if "
        "it has one; else write it. With one folder: compare it with its manifest.",
    )
    job.add_argument("a", type=Path, metavar="A")
    job.add_argument("b", type=Path, metavar="B", nargs="?")
    _add_dtype(job, "convert A's elements to this before comparing")
    _add_trust(job)
    _add_claims(job)
    _add_json(job)
    job.set_defaults(run=run_verify)


def add_inspect(jobs: Any) -> None:
    """`inspect DIR`."""
    job = jobs.add_parser("inspect", help="list what a folder of either format holds")
    job.add_argument("dir", type=Path, metavar="DIR")
    _add_trust(job)
    _add_json(job)
    job.set_defaults(run=run_inspect)


def run_to_megatron(options: argparse.Namespace) -> int:
    """Convert, print what was done."""
    from megaprune.weights import convert

    with _progress(options.json) as begin:
        done = convert.hf_to_megatron(
            options.hf,
            options.out,
            begin,
            dtype=convert.DTYPES.get(options.dtype),
            vocab_multiple=options.pad_vocab_to_multiple_of,
            overwrite=options.overwrite,
            check=options.verify,
        )
    return _report(done, options.json)


def run_to_hf(options: argparse.Namespace) -> int:
    """Convert, print what was done."""
    from megaprune.weights import convert

    with _progress(options.json) as begin:
        done = convert.megatron_to_hf(
            options.megatron,
            options.out,
            begin,
            hf=options.hf,
            dtype=convert.DTYPES.get(options.dtype),
            max_shard=options.max_shard_size,
            overwrite=options.overwrite,
            check=options.verify,
            trust=options.trust,
            digests="full" if options.verify else "off",
            keep_vocabulary=options.keep_vocabulary,
            ignored=options.ignore_argument,
        )
    return _report(done, options.json)


def run_verify(options: argparse.Namespace) -> int:
    """Compare, print every difference; status 1 if there is one."""
    from rich.filesize import decimal

    from megaprune.weights.convert import DTYPES
    from megaprune.weights.verify import verify, verify_manifest

    with _progress(options.json) as begin:
        if options.b is None:
            if options.dtype:
                raise InputError("--dtype converts A before it is compared with B; there is no B")
            verdict = verify_manifest(options.a, begin, options.trust)
        else:
            dtype = DTYPES.get(options.dtype)
            verdict = verify(
                options.a,
                options.b,
                begin,
                dtype,
                options.trust,
                options.keep_vocabulary,
                options.ignore_argument,
            )
    equal = not verdict.differences
    if options.json:
        print(json.dumps({"equal": equal, **asdict(verdict)}, indent=1))
        return 0 if equal else 1
    _show("note", "yellow", verdict.notes)
    _show("differs", "red", verdict.differences)
    _show("generation differs", "yellow", verdict.generation)
    size = f"{verdict.tensors} tensors, {decimal(verdict.nbytes)} compared"
    weights_only = "weights " if verdict.generation else ""
    _show(*((f"{weights_only}equal", "green") if equal else ("not equal", "red")), [size])
    return 0 if equal else 1


def run_inspect(options: argparse.Namespace) -> int:
    """Print a table of the folder's tensors."""
    from rich.filesize import decimal
    from rich.table import Table
    from rich.text import Text

    from megaprune.weights.inspect import inspect
    from megaprune.weights.untrusted import named

    contents = inspect(options.dir, options.trust)
    if options.json:
        print(json.dumps(asdict(contents), indent=1, default=str))
        return 0
    table = Table("tensor", "type", "shape", "size", "in", title=Text(str(contents.path)))
    table.columns[0].no_wrap = True
    for entry in contents.entries:
        files = entry.files[0] if len(entry.files) == 1 else f"{len(entry.files)} files"
        shape = " x ".join(map(str, entry.shape))
        name = Text(named(entry.name))  # a stranger's: no markup
        table.add_row(name, entry.dtype, shape, decimal(entry.nbytes), Text(named(files)))
    _console().print(table)
    total = decimal(sum(entry.nbytes for entry in contents.entries))
    size = f"{len(contents.entries)} tensors, {total}"
    _show(contents.format, "green", [f"{contents.architecture}, {size}"])
    _show("note", "yellow", contents.notes)
    return 0


def _add_output(job: argparse.ArgumentParser) -> None:
    job.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to make")
    _add_dtype(job, "convert elements to this (default: keep each tensor's type)")
    job.add_argument("--overwrite", action="store_true", help="replace --out if megaprune made it")
    job.add_argument(
        "--no-verify",
        dest="verify",
        action="store_false",
        help="do not read the output back and compare it with the input, nor compare a run's "
        "checkpoint with its digests",
    )
    _add_json(job)


def _add_dtype(job: argparse.ArgumentParser, text: str) -> None:
    job.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help=text)


def _add_trust(job: argparse.ArgumentParser) -> None:
    job.add_argument(
        "--trust",
        action="store_true",
        help="take a checkpoint whose .metadata or common.pt names classes that neither "
        "Megatron-core nor torch writes there: they are passed over (and not run) instead of "
        "refused",
    )


def _add_claims(job: argparse.ArgumentParser) -> None:
    job.add_argument(
        "--keep-vocabulary",
        action="store_true",
        help="keep rows of a checkpoint's vocabulary that config.json's vocab_size leaves out and "
        "that are no padding (added tokens), with a config.json that says so, instead of refusing "
        "it",
    )
    job.add_argument(
        "--ignore-argument",
        action="append",
        default=[],
        metavar="NAME",
        help="a training argument, stored in the checkpoint and not known here, that changes "
        "nothing of what the model computes; may be given more than once",
    )


def _add_json(job: argparse.ArgumentParser) -> None:
    job.add_argument("--json", action="store_true", help="print the result as JSON, no progress")


def _bytes(text: str) -> int:
    """ "5GB", "500 MB", "2GiB" or a number of bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(i?))?B?", text.strip(), re.IGNORECASE)
    if not match or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; expected one like 5GB or 2GiB")
    base = 1024 if match[3] else 1000
    return max(1, int(float(match[1]) * base ** " KMGT".index((match[2] or " ").upper())))


def _report(done: Conversion, as_json: bool) -> int:
    if as_json:
        print(json.dumps(asdict(done), indent=1, default=str))
        return 0
    from rich.filesize import decimal

    proof = "read back and equal to the input" if done.verified else "not verified"
    size = f"{done.tensors} tensors, {decimal(done.nbytes)}"
    _show("note", "yellow", done.notes)
    _show("done", "green", [f"{done.out}: {size}, {proof}"])
    return 0


def _console() -> Console:
    """Standard output; where it is a file or a pipe, lines are as long as they need to be."""
    from megaprune.foreign_text import terminal

    console = terminal(highlight=False)
    return console if console.is_terminal else terminal(highlight=False, width=200)


def _show(word: str, colour: str, lines: list[str]) -> None:
    """Print lines that begin with a coloured word."""
    from rich.text import Text

    console = _console()
    for line in lines:
        console.print(Text.assemble((word, colour), " ", line), soft_wrap=True)


@contextlib.contextmanager
def _progress(quiet: bool) -> Iterator[Begin]:
    """Bars of tensors, bytes and rate on standard error."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import (
        Progress as Bars,
    )

    from megaprune.foreign_text import terminal

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[done]}/{task.fields[tensors]} tensors"),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=terminal(stderr=True), disable=quiet) as bars:

        def begin(what: str, tensors: int, nbytes: int) -> Progress:
            task = bars.add_task(what, total=nbytes, tensors=tensors, done=0)
            count = 0

            def advance(tensor: str, size: int, complete: bool) -> None:
                nonlocal count
                count += complete
                bars.update(task, advance=size, done=count)

            return advance

        yield begin
