"""Where the processes of a job meet: nothing of a job of one host listens to other hosts."""

from __future__ import annotations

import os
import socket
from datetime import timedelta

from torch.distributed import HashStore, PrefixStore, Store, TCPStore

LOOPBACK = "127.0.0.1"
_BACKLOG = 2048
_PREFIX = "default_pg"  # as torch has it where no store is given


def listening_store(
    address: str, port: int, timeout: timedelta, world_size: int | None = None
) -> TCPStore:
    """Serve a store on one address; torch by itself listens on all that the host has.

    Args:
        address: of this host; empty for all.
        port: 0 for one that is free (see the store's `port`).
        timeout: of an operation.
        world_size: of the processes that are waited for; None to wait for nobody.
    """
    server = socket.socket()
    try:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((address, port))
        server.listen(_BACKLOG)
        return TCPStore(
            address or LOOPBACK,
            server.getsockname()[1],
            world_size,
            is_master=True,
            timeout=timeout,
            wait_for_workers=world_size is not None,
            multi_tenant=True,
            master_listen_fd=server.detach(),
        )
    finally:
        server.close()


def job_store(timeout: timedelta) -> Store | None:
    """Return the store to make the default process group with; None to let torch choose.

    It is torchrun's where that has one, and torch's own in a job of several hosts.
    """
    world_size, address = int(os.environ["WORLD_SIZE"]), os.environ["MASTER_ADDR"]
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return None
    if world_size == 1:
        return HashStore()
    if os.environ["RANK"] != "0" or not _is_loopback(address):
        return None
    port = int(os.environ["MASTER_PORT"])
    return PrefixStore(_PREFIX, listening_store(LOOPBACK, port, timeout, world_size))


def keep_to_host() -> None:
    """Have gloo, NCCL and vLLM use the loopback network alone if the job is of one host."""
    world_size = os.environ["WORLD_SIZE"]
    alone = world_size in ("1", os.environ.get("LOCAL_WORLD_SIZE"))
    if not alone and not _is_loopback(os.environ["MASTER_ADDR"]):
        return
    os.environ["VLLM_HOST_IP"] = LOOPBACK
    name = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    if name is not None:
        # Not only a default: what a cluster sets for all jobs is for those of several hosts.
        os.environ |= {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": name}


def _is_loopback(address: str) -> bool:
    return address == "localhost" or address.startswith("127.")
