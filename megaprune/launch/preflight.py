"""Before a job of several nodes starts: does each see the folder, and are all alike?

    python -m megaprune.launch.preflight node --shared DIR --name NODE --token TOKEN --gpus N ...
    python -m megaprune.launch.preflight compare --shared DIR --nodes A,B --token TOKEN --gpus N ...

`node` runs on each node and leaves a file in the folder; `compare` runs on one of them, reads all
files and prints a line for each problem. Nothing but the standard library is imported: it must not
take longer than the job's own start.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megaprune.files import replace_text
from megaprune.foreign_text import for_people
from megaprune.launch.node_report import KEYS, PACKAGES, describe_node

POLL = 0.1
"""Seconds between looks into the folder."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; its exit status."""
    options = _parser().parse_args(arguments)
    return int(options.run(options))


def run_node(options: argparse.Namespace) -> int:
    """Write what this node has into the shared folder."""
    shared = Path(options.shared)
    try:
        # Not made if it is not there: that would hide a disk that is not mounted.
        if not shared.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(shared))
        content = describe_node(shared, options.token, options.port, options.venv)
        replace_text(shared / f"{options.name}.json", json.dumps(content))
    except OSError as error:
        print(f"{options.name}: {_advice(error, shared)}", file=sys.stderr)
        return 1
    return 0


def _advice(error: OSError, shared: Path) -> str:
    """Say what to do about a folder that cannot be used."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"there is no folder {shared} here; mount it on this node, or give another --shared"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{shared} is full ({reason}); make room, or give another --shared"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return (
            f"{shared} cannot be written ({reason}); mount it writable for this user, or give "
            f"another --shared"
        )
    return f"{shared} cannot be used: {reason}; give another --shared"


@dataclass(frozen=True)
class NodeReport:
    """The file of a node, and when it was seen.

    Args:
        content: the file's JSON.
        arrived: when it was first seen.
        absent: when it was last looked for in vain; None if it was there from the start.
        stamped: its time as the file system stamped it.
    """

    content: dict[str, Any]
    arrived: float
    absent: float | None
    stamped: float


def run_compare(options: argparse.Namespace) -> int:
    """Wait for the nodes' files, and print what is wrong with them."""
    shared, nodes = Path(options.shared), options.nodes
    try:
        ahead = _file_clock(shared)
        reports, strangers = _collect(shared, nodes, options.token, options.wait)
    except OSError as error:
        print(f"{nodes[0]}: {_advice(error, shared)}")
        return 1
    problems = []
    for node in nodes:
        if node in reports:
            problems += [
                f"{node}: {problem}" for problem in _problems(reports[node], ahead, options)
            ]
            continue
        text = (
            f"did not answer within {options.wait:g} s, or does not see {shared}: it is not the "
            f"same shared folder, or the environment is missing there"
        )
        if node in strangers:
            text = f"{strangers[node]}; it {text}"
        problems.append(f"{node}: {text}")
    present = [node for node in nodes if node in reports]
    for node in present[1:]:
        problems += _differences(present[0], node, reports)
    for problem in problems:
        print(for_people(problem))
    if not problems:
        who = "1 node agrees" if len(nodes) == 1 else f"{len(nodes)} nodes agree"
        print(f"{who}: {_agreed(reports, options)}")
    return int(bool(problems))


def _file_clock(shared: Path) -> float:
    """Measure by how many seconds the file system's clock is ahead of this node's."""
    before = time.time()
    with tempfile.NamedTemporaryFile(dir=shared, prefix=".clock.") as probe:
        after = time.time()
        return os.fstat(probe.fileno()).st_mtime - (before + after) / 2


def _collect(
    shared: Path, nodes: Sequence[str], token: str, wait: float
) -> tuple[dict[str, NodeReport], dict[str, str]]:
    """Wait for all reports with this token; return them, and what is wrong with other files.

    Raises:
        OSError: the folder cannot be read.
    """
    reports: dict[str, NodeReport] = {}
    strangers: dict[str, str] = {}
    looked: float | None = None
    end = time.monotonic() + wait
    while True:
        last = time.monotonic() >= end
        # Network file systems remember for seconds that a file was not there, but not what a
        # folder holds when it is opened anew.
        began, names = time.time(), set(os.listdir(shared))
        for node in nodes:
            if node in reports or f"{node}.json" not in names:
                continue
            path = shared / f"{node}.json"
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                stamped = path.stat().st_mtime
            except FileNotFoundError:  # just replaced
                continue
            except ValueError:
                strangers[node] = f"its file {path} is not JSON"
                continue
            if not isinstance(content, dict) or content.get("token") != token:
                theirs = content.get("token") if isinstance(content, dict) else None
                strangers[node] = f"its file has the token {theirs!r} of another run, not {token!r}"
                continue
            lacking = KEYS - content.keys()
            if lacking:
                strangers[node] = (
                    f"its file lacks {', '.join(sorted(lacking))}: another megaprune wrote it"
                )
                continue
            reports[node] = NodeReport(content, time.time(), looked, stamped)
        if last or len(reports) == len(nodes):
            return reports, strangers
        looked = began
        time.sleep(POLL)


