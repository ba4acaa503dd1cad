"""Messages between the pool and its workers: JSON after its length, over a socket."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

_LENGTH_BYTES = 8


def send(channel: socket.socket, message: Any, seconds: float | None = None) -> None:
    """Send a message; raises OSError if the other end is gone, TimeoutError after `seconds`."""
    text = json.dumps(message).encode()  # ASCII, so halves of surrogate pairs pass too
    channel.settimeout(seconds)
    channel.sendall(len(text).to_bytes(_LENGTH_BYTES, "big") + text)


def receive(channel: socket.socket, seconds: float | None = None) -> Any:
    """Receive a message; raises EOFError or OSError at the end, TimeoutError after `seconds`."""
    until = None if seconds is None else time.monotonic() + seconds
    length = int.from_bytes(_bytes(channel, _LENGTH_BYTES, until), "big")
    return json.loads(_bytes(channel, length, until))


def _bytes(channel: socket.socket, count: int, until: float | None) -> bytes:
    received = bytearray()
    while len(received) < count:
        # A timeout of 0 would mean not to wait for what is already there.
        channel.settimeout(None if until is None else max(1e-3, until - time.monotonic()))
        piece = channel.recv(min(1 << 20, count - len(received)))
        if not piece:
            raise EOFError
        received += piece
    return bytes(received)
