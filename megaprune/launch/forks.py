"""Processes that torchrun forks from this one: what is imported here, they have.

Importing both engines takes most of a short job's CPU time. On a CPU it is done once for all
processes of a host. CUDA cannot be used behind a fork: where there is a GPU, torchrun starts Python
anew for each process.
"""

from __future__ import annotations

import atexit
import gc
import importlib.util
import os
import runpy
import signal
import stat
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, Any, NoReturn, TextIO

from megaprune.distributed.process import importing, name_process, prepare_process

_MODULE = "megaprune.cli"
_POLL_SECONDS = 0.02


def fork_processes() -> None:
    """Have torchrun, in this process, fork those that run `megaprune`, if that can be."""
    prepare_process()  # before torch is imported
    import torch

    # A thread that holds a lock would leave it locked in what is forked.
    if torch.cuda.is_available() or sys.platform != "linux" or threading.active_count() > 1:
        return
    from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler

    with importing():
        import megaprune.trainer.loop  # noqa: F401 (so that it is there)

        if importlib.util.find_spec("vllm") is not None:
            from megaprune.generation.process import import_engine

            import_engine()
    gc.collect()
    gc.freeze()  # pages that the collector does not write to are shared
    start_anew = SubprocessHandler._popen

    def start(self: Any, arguments: Sequence[str], variables: Mapping[str, str]) -> Any:
        words = [*arguments]
        if _MODULE not in words:
            return start_anew(self, arguments, variables)
        command = words[words.index(_MODULE) + 1 :]
        return _Forked(command, variables, self._stdout, self._stderr)

    SubprocessHandler._popen = start


class _Forked:
    """A process that was forked, with as much of `subprocess.Popen` as torchrun uses.

    Args:
        command: the arguments of megaprune that it runs.
        variables: its environment.
        stdout: what it writes to; None for what this process writes to.
        stderr: the same, for errors.
    """

    def __init__(
        self,
        command: Sequence[str],
        variables: Mapping[str, str],
        stdout: IO[str] | None,
        stderr: IO[str] | None,
    ):
        self.returncode: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            _become(command, variables, stdout, stderr)

    def poll(self) -> int | None:
        """Return the exit status, or minus the signal; None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; return what `poll` does.

        Raises:
            subprocess.TimeoutExpired: it has not ended within so many seconds.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if end is not None and time.monotonic() > end:
                assert timeout is not None
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            time.sleep(_POLL_SECONDS)
        return code


def _become(
    command: Sequence[str],
    variables: Mapping[str, str],
    stdout: IO[str] | None,
    stderr: IO[str] | None,
) -> NoReturn:
    """Be what Python, started anew, would have been; end with the command."""
    status = 1
    try:
        os.setsid()
        for stream, file in ((1, stdout), (2, stderr)):
            if file is not None:
                os.dup2(file.fileno(), stream)
        _close_sockets()
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # Whatever has taken their place in the launcher is the launcher's.
        sys.stdout, sys.stderr = (_stream(number) for number in (1, 2))
        os.environ.clear()
        os.environ.update(variables)
        sys.argv[1:] = command
        name_process()
        status = _run()
    except BaseException:  # noqa: BLE001 (as the interpreter does)
        traceback.print_exc()
    finally:
        with suppress(OSError):  # nobody reads it
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _stream(number: int) -> TextIO:
    return open(number, "w", buffering=1, errors="backslashreplace", closefd=False)


def _run() -> int:
    # runpy warns of it: a launcher that is the script `megaprune` has imported it.
    sys.modules.pop(f"{_MODULE}.__main__", None)
    try:
        runpy.run_module(_MODULE, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        print(ended.code, file=sys.stderr)
        return 1
    finally:
        threading._shutdown()  # type: ignore[attr-defined]  # it waits for threads
        atexit._run_exitfuncs()
    return 0


def _close_sockets() -> None:
    """Leave the launcher's store to it alone: whoever is connected is to see that it has gone."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if int(name) > 2 and stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                os.close(int(name))