def _problems(report: NodeReport, ahead: float, options: argparse.Namespace) -> Iterator[str]:
    """Say what is wrong with a node by itself."""
    content = report.content
    if options.gpus > 0:
        usable, error = _usable(content), content["gpu_error"]
        if usable < options.gpus:
            visible = content["cuda_visible_devices"]
            text = f"{usable} GPUs, and {options.gpus} are needed"
            if error:
                text += f" ({error})"
            elif usable < content["gpus"]:
                text += f" (it has {content['gpus']}, and CUDA_VISIBLE_DEVICES={visible})"
            yield text
    if content["venv"] is not None and content["python"] is None:
        yield f"there is no environment {content['venv']}"
    if not content["writable"]:
        yield f"{options.shared} is not writable"
    if content["free"] < options.min_free:
        yield (
            f"{content['free']} bytes free in {options.shared}, and {options.min_free} are needed"
        )
    if content["port_error"]:
        yield f"port {content['port']} cannot be used: {content['port_error']}"
    apart = _clock_difference(report, ahead, options.max_clock_skew)
    if apart is not None:
        yield apart


def _usable(content: dict[str, Any]) -> int:
    """Count the GPUs that a process sees: those listed, less what CUDA_VISIBLE_DEVICES hides."""
    visible = content["cuda_visible_devices"]
    if visible is None:
        return int(content["gpus"])
    named = 0
    for word in visible.split(","):
        if word.strip() in ("", "-1", "NoDevFiles"):  # CUDA ignores what is behind
            break
        named += 1
    return min(int(content["gpus"]), named)


def _clock_difference(report: NodeReport, ahead: float, most: float) -> str | None:
    """Say how a node's clock differs from this node's by more than it may; None if it does not.

    Its time when it wrote the file is compared with three times of this node's clock: the file was
    not there when it was last looked for; it was there when it was first seen; and the file system
    stamped it. A server stamps by its own clock; a stamp by the node's says nothing.
    """
    written = float(report.content["time"])
    stamped = report.stamped - ahead
    text = "its clock is {:.1f} s {} that of the node that compares, or more (at most {:g} s)"
    if written - report.arrived > most:
        return text.format(written - report.arrived, "ahead of", most)
    if abs(written - stamped) > most:
        word = "ahead of" if written > stamped else "behind"
        return text.format(abs(written - stamped), word, most)
    if report.absent is not None and report.absent - written > most:
        behind = text.format(report.absent - written, "behind", most)
        return f"{behind}, or files are seen that much later than they are written"
    return None


def _differences(first: str, node: str, reports: dict[str, NodeReport]) -> Iterator[str]:
    """Say which versions of a node are not those of the first."""
    ours, theirs = reports[first].content, reports[node].content
    if theirs["python"] is None:
        return  # no environment: `_problems` says it
    pairs = {"python": (ours["python"], theirs["python"])}
    pairs |= {name: (ours["versions"].get(name), theirs["versions"].get(name)) for name in PACKAGES}
    for name, (expected, seen) in pairs.items():
        if expected != seen:
            yield f"{node}: {name} {seen or 'is missing'}, and {first} has {expected or 'none'}"


def _agreed(reports: dict[str, NodeReport], options: argparse.Namespace) -> str:
    contents = [report.content for report in reports.values()]
    first = contents[0]
    words = [f"python {first['python']}"]
    words += [f"{name} {number}" for name, number in first["versions"].items() if number]
    if options.gpus > 0:
        words.insert(0, f"{min(map(_usable, contents))} GPUs each")
    free = min(content["free"] for content in contents)
    return f"{', '.join(words)}, {free / (1 << 30):.1f} GiB free"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m megaprune.launch.preflight", description=(__doc__ or "").splitlines()[0]
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    node = commands.add_parser("node", help="say in the shared folder what this node has")
    compare = commands.add_parser("compare", help="read what all nodes said")
    for command in (node, compare):
        command.add_argument("--shared", required=True, metavar="DIR", help="all nodes see it")
        command.add_argument("--token", required=True, help="of this run; another's files are old")
        command.add_argument("--gpus", type=_number(int), required=True, metavar="N", help="needed")
    node.add_argument("--name", type=_name, required=True, metavar="NODENAME", help="of this node")
    node.add_argument(
        "--port", type=_number(int, 65535), metavar="P", help="that must be free on it"
    )
    node.add_argument("--venv", metavar="DIR", help="read versions there (default: this Python's)")
    node.set_defaults(run=run_node)
    compare.add_argument("--nodes", type=_names, required=True, metavar="A,B,...")
    compare.add_argument("--wait", type=_number(float), default=45, metavar="S", help="seconds")
    compare.add_argument(
        "--max-clock-skew", type=_number(float), default=5, metavar="S", help="seconds"
    )
    compare.add_argument(
        "--min-free", type=_number(int), default=1 << 30, metavar="BYTES", help="in the folder"
    )
    compare.set_defaults(run=run_compare)
    return parser


def _number(kind: Callable[[str], float], most: float = sys.maxsize) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = kind(text)
        if not 0 <= value <= most:
            raise ValueError
        return value

    number.__name__ = f"{kind.__name__} from 0 to {most}"  # argparse says it
    return number


def _name(text: str) -> str:
    if not text or "/" in text or text.startswith("."):
        raise argparse.ArgumentTypeError(f"{text!r} is no node's name")
    return text


def _names(text: str) -> list[str]:
    names = [_name(name) for name in text.split(",")]
    if len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{text!r} has a node twice")
    return names


if __name__ == "__main__":
    sys.exit(main())
