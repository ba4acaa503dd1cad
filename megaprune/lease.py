"""A lease: the file that says which process has a place, on whatever host it runs.

`flock` is the fast path, but on NFS and Lustre it may hold among the processes of one host alone.
So the lease is a file that appears whole or not at all, by a hard link, which those file systems
promise to be atomic; its holder renews its time while it lives. A holder on this machine is dead if
its process is; one on another machine is dead if its lease was not renewed for `EXPIRES_SECONDS`,
as this process measures them.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megaprune.errors import InputError
from megaprune.files import LEASE_ENDING, is_gone, machine, process_record, read_json

RENEWED_SECONDS = 15.0
EXPIRES_SECONDS = 90.0
_POLL_SECONDS = 1.0
_MADE_SECONDS = 5.0
_SETTLE_SECONDS = 1.0
"""Until then all who saw a dead lease at the same moment have done what they were about to do."""
_FORMAT = "megaprune lease"
_CANNOT_LOCK = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
_CANNOT_LINK = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


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
        self._pid = os.getpid()
        self._ended = threading.Event()
        self._closing = threading.Lock()
        self._lost = False
        self._handle: int | None = self._take()
        self._remove_left()
        _held.add(self)
        self._renewer = threading.Thread(target=self._renew, daemon=True, name="lease")
        self._renewer.start()

    def check(self) -> None:
        """See that the place is still this process's.

        Raises:
            InputError: another process has taken it: this one was not heard of for too long.
        """
        if self._lost:
            raise InputError(
                f"{self._place} was taken over by another process, or {self._path.name} was "
                f"removed: this process could not renew it for {EXPIRES_SECONDS:g} s; run the same "
                f"command again when no other is at that place"
            )

    def close(self) -> None:
        """Let other processes have it. Any thread may call it, and more than once."""
        if self._pid != os.getpid():  # a fork has no say in it
            return
        with self._closing:
            if self._handle is None:
                return
            _held.discard(self)
            self._ended.set()
            self._renewer.join()
            if read_json(self._path).get("token") == self._token:
                self._path.unlink(missing_ok=True)
            handle, self._handle = self._handle, None
            os.close(handle)

    def _take(self) -> int:
        """Have the lease, or raise; returns the file's handle."""
        with self._made() as (made, handle):
            first, end = None, time.monotonic() + EXPIRES_SECONDS
            while not _link(made, self._path):
                holder = _Holder.of(self._path)
                if holder is None:
                    continue
                if holder.lives or (first is not None and holder.renewed != first.renewed):
                    raise self._refusal(holder)
                if holder.is_gone or time.monotonic() >= end:
                    if self._replace(holder, made):
                        break
                elif first is None:
                    first = holder
                    self._say_that_it_waits(holder)
                time.sleep(_POLL_SECONDS if first is not None else 0.05)
        return handle

    @contextmanager
    def _made(self) -> Iterator[tuple[Path, int]]:
        """Make the lease beside its place; its path and its handle, which is closed if it fails."""
        made = self._path.with_name(f"{self._path.name}.{self._token}")
        content = {
            "format": _FORMAT, "token": self._token, "host": socket.gethostname(),
            **process_record(),
        }  # fmt: skip
        handle = os.open(made, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        try:
            os.write(handle, json.dumps(content).encode())
            os.fsync(handle)
            _lock(handle, fcntl.LOCK_EX)
            yield made, handle
        except BaseException:
            os.close(handle)
            raise
        finally:
            made.unlink(missing_ok=True)

    def _replace(self, holder: _Holder, made: Path) -> bool:
        """Put this process's lease in place of a dead one; False if that one is gone already.

        Raises:
            InputError: another process did the same, and was the last to do it.
        """
        with suppress(FileNotFoundError):
            old = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW)
            try:
                # Of those that its lock reaches only one gets past this, and it dies with it.
                if _lock(old, fcntl.LOCK_EX) is False or _content(old) != holder.content:
                    return False
                if not os.path.samestat(os.fstat(old), self._path.lstat()):
                    return False
                os.rename(made, self._path)
            finally:
                os.close(old)
            time.sleep(_SETTLE_SECONDS)
            now = _Holder.of(self._path)
            if now is not None and now.content.get("token") != self._token:
                raise self._refusal(now)
            return now is not None
        return False

    def _refusal(self, holder: _Holder) -> InputError:
        return InputError(
            f"{self._place} is being written by {holder}; wait until it has ended, or end it"
        )

    def _say_that_it_waits(self, holder: _Holder) -> None:
        print(
            f"megaprune: {self._place} was used by {holder}; waiting up to {EXPIRES_SECONDS:g} s "
            f"to see whether it lives",
            file=sys.stderr,
            flush=True,
        )

    def _remove_left(self) -> None:
        """Remove what processes of this machine left beside it that were killed as they tried."""
        for path in self._path.parent.glob(f"{self._path.name}.*"):
            content = read_json(path)
            if content.get("format") == _FORMAT and is_gone(content):
                path.unlink(missing_ok=True)

    def _renew(self) -> None:
        while not self._ended.wait(RENEWED_SECONDS):
            assert self._handle is not None  # `close` waits for this thread
            try:
                with _opened(self._path) as handle:
                    token = _content(handle).get("token")
                if token == self._token:
                    os.utime(self._handle)
            except FileNotFoundError:
                token = None
            except OSError:
                continue  # tried again soon; others see that it grows old
            if token != self._token:
                self._lost = True
                return


