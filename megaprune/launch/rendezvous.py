"""A meeting place for torchrun that listens on one address, for nodes that are known beforehand.

torch's own (`c10d`, `static`) listen on every address of the host, and their stores know no
password.
"""

from __future__ import annotations

from datetime import timedelta

from torch.distributed import PrefixStore, Store, TCPStore
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint

from megaprune.distributed.stores import listening_store

NAME = "megaprune"
"""For torchrun's --rdzv-backend. --rdzv-conf has `node`, the number of this node, and `listen`, the
address that node 0 listens on (all if it is empty); --rdzv-endpoint is where the others find it."""

MEET_SECONDS = 600
"""How long nodes wait for each other."""


def register() -> None:
    """Let torchrun, in this process, know of it."""
    rendezvous_handler_registry.register(NAME, _create)


def _create(parameters: RendezvousParameters) -> RendezvousHandler:
    address, port = parse_rendezvous_endpoint(parameters.endpoint, default_port=0)
    node, timeout = int(parameters.get("node", 0)), timedelta(seconds=MEET_SECONDS)
    if node == 0:
        store = listening_store(parameters.get("listen", ""), port, timeout)
    else:
        store = TCPStore(address, port, is_master=False, timeout=timeout)
    return _OnOneAddress(parameters, node, address, store)


class _OnOneAddress(RendezvousHandler):
    """Nodes that are numbered, and meet once: a job whose processes fail is not begun again."""

    def __init__(self, parameters: RendezvousParameters, node: int, address: str, store: TCPStore):
        self._id, self._node, self._nodes = parameters.run_id, node, parameters.max_nodes
        self._address, self._server = address, store
        self._store: Store = PrefixStore(parameters.run_id, store)

    def get_backend(self) -> str:
        """See base class."""
        return NAME

    @property
    def use_agent_store(self) -> bool:
        """See base class: processes meet at the same store."""
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        """See base class."""
        info = RendezvousStoreInfo(self._address, self._server.port)
        return RendezvousInfo(self._store, self._node, self._nodes, info)

    def is_closed(self) -> bool:
        """See base class."""
        return False

    def set_closed(self) -> None:
        """See base class."""

    def num_nodes_waiting(self) -> int:
        """See base class."""
        return 0

    def get_run_id(self) -> str:
        """See base class."""
        return self._id

    def shutdown(self) -> bool:
        """See base class."""
        return True
