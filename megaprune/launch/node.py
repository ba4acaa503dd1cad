"""The processes of one node of a job: `python -m megaprune.launch.node`, in megaprune-node.

The first node serves the store at which all processes meet. In a job of one node it listens on the
loopback address alone; in one of several, on that of the network that --interface names.
"""

from __future__ import annotations

import argparse
import fcntl
import signal
import socket
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from megaprune.distributed.launchers import name_launcher
from megaprune.errors import InputError
from megaprune.files import replace_text
from megaprune.foreign_text import for_people

_LOOPBACK = "127.0.0.1"
_SIOCGIFADDR = 0x8915
ADDRESS_SECONDS = 300.0
"""How long nodes wait until the first one has said its address."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the processes and wait for them; returns the exit status."""
    options = _parser().parse_args(arguments)
    nodes = options.nodes.split(",")
    try:
        if options.name not in nodes:
            raise InputError(f"this node is {options.name}, which is not among {options.nodes}")
        number = nodes.index(options.name)
        listen, meet = _addresses(options, number, nodes)
    except InputError as error:
        print(f"megaprune: error: {options.name}: {for_people(str(error))}", file=sys.stderr)
        return 1
    return _torchrun(options, number, len(nodes), listen, meet)


def _addresses(options: argparse.Namespace, number: int, nodes: Sequence[str]) -> tuple[str, str]:
    """Return the address that the store listens on, empty for all, and where it is found."""
    if len(nodes) == 1:
        return _LOOPBACK, _LOOPBACK
    if not options.interface:
        return "", nodes[0]
    said = Path(options.shared) / f"address.{options.id}"
    if number == 0:
        own = address_of(options.interface)
        replace_text(said, own)
        return own, own
    end = time.monotonic() + ADDRESS_SECONDS
    while not said.exists():
        if time.monotonic() > end:
            raise InputError(f"{nodes[0]} did not say its address in {said} in {ADDRESS_SECONDS} s")
        time.sleep(0.2)
    return "", said.read_text(encoding="utf-8")


def address_of(interface: str) -> str:
    """Return the IPv4 address of a network interface of this host.

    Raises:
        InputError: there is no such interface, or it has no such address.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            request = struct.pack("256s", interface.encode()[:15])
            answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
        except OSError as error:
            names = ", ".join(name for _, name in socket.if_nameindex())
            raise InputError(
                f"INTERFACE={interface} has no IPv4 address here ({error.strerror}); this host has "
                f"{names}"
            ) from error
    return socket.inet_ntoa(answer[20:24])


def _torchrun(options: argparse.Namespace, number: int, nodes: int, listen: str, meet: str) -> int:
    from megaprune.launch.forks import fork_processes

    # It is for the processes that train, which save and end.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    fork_processes()
    from torch.distributed import run as torchrun

    from megaprune.launch import rendezvous

    rendezvous.register()
    name_launcher()
    words = ["--nnodes", str(nodes), "--nproc-per-node", str(options.processes)]
    words += ["--rdzv-backend", rendezvous.NAME, "--rdzv-id", options.id]
    words += ["--rdzv-endpoint", f"{meet}:{options.port}"]
    words += ["--rdzv-conf", f"node={number}" + (f",listen={listen}" if listen else "")]
    words += ["--log-dir", f"{options.logs}/{options.name}", "--redirects", "3", "--tee", "3"]
    torchrun.main([*words, "-m", "megaprune.cli", *options.command])
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m megaprune.launch.node", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--nodes", required=True, metavar="A,B,...", help="of the job")
    parser.add_argument("--name", required=True, metavar="NODENAME", help="of this node")
    parser.add_argument("--processes", type=int, required=True, metavar="N", help="of a node")
    parser.add_argument("--port", type=int, required=True, metavar="P", help="of the first node")
    parser.add_argument("--id", required=True, help="of this start; nobody else knows it")
    parser.add_argument("--shared", required=True, metavar="DIR", help="all nodes see it")
    parser.add_argument("--logs", required=True, metavar="DIR", help="for the processes' output")
    parser.add_argument("--interface", default="", metavar="NAME", help="network of the nodes")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="the arguments of megaprune")
    return parser


if __name__ == "__main__":
    sys.exit(main())
