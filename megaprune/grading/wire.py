"""Messages between the pool and its workers: JSON after its length, over a socket."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

_LENGTH_BYTES = 8
_MOST_BYTES = 1 << 30
"""Of a message: what says that it is longer is none."""


def send(channel: socket.socket, message: Any, seconds: float) -> None:
    """Send a message; raises OSError if the other end is gone, TimeoutError after `seconds`."""
    text = json.dumps(message).encode()  # ASCII, so halves of surrogate pairs pass too
    channel.settimeout(seconds)
    channel.sendall(len(text).to_bytes(_LENGTH_BYTES, "big") + text)


def receive(channel: socket.socket, seconds: float) -> Any:
    """Receive a message.

    Raises:
        EOFError, OSError: the other end is gone.
        TimeoutError: it took more than `seconds`.
        ValueError, RecursionError: what came is no message.
    """
    until = time.monotonic() + seconds
    length = int.from_bytes(_bytes(channel, _LENGTH_BYTES, until), "big")
    if length > _MOST_BYTES:
        raise ValueError(f"a message of {length} bytes; expected {_MOST_BYTES} at most")
    return json.loads(_bytes(channel, length, until))


def _bytes(channel: socket.socket, count: int, until: float) -> bytes:
    received = bytearray()
    while len(received) < count:
        if received and time.monotonic() > until:
            raise TimeoutError
        # A timeout of 0 would mean not to wait for what is already there.
        channel.settimeout(max(1e-3, until - time.monotonic()))
        piece = channel.recv(min(1 << 20, count - len(received)))
        if not piece:
            raise EOFError
        received += piece
    return bytes(received)