_held: set[Lease] = set()


def release_all() -> None:
    """Give back all leases of this process, which is about to end."""
    for lease in [*_held]:
        lease.close()


atexit.register(release_all)


def holder_of(path: Path) -> str | None:
    """Say who has the lease of a file, without taking it; None if nobody is known to have it.

    Of a process of another machine, whose lock is not seen here, only `Lease` finds out.
    """
    holder = _Holder.of(path)
    return str(holder) if holder is not None and holder.lives else None


def remove_dead_leases(folder: Path) -> None:
    """Remove leases below a folder, of places in it, whose holders were killed on this machine.

    They would stay where the place is not written to again. One that is taken just now is left.
    """
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            target = name.removesuffix(LEASE_ENDING)
            if not target or target == name or not is_gone(content := read_json(path)):
                continue
            if content.get("format") == _FORMAT:
                with suppress(InputError):
                    Lease(path, path.with_name(target[1:])).close()


@dataclass(frozen=True)
class _Holder:
    """What a lease's file says of its holder, and what the system says."""

    content: dict[str, Any]
    renewed: int
    locks: bool
    """A process that the lock reaches has it."""

    @staticmethod
    def of(path: Path) -> _Holder | None:
        """Look at a file; None if it is not there."""
        start = time.monotonic()
        try:
            while True:
                with _opened(path) as handle:
                    content = _content(handle)
                    # Shared: looking is no hindrance for others that look.
                    locks = _lock(handle, fcntl.LOCK_SH) is False
                    status = os.fstat(handle)
                if not status.st_size or (locks and is_gone(content)):
                    # It is being made just now, or another process replaces a dead one.
                    limit = _MADE_SECONDS
                elif locks and content.get("machine") != machine():
                    # It is replaced just now too, or its holder's lock reaches this machine.
                    limit = _SETTLE_SECONDS
                else:
                    break
                if time.monotonic() - start > limit:
                    break
                time.sleep(0.05)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(
                f"{path} is no lease of megaprune's: {error.strerror}; move it elsewhere"
            ) from error
        if content.get("format") != _FORMAT or not isinstance(content.get("token"), str):
            raise InputError(f"{path} is no lease of megaprune's; move it elsewhere")
        return _Holder(content, status.st_mtime_ns, locks)

    def __str__(self) -> str:
        return f"process {self.content.get('pid')} of {self.content.get('host')}"

    @property
    def lives(self) -> bool:
        """It has a lock that reaches this process, or is of this machine and has not ended."""
        return self.locks or (self.content.get("machine") == machine() and not self.is_gone)

    @property
    def is_gone(self) -> bool:
        """It was of this machine, and has ended."""
        return not self.locks and is_gone(self.content)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        yield handle
    finally:
        os.close(handle)


def _content(handle: int) -> dict[str, Any]:
    """Return what an open lease says; empty if it is not one."""
    try:
        content = json.loads(os.pread(handle, 1 << 16, 0))
    except (ValueError, RecursionError):
        return {}
    except OSError as error:
        if error.errno not in (errno.ESPIPE, errno.EISDIR):  # no ordinary file
            raise
        return {}
    return content if isinstance(content, dict) else {}


def _link(made: Path, path: Path) -> bool:
    """Give a file its place; False if something is there."""
    try:
        try:
            os.link(made, path, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                raise
            # There are no hard links: a kill between these two leaves an empty file.
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644))
            os.rename(made, path)
    except FileExistsError:
        return False
    return True


def _lock(handle: int, how: int) -> bool | None:
    """Lock a file among the processes that flock reaches; None where it cannot be locked."""
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _CANNOT_LOCK:
            raise
        return None
    return True
