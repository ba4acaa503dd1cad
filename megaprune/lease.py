"""A lease: the file that says which process has a place, on whatever host it runs.

`flock` is the fast path, but on NFS and Lustre it may hold among the processes of one host alone.
The lease is a file made by O_CREAT | O_EXCL, which those file systems promise to be atomic; its
holder renews its time while it lives. A holder on this machine is dead if its process is; one on
another machine is dead if its lease was not renewed for `EXPIRES_SECONDS`, by the file server's own
clock.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megaprune.errors import InputError
from megaprune.files import is_gone, machine, process_record, read_json

RENEWED_SECONDS = 15.0
EXPIRES_SECONDS = 90.0
_POLL_SECONDS = 1.0
_MADE_SECONDS = 5.0
_FORMAT = "megaprune lease"
_CANNOT_LOCK = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


class Lease:
    """A place that is this process's alone, from now until `close`.

    Args:
        path: the lease's own file; its folder is there.
        place: what it is the lease of, for messages.

    Raises:
        InputError: another process has it, or the file is not a lease.
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, place: Path):
        self._path, self._place, self._token = path, place, secrets.token_hex(8)
        self._handle: int | None = None
        self._ended = threading.Event()
        self._lost = False
        while not self._create():
            self._wait_for_holder()
        self._renewer = threading.Thread(target=self._renew, daemon=True, name="lease")
        self._renewer.start()

    def check(self) -> None:
        """See that the place is still this process's.

        Raises:
            InputError: another process has taken it: this one was not heard of for too long.
        """
        if self._lost:
            raise InputError(
                f"{self._place} was taken over by another process while this one could not renew "
                f"{self._path.name} for {EXPIRES_SECONDS:g} s; run the same command again when "
                f"that one has ended"
            )

    def close(self) -> None:
        """Let other processes have it."""
        if self._handle is None:
            return
        self._ended.set()
        self._renewer.join()
        if read_json(self._path).get("token") == self._token:
            self._path.unlink(missing_ok=True)
        os.close(self._handle)
        self._handle = None

    def _create(self) -> bool:
        """Make the file; False if it is there."""
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            handle = os.open(self._path, flags, 0o644)
        except FileExistsError:
            return False
        content = {
            "format": _FORMAT, "token": self._token, "host": socket.gethostname(),
            **process_record(),
        }  # fmt: skip
        os.write(handle, json.dumps(content).encode())
        os.fsync(handle)
        _lock(handle)
        self._handle = handle
        return True

    def _wait_for_holder(self) -> None:
        """Return when the lease of a dead process is out of the way; raise if it lives."""
        first, end = None, time.monotonic() + EXPIRES_SECONDS
        while (holder := _Holder.of(self._path)) is not None:
            renewed = first is not None and holder.renewed != first.renewed
            if holder.locks or renewed or holder.is_here:
                raise InputError(
                    f"{self._place} is being written by {holder}; wait until it has ended, or end "
                    f"it"
                )
            if holder.is_gone or time.monotonic() >= end:
                return self._take_over(holder)
            if first is None:
                first = holder
                print(
                    f"megaprune: {self._place} was used by {holder}; waiting up to "
                    f"{EXPIRES_SECONDS:g} s to see whether it lives",
                    file=sys.stderr,
                    flush=True,
                )
            time.sleep(_POLL_SECONDS)

    def _take_over(self, holder: _Holder) -> None:
        # One of several that try it gets to rename; the others find it gone.
        aside = self._path.with_name(f"{self._path.name}.{self._token}")
        with suppress(FileNotFoundError):
            os.rename(self._path, aside)
            if read_json(aside).get("token") != holder.content.get("token"):
                os.link(aside, self._path)  # another process was faster, and has it now
            aside.unlink()

    def _renew(self) -> None:
        while not self._ended.wait(RENEWED_SECONDS):
            if read_json(self._path).get("token") != self._token:
                self._lost = True
                return
            with suppress(OSError):  # tried again soon; others see that it grows old
                os.utime(self._path)


def holder_of(path: Path) -> str | None:
    """Say who has the lease of a file, without taking it; None if nobody that lives has it."""
    holder = _Holder.of(path)
    return None if holder is None or holder.is_gone else str(holder)


@dataclass(frozen=True)
class _Holder:
    """What a lease's file says of its holder, and what the system says."""

    content: dict[str, Any]
    renewed: int
    locks: bool
    """It holds a lock that reaches this process: it lives."""

    @staticmethod
    def of(path: Path) -> _Holder | None:
        """Look at a file; None if it is not there."""
        handle, end = None, time.monotonic() + _MADE_SECONDS
        try:
            while True:
                handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
                content = read_json(path)
                if content or time.monotonic() > end:
                    break
                os.close(handle)  # it is being made just now
                handle = None
                time.sleep(0.05)
            if content.get("format") != _FORMAT:
                raise InputError(f"{path} is no lease of megaprune's; move it elsewhere")
            return _Holder(content, os.fstat(handle).st_mtime_ns, _lock(handle) is False)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(f"{path} is no lease of megaprune's: {error.strerror}") from error
        finally:
            if handle is not None:
                os.close(handle)

    def __str__(self) -> str:
        return f"process {self.content.get('pid')} of {self.content.get('host')}"

    @property
    def is_gone(self) -> bool:
        """It was of this machine, and has ended."""
        return not self.locks and is_gone(self.content)

    @property
    def is_here(self) -> bool:
        """It is of this machine, and lives."""
        return self.content.get("machine") == machine() and not is_gone(self.content)


def _lock(handle: int) -> bool | None:
    """Lock a file among the processes that flock reaches; None where it cannot be locked."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _CANNOT_LOCK:
            raise
        return None
    return True
